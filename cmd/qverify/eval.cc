#include "cmd/qverify/eval.h"

#include <algorithm>
#include <iostream>

#include "cmd/qverify/read_tokens.h"
#include "lib/arch/config.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/eval/choices.h"
#include "lib/eval/generate.h"
#include "lib/eval/statistics.h"

namespace qp {
namespace {

constexpr uint64_t kMaxReport = uint64_t{1} << 30;
constexpr size_t kSeqlen = 2048, kLlamaSeqlen = 512;  // what published figures use

std::optional<Tokenizer> tokenizer_of(const Store& store) {
  const Companion* json = store.model().companion("tokenizer.json");
  if (json == nullptr) return std::nullopt;
  const Companion* config = store.model().companion("tokenizer_config.json");
  return Tokenizer(store.text(json->extent), config == nullptr ? "" : store.text(config->extent));
}

// The checkpoint's tokenizer, or the base's.
Tokenizer need_tokenizer(const Store& store, const Store* base, const char* instead) {
  std::optional<Tokenizer> t = tokenizer_of(store);
  if (!t && base != nullptr) t = tokenizer_of(*base);
  if (t) return std::move(*t);
  throw input_error("has no tokenizer.json, so text cannot be read").file(store.label()).hint(instead);
}

// The longest window a model is made for; 0: not known.
size_t context_of(const RunnableModel& model) {
  arch::ModelConfig config(model.store().model().config);
  for (const char* key : {"max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"}) {
    if (config.has(key)) {
      size_t n = config.count(key, 0);
      return model.arch().context > 0 ? std::min(n, model.arch().context) : n;
    }
  }
  return model.arch().context;
}

// Tokens that end a text: what generation_config.json or config.json says, or the tokenizer.
std::vector<int32_t> stop_tokens(const Store& store, const Tokenizer& tokenizer) {
  std::vector<Json> places;
  if (const Companion* c = store.model().companion("generation_config.json")) {
    places.push_back(parse_json(store.text(c->extent), c->name));
  }
  places.push_back(store.model().config);
  for (const Json& place : places) {
    if (!place.is_object() || !place.contains("eos_token_id")) continue;
    const Json& eos = place["eos_token_id"];
    std::vector<int32_t> ids;
    for (const Json& id : eos.is_array() ? eos : Json::array({eos})) {
      if (id.is_number_integer()) ids.push_back(id.get<int32_t>());
    }
    if (!ids.empty()) return ids;
  }
  if (auto id = tokenizer.eos_id()) return {*id};
  return {};
}

}  // namespace

void EvalCommand::declare(CLI::App& app) {
  auto group = "Evaluation";
  app.add_option("--eval", texts_, "Run the model on this text: perplexity, and with a base KL divergence; '-': standard input; repeatable")
      ->type_name("TEXT")->group(group);
  app.add_option("--field", field_, "The member of JSON lines that holds the text (default: text)")->type_name("NAME")->group(group);
  app.add_option("--tokens", tokens_, "Token ids instead of a text: .npy, .json, .jsonl, or raw int32")->type_name("FILE")->group(group);
  app.add_option("--ppl", kind_, "Whose definition of perplexity")->check(CLI::IsMember({"hf", "llama.cpp"}))
      ->type_name("KIND")->capture_default_str()->group(group);
  app.add_option("--seqlen", seqlen_, "Tokens per window (default: the context, 2048 at most; llama.cpp: 512)")->type_name("N")->group(group);
  app.add_option("--stride", stride_, "Tokens from window to window, those before being context only (default: seqlen)")->type_name("N")->group(group);
  app.add_option("-n,--windows", windows_, "Windows at most (default: all)")->type_name("N")->group(group);
  app.add_option("--compute", compute_, "Precision of matrix products")->check(CLI::IsMember({"bf16", "f32"}))
      ->type_name("TYPE")->capture_default_str()->group(group);
  app.add_flag("--no-act-quant", no_act_quant_, "Leave activations as they are, whatever the scheme says")->group(group);
  app.add_option("--max-kl", bounds_.max_kl, "Fail on a larger mean KL divergence from the base, in nats")->type_name("X")->group(group);
  app.add_option("--max-ppl-increase", bounds_.max_ppl_increase, "Fail on a perplexity this much above the base's, in percent")
      ->type_name("PERCENT")->group(group);
  app.add_option("--min-top1", bounds_.min_top1, "Fail when a smaller share (0..1) of first choices is the base's")->type_name("X")->group(group);
  app.add_option("--baseline", baseline_, "Fail when perplexity or KL is worse than in this earlier JSON report")->type_name("OLD.json")->group(group);
  app.add_option("--tolerance", tolerance_, "Percent by which it may be worse")->check(CLI::NonNegativeNumber)
      ->type_name("PERCENT")->capture_default_str()->group(group);
  app.add_option("--choices", choices_, R"(Multiple choice by likelihood: {"context": .., "choices": [..], "answer": 0} a line)")
      ->type_name("FILE.jsonl")->group(group);
  auto text = "Generation";
  app.add_option("--generate", prompt_, "Only continue this text, on standard output")->type_name("PROMPT")->group(text);
  app.add_option("--max-new-tokens", max_new_tokens_, "Tokens at most")->type_name("N")->capture_default_str()->group(text);
  app.add_option("--temperature", temperature_, "Draw tokens at this temperature; 0: take the likeliest")
      ->check(CLI::NonNegativeNumber)->type_name("T")->capture_default_str()->group(text);
  app.add_option("--top-p", top_p_, "Draw among the likeliest that reach this probability")->check(CLI::Range(0.0, 1.0))
      ->type_name("P")->capture_default_str()->group(text);
  app.add_option("--seed", seed_, "Of the draws, and of the rows of --sample")->type_name("N")->capture_default_str()->group(text);
}

void EvalCommand::check_arguments(bool has_base, bool stdin_taken) const {
  bool windows = !texts_.empty() || !tokens_.empty();
  if (!texts_.empty() && !tokens_.empty()) throw usage_error("both --eval and --tokens").hint("give one of them");
  auto dashes = static_cast<size_t>(std::ranges::count(texts_, "-"));
  for (bool dash : {tokens_ == "-", choices_ == "-", stdin_taken}) dashes += dash ? 1u : 0u;
  if (dashes > 1) throw usage_error("standard input can be read once").hint("name a file, or a qmap for the checkpoint");
  if (bounds_.any() && !(windows && has_base)) {
    throw usage_error("--max-kl, --max-ppl-increase and --min-top1 need a text and a base").hint("give --eval TEXT --against BASE");
  }
  if (!baseline_.empty() && !windows) throw usage_error("--baseline needs a text").hint("give --eval TEXT");
  if (kind_ == "llama.cpp" && stride_ > 0) throw usage_error("--stride has no meaning with --ppl llama.cpp");
  if (generates() && (evaluates() || has_base)) {
    throw usage_error("--generate stands alone").hint("run qverify again for --eval, --choices and --against");
  }
}

gemm::Precision EvalCommand::precision() const {
  return compute_ == "f32" ? gemm::Precision::f32 : gemm::Precision::bf16;
}

std::vector<int32_t> EvalCommand::read_tokens(const Tokenizer* tokenizer, const Tokenizer* base) const {
  if (!tokens_.empty()) return read_token_file(tokens_);
  std::string text = read_texts(texts_, field_);
  std::vector<int32_t> ids = tokenizer->encode(text, true);
  if (base != nullptr && base->encode(text, true) != ids) {
    throw usage_error("the tokenizers of checkpoint and base read the text differently")
        .hint("give the base that the checkpoint was made from");
  }
  return ids;
}

CutOptions EvalCommand::window_options(const RunnableModel& model, const Tokenizer* tokenizer) const {
  CutOptions o;
  bool llama = kind_ == "llama.cpp";
  size_t context = context_of(model), usual = llama ? kLlamaSeqlen : kSeqlen;
  o.kind = llama ? PerplexityKind::llama_cpp : PerplexityKind::hugging_face;
  o.length = seqlen_ > 0 ? seqlen_ : context > 0 ? std::min(context, usual) : usual;
  o.stride = stride_;
  o.count = windows_;
  if (tokenizer != nullptr && !tokenizer->prefix().empty()) o.bos = tokenizer->prefix()[0];
  if (context > 0 && o.length > context) {
    throw usage_error("windows of " + std::to_string(o.length) + " tokens are longer than the model's context of " +
                      std::to_string(context))
        .hint("use a smaller --seqlen");
  }
  return o;
}

EvalResult EvalCommand::evaluate(const Store& store, const Store* base_store, Tool& tool) {
  RunnableModel model(store, precision(), !no_act_quant_);
  std::unique_ptr<RunnableModel> base;
  if (base_store != nullptr) base = std::make_unique<RunnableModel>(*base_store, precision(), !no_act_quant_);
  MeasureOptions options{precision(), tool.max_memory()};
  EvalResult result;
  result.compute = compute_;
  if (model.hook() != nullptr) result.activations = model.activations().simulated();
  if (!no_act_quant_) result.not_simulated = model.activations().not_simulated();
  for (const std::string& why : result.not_simulated) tool.warn("not simulated: " + why);
  std::optional<Tokenizer> tokenizer, base_tokenizer;
  if (tokens_.empty() || !choices_.empty()) {
    tokenizer = need_tokenizer(store, base_store, "give --tokens FILE with ids from elsewhere");
    if (base_store != nullptr) base_tokenizer = tokenizer_of(*base_store);
  } else {
    tokenizer = tokenizer_of(store);
  }
  if (!texts_.empty() || !tokens_.empty()) {
    std::vector<int32_t> ids = read_tokens(tokenizer ? &*tokenizer : nullptr, base_tokenizer ? &*base_tokenizer : nullptr);
    CutOptions windows = window_options(model, tokenizer ? &*tokenizer : nullptr);
    for (const std::string& path : texts_) result.text += (result.text.empty() ? "" : ", ") + path;
    if (!tokens_.empty()) result.text = tokens_;
    result.definition = name_of(windows.kind);
    result.seqlen = windows.length;
    result.stride = windows.stride == 0 ? windows.length : windows.stride;
    TextWindows text = cut_windows(ids, windows);
    measure_perplexity(model, base.get(), text, options, tool.progress(), result);
  }
  if (!choices_.empty()) evaluate_choices(model, base.get(), *tokenizer, options, tool, result);
  return result;
}

void EvalCommand::evaluate_choices(RunnableModel& model, RunnableModel* base, const Tokenizer& tokenizer,
                                   const MeasureOptions& options, Tool& tool, EvalResult& result) const {
  std::vector<ChoiceItem> items = read_choices(read_whole(choices_), choices_);
  int32_t bos = tokenizer.prefix().empty() ? -1 : tokenizer.prefix()[0];
  int32_t stand_in = tokenizer.bos_id().value_or(tokenizer.eos_id().value_or(-1));
  size_t context = context_of(model);
  auto encode = [&](const std::string& text) { return tokenizer.encode(text, false); };
  ChoiceTokens tokens = cut_choices(items, encode, bos, stand_in, context > 0 ? context : kSeqlen);
  Measured m = measure(model, base, tokens.windows, tokens.scored, options, tool.progress());
  std::vector<ChoiceScore> base_scores;
  if (base != nullptr) base_scores = score_choices(items, tokens, m.scores.base.nll);
  result.choices = summarize(score_choices(items, tokens, m.scores.model.nll), std::move(base_scores));
  result.choices->file = choices_;
}

std::vector<Finding> EvalCommand::check_baseline(const EvalResult& result) const {
  if (baseline_.empty()) return {};
  Json old = parse_json(read_text_file(baseline_, kMaxReport), baseline_);
  return compare_with_baseline(old, baseline_, result, tolerance_);
}

void EvalCommand::generate(const Store& store, Tool& tool) {
  RunnableModel model(store, precision(), !no_act_quant_);
  for (const std::string& why : model.activations().not_simulated()) tool.warn("not simulated: " + why);
  Tokenizer tokenizer = need_tokenizer(store, nullptr, "copy it from the base");
  std::vector<int32_t> ids = tokenizer.encode(prompt_, true);
  ids.resize(ids.size() - tokenizer.suffix().size());
  GenerateOptions options{precision(), tool.max_memory(), max_new_tokens_, temperature_, top_p_, seed_,
                          stop_tokens(store, tokenizer)};
  // What the new tokens add to the prompt's text; a character may take several.
  std::vector<int32_t> all = ids;
  size_t shown = tokenizer.decode(ids, true).size();
  std::string written;
  auto show = [&](bool last) {
    std::string text = tokenizer.decode(all, true);
    if (!last && text.ends_with("\xef\xbf\xbd")) return;
    if (text.size() <= shown) return;
    written += text.substr(shown);
    if (!tool.options.json) std::cout << text.substr(shown) << std::flush;
    shown = text.size();
  };
  std::vector<int32_t> added = qp::generate(model, ids, options, [&](int32_t token) {
    all.push_back(token);
    show(false);
    return true;
  });
  show(true);
  if (!tool.options.json) {
    std::cout << "\n";
    return;
  }
  Json out = {{"prompt", prompt_}, {"continuation", written}, {"prompt_ids", ids}, {"ids", added}};
  std::cout << out.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
}

}  // namespace qp
