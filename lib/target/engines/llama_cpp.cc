// llama.cpp: a GGUF file. Its tensors and metadata are held against the loader's tables by
// formats/verify/gguf*; here is what those findings mean.
#include "lib/target/engine.h"

namespace qp::target {
namespace {

using E = Effect;
constexpr const char* kLoader =
    "src/llama-model-loader.cpp, src/llama-model.cpp (reference: gguf 14)";

constexpr Rule kRules[] = {
    {"no-gguf", E::refuses, "reads GGUF files, nothing else",
     "ggml/src/gguf.cpp (reference: gguf 1.3)", "qexport -f gguf", "invalid magic characters"},
    {"architecture", E::notes, "what it asks of this architecture is not known here", kLoader,
     "run it"},
    {"missing-key", E::refuses, "asks for the key", kLoader, "convert it again",
     "key not found in model"},
    {"key-type", E::refuses, "insists on the type of a key", kLoader, "convert it again",
     "has wrong type"},
    {"key-value", E::refuses, "checks values of keys", kLoader, "convert it again"},
    {"alignment", E::refuses, "wants an alignment that is a power of two",
     "ggml/src/gguf.cpp (reference: gguf 1.2)", "write the file anew"},
    {"file-type", E::warns, "prints the file type", kLoader, "write general.file_type"},
    {"token-list", E::refuses, "builds the vocabulary from equal lists",
     "src/llama-vocab.cpp (reference: gguf 10)", "convert the tokenizer again"},
    {"token-id", E::refuses, "looks special tokens up", "src/llama-vocab.cpp (reference: gguf 10)",
     "convert the tokenizer again"},
    {"vocabulary", E::refuses, "wants a row for each token", kLoader, "convert it again",
     "has wrong shape"},
    {"block-count", E::refuses, "creates the tensors of every block", kLoader, "convert it again",
     "missing tensor"},
    {"absent-tensor", E::refuses, "stops at a tensor that is missing", kLoader, "convert it again",
     "missing tensor '{}'"},
    {"unknown-tensor", E::refuses, "counts tensors: one too many is fatal", kLoader, "remove it",
     "wrong number of tensors"},
    {"tensor-shape", E::refuses, "compares shapes with the metadata", kLoader, "convert it again",
     "tensor '{}' has wrong shape"},
    {"tensor-type", E::warns, "expects F32 norms and biases", kLoader, "write them as F32"},
    {"load", E::refuses, "parses the header and checks places of tensors",
     "ggml/src/gguf.cpp (reference: gguf 1.3)", "download it again"},
};

}  // namespace

const Engine kLlamaCpp = {"llama.cpp",
                          "reference page of 2026-11",
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
