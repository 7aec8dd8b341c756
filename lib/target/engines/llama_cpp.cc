// llama.cpp: a GGUF file. Its tensors and metadata are held against the loader's tables by
// formats/verify/gguf*; here is what those findings mean.
#include "lib/target/engine.h"

namespace qp::target {
namespace {

using E = Effect;
constexpr const char* kFile = "ggml/src/gguf.cpp (reference: gguf 1.2, 1.3)";
constexpr const char* kLoader = "src/llama-model-loader.cpp (reference: gguf 14)";
constexpr const char* kModel = "src/llama-model.cpp, src/models (reference: gguf 9)";
constexpr const char* kArch = "src/llama-arch.cpp (reference: gguf 9)";
constexpr const char* kVocab = "src/llama-vocab.cpp (reference: gguf 10)";

constexpr Rule kRules[] = {
    {"no-gguf", E::refuses, "reads GGUF files, nothing else", kFile, "qexport -f gguf",
     "failed to load model from"},
    {"load", E::refuses, "parses the header", kFile, "download it again",
     "failed to load model from"},
    {"data-bounds", E::refuses, "looks whether each tensor lies in the file", kLoader,
     "download it again", "tensor '{}' data is not within the file bounds"},
    {"unknown-architecture", E::refuses, "knows architectures by name", kArch,
     "a newer version may know it", "model architecture: '{}'"},
    {"projector", E::refuses, "takes a vision tower beside a model only", kModel, "--mmproj",
     "CLIP cannot be used as main model"},
    {"architecture", E::notes, "what it asks of this architecture is not known here", kModel,
     "run it"},
    {"missing-key", E::refuses, "asks for the key", kModel, "convert it again",
     "key not found in model: {}"},
    {"default-key", E::lies, "takes a default for the key", kVocab, "convert it again"},
    {"key-type", E::refuses, "insists on the type of a key", kLoader, "convert it again",
     "key {} has wrong type"},
    {"element-type", E::refuses, "insists on the type of a list's elements", kLoader,
     "convert it again", "{} has wrong array element type"},
    {"list-type", E::refuses, "insists on the types of the vocabulary's lists", kVocab,
     "convert the tokenizer again", "invalid gguf type for {}"},
    {"unread-key", E::warns, "does not read the key", kLoader, "write it with its type"},
    {"key-value", E::refuses, "checks values of keys", kModel, "convert it again", "{}"},
    {"no-size", E::refuses, "takes 0 for the key", kModel, "convert it again", "has wrong shape"},
    {"no-context", E::warns, "has no context but what -c asks for", kModel, "pass -c"},
    {"not-finite", E::lies, "computes with the key's value", kModel, "convert it again"},
    {"shards", E::refuses, "opens every shard, given the first", kLoader, "give all of them", "{}"},
    {"alignment", E::refuses, "maps tensors as they lie in the file", "ggml/src/ggml-backend.cpp",
     "write the file anew", "buffer pointer must be aligned"},
    {"odd-alignment", E::warns, "takes any power of two", kFile, "write the file anew"},
    {"file-type", E::warns, "prints the file type", kLoader, "write general.file_type"},
    {"missing-list", E::refuses, "builds the vocabulary from lists", kVocab,
     "convert the tokenizer again", "cannot find tokenizer {} in model file"},
    {"token-list", E::refuses, "wants an element for each token", kVocab,
     "convert the tokenizer again", "Index out of array bounds for {}"},
    {"longer-list", E::warns, "reads as many elements as there are tokens", kVocab,
     "convert the tokenizer again"},
    {"token-twice", E::refuses, "looks tokens up by their text", kVocab,
     "convert the tokenizer again", "id_to_token.size() == token_to_id.size()"},
    {"merge-list", E::lies, "merges what it can", kVocab, "convert the tokenizer again"},
    {"token-id", E::lies, "takes a default for a special token", kVocab, "write the key"},
    {"minor-token-id", E::warns, "takes a default for a special token", kVocab, "write the key"},
    {"no-vocabulary", E::refuses, "takes no text without a vocabulary", kVocab,
     "convert it with its tokenizer", "Tokenizer not initialized"},
    {"no-bytes", E::refuses, "dies at a character that no token has", kVocab,
     "convert the tokenizer again", "unordered_map::at"},
    {"named-tokens", E::refuses, "looks up the tokens of Phi-3, known by general.name", kVocab,
     "change general.name", "unordered_map::at"},
    {"tokenizer", E::refuses, "knows tokenizers by name", kVocab, "a newer version may know it",
     "unknown tokenizer: '{}'"},
    {"pre-tokenizer", E::refuses, "knows the ways to cut text by name", kVocab,
     "a newer version may know it", "unknown pre-tokenizer type: '{}'"},
    {"vocabulary", E::refuses, "wants a row for each token", kLoader, "convert it again",
     "tensor '{}' has wrong shape"},
    {"block-count", E::refuses, "creates the tensors of every block", kLoader, "convert it again",
     "tensor 'blk.{}."},
    {"absent-tensor", E::refuses, "stops at a tensor that is missing", kLoader, "convert it again",
     "tensor '{}' not found"},
    {"unknown-tensor", E::refuses, "counts tensors: one too many is fatal", kLoader, "remove it",
     "wrong number of tensors"},
    {"tensor-shape", E::refuses, "compares shapes with the metadata", kLoader, "convert it again",
     "tensor '{}' has wrong shape"},
    {"tensor-type", E::refuses, "adds and multiplies F32 vectors only",
     "ggml/src/ggml-cpu/binary-ops.cpp", "write them as F32", "{}"},
    {"no-kernel", E::refuses, "computes with matrices of some types only",
     "ggml/src/ggml-cpu/ggml-cpu.c", "convert it again"},
};

}  // namespace

const Engine kLlamaCpp = {"llama.cpp",
                          "of llama-cpp-python 0.3.36",
                          "llama-server -m {}",
                          kRules,
                          {},
                          {},
                          {},
                          {},
                          {},
                          "",
                          "",
                          "",
                          true};

}  // namespace qp::target
