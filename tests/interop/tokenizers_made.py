"""Tokenizers of every family and component, trained here on a small text."""

import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, \
    pre_tokenizers, processors, trainers

TEXT = ["The quick brown fox jumps over the lazy dog; it's 3.14159 times, they're sure we'll see.",
        "naïve café ŞİŞLİ Ω≈ç√ 日本語のテキスト 中文 한국어 العربية हिन्दी ไทย русский язык 👍🏽👨‍👩‍👧 ①②",
        "def f(x):\n    return x ** 2  # squares\n\n\tfor i in range(10): print(f(i))",
        "aaa bbb aab abb hello world Hello World HELLO WORLD helloworld café"] * 20
ALPHABET = pre_tokenizers.ByteLevel.alphabet()
P, N, D = pre_tokenizers, normalizers, decoders

EXPRESSIONS = {
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
              r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "gpt4o": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
             r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
             r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
             r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "kimi": r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
            r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "cl100k": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}+"
              r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s*[\r\n]|\s+(?!\S)|\s+$|\s+",
    "deepseek3": r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
                 r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+"
                 r"|\s+(?!\S)|\s+",
    "bloom": r" ?[^(\s|[.,!?…。，、।۔،])]+",
    "classes": r"[\w&&[^\d_]]+|[[a-c][x-z]]|[^\W\d]|\h{2}|\H|[^\S\n]+|\p{^L}",
    "names": r"[[:punct:]]+|\P{L}{2}|[[:digit:]]+|\p{Letter}|\u00e9|\p{Punct}|(?m:.)",
    "anchors": r"^\s+|\s+$|\A.|.\z|\bx|a{,3}|e{2}+|o{1}?n",
}


def bpe(normalizer=None, pre=None, decoder=None, post=None, model=(), trainer=(), added=(),
        edit=None):
    t = Tokenizer(models.BPE(**dict(model)))
    if normalizer:
        t.normalizer = normalizer
    if pre:
        t.pre_tokenizer = pre
    t.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=900, show_progress=False,
                                                    **dict(trainer)))
    if decoder:
        t.decoder = decoder
    if post:
        t.post_processor = post
    t.add_tokens(list(added))
    if edit:
        content = json.loads(t.to_str())
        edit(content)
        t = Tokenizer.from_str(json.dumps(content))
    return t


def byte_bpe(pre, **more):
    """Byte-level, its words cut by `pre`."""
    return bpe(pre=P.Sequence([*pre, P.ByteLevel(add_prefix_space=False, use_regex=False)]),
               decoder=D.ByteLevel(), trainer={"initial_alphabet": ALPHABET}, **more)


def add_byte_tokens(content):
    vocab = content["model"]["vocab"]
    first = max(vocab.values()) + 1
    for byte in range(256):
        vocab.setdefault(f"<0x{byte:02X}>", first + byte)


def add_whole_words(content):
    vocab = content["model"]["vocab"]
    for word in ("Ġhelloworld", "xyzzy"):
        vocab[word] = max(vocab.values()) + 1


def unigram(normalizer, pre, decoder, bytes_=False, post=None):
    t = Tokenizer(models.Unigram())
    if normalizer:
        t.normalizer = normalizer
    t.pre_tokenizer = pre
    special = ["<unk>", "<s>", "</s>"]
    special += [f"<0x{b:02X}>" for b in range(256)] if bytes_ else []
    t.train_from_iterator(TEXT, trainers.UnigramTrainer(
        vocab_size=600, special_tokens=special, unk_token="<unk>", show_progress=False))
    t.decoder = decoder
    if post:
        t.post_processor = post
    if bytes_:
        content = json.loads(t.to_str())
        content["model"]["byte_fallback"] = True
        content["added_tokens"] = content["added_tokens"][:3]
        t = Tokenizer.from_str(json.dumps(content))
    return t


def word_piece(normalizer, pre, **decoder):
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer, t.pre_tokenizer = normalizer, pre
    t.train_from_iterator(TEXT, trainers.WordPieceTrainer(
        vocab_size=700, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False))
    t.decoder = D.WordPiece(**decoder)
    t.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return t


def word_level():
    t = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    t.pre_tokenizer = P.Sequence([P.CharDelimiterSplit("e"), P.FixedLength(3)])
    t.train_from_iterator(TEXT, trainers.WordLevelTrainer(special_tokens=["[UNK]"],
                                                          show_progress=False))
    return t


ADDED = [AddedToken("<special>", special=True, normalized=False, lstrip=True, rstrip=True),
         AddedToken("word", single_word=True, normalized=False),
         AddedToken("Café", normalized=True), AddedToken("\n\n", normalized=False),
         AddedToken("  ", normalized=False), AddedToken("<|x|>", special=True, normalized=False),
         AddedToken("<|x|>y", normalized=True, lstrip=True),
         AddedToken("ab", normalized=True, single_word=True, rstrip=True)]
