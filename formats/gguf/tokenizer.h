// Tokenizer files of Hugging Face from a GGUF's metadata (reference/gguf.md section 10).
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/container/gguf.h"

namespace qp {

struct GeneratedFile {
  std::string name, text;
};

// How one value of tokenizer.ggml.pre splits text before byte-level BPE: each expression isolates
// its matches in the pieces the one before left.
struct PreTokenizer {
  std::string_view name;
  std::span<const std::string_view> splits;
  bool ignore_merges = false;  // a piece that is a token is taken whole
  bool add_bos = false;        // unless tokenizer.ggml.add_bos_token says otherwise
};
const PreTokenizer* find_pre_tokenizer(std::string_view name);  // null when unknown

// tokenizer.json, tokenizer_config.json and special_tokens_map.json, or nothing when the file has
// no tokenizer that can be expressed exactly: then `warn` says why.
// Errors: input, when a metadata key has another type than llama.cpp writes.
std::vector<GeneratedFile> gguf_tokenizer(const GgufFile& file,
                                          const std::function<void(std::string)>& warn);

}  // namespace qp