TEMPLATE = processors.TemplateProcessing(single="<s> $A </s>", pair="$A $B",
                                         special_tokens=[("<s>", 1), ("</s>", 2)])
UNK = {"unk_token": "<unk>"}


def make():
    """{name: a function that makes it}"""
    out = {
        "unigram": lambda: unigram(N.NFKC(), P.Metaspace(), D.Metaspace(), post=TEMPLATE),
        "unigram-bytes": lambda: unigram(
            N.Sequence([N.Nmt(), N.NFKC(), N.Replace(Regex(" {2,}"), " ")]),
            P.Sequence([P.WhitespaceSplit(), P.Metaspace()]),
            D.Sequence([D.ByteFallback(), D.Metaspace()]), bytes_=True),
        "unigram-first": lambda: unigram(
            None, P.Sequence([P.Digits(True), P.Metaspace(prepend_scheme="first", split=False)]),
            D.Metaspace(prepend_scheme="first")),
        "unigram-never": lambda: unigram(N.Strip(), P.Metaspace(prepend_scheme="never"),
                                         D.Metaspace(prepend_scheme="never")),
        "bert": lambda: word_piece(N.BertNormalizer(), P.BertPreTokenizer()),
        "bert-cased": lambda: word_piece(N.BertNormalizer(lowercase=False, strip_accents=False),
                                         P.Whitespace(), cleanup=False),
        "bert-marks": lambda: word_piece(
            N.Sequence([N.NFKD(), N.Lowercase(), N.StripAccents()]),
            P.Sequence([P.WhitespaceSplit(), P.Punctuation("merged_with_next"), P.Digits(False)])),
        "word-level": word_level,
        "roberta": lambda: bpe(N.NFC(), P.ByteLevel(add_prefix_space=True), D.ByteLevel(),
                               processors.RobertaProcessing(("</s>", 1), ("<s>", 0)),
                               trainer={"initial_alphabet": ALPHABET,
                                        "special_tokens": ["<s>", "</s>"]}),
        "llama2": lambda: bpe(
            N.Sequence([N.Prepend("▁"), N.Replace(" ", "▁")]),
            decoder=D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse(),
                                D.Strip(" ", 1, 0)]),
            model={**UNK, "fuse_unk": True, "byte_fallback": True},
            trainer={"special_tokens": ["<unk>", "<s>", "</s>"], "max_token_length": 8},
            edit=add_byte_tokens),
        "unknown": lambda: bpe(N.Replace(" ", "▁"), P.Metaspace(prepend_scheme="first"),
                               D.Metaspace(), model=UNK,
                               trainer={"special_tokens": ["<unk>"], "limit_alphabet": 40}),
        "unknown-fused": lambda: bpe(pre=P.Metaspace(), decoder=D.Metaspace(),
                                     model={**UNK, "fuse_unk": True},
                                     trainer={"special_tokens": ["<unk>"], "limit_alphabet": 40}),
        "suffix": lambda: bpe(pre=P.WhitespaceSplit(), decoder=D.BPEDecoder("</w>"),
                              model={"end_of_word_suffix": "</w>"},
                              trainer={"limit_alphabet": 60, "end_of_word_suffix": "</w>"}),
        "prefix": lambda: bpe(N.Lowercase(), P.BertPreTokenizer(), D.WordPiece(),
                              model={"unk_token": "[UNK]", "continuing_subword_prefix": "##"},
                              trainer={"special_tokens": ["[UNK]"],
                                       "continuing_subword_prefix": "##"}),
        "ignore-merges": lambda: byte_bpe([P.Split(Regex(EXPRESSIONS["llama3"]), "isolated")],
                                          model={"ignore_merges": True}, edit=add_whole_words),
        "added": lambda: bpe(N.Sequence([N.NFD(), N.Lowercase()]),
                             P.ByteLevel(add_prefix_space=False), D.ByteLevel(),
                             trainer={"initial_alphabet": ALPHABET}, added=ADDED),
        "byte-normalizer": lambda: bpe(N.ByteLevel(), P.Split(Regex("Ġ?[a-z]+|."), "isolated"),
                                       D.ByteLevel(), trainer={"initial_alphabet": ALPHABET}),
    }
    for name, expression in EXPRESSIONS.items():
        out[f"regex-{name}"] = lambda e=expression: byte_bpe([P.Split(Regex(e), "isolated")])
    for how in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"):
        for invert in (False, True):
            out[f"split-{how}-{invert}"] = lambda h=how, i=invert: byte_bpe(
                [P.Split(Regex(r"[aeiou]|\s|x*|é"), h, i)])
        out[f"split-string-{how}"] = lambda h=how: byte_bpe([P.Split(" ", h), P.Punctuation(h)])
    return out
