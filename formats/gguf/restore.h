// A GGUF of any family under Hugging Face's names: its config.json and where its tensors go. Plain
// Llama models have a stricter reader of their own (llama.h).
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "formats/container/gguf.h"
#include "lib/base/json.h"
#include "lib/ggml/tensor_map.h"

namespace qp {

struct RestoredModel {
  std::string why;  // why it cannot be: then the rest is empty
  const ggml::Family* family = nullptr;
  Json config;  // without dtype
  uint64_t vocab = 0;
  // Of the names in the file; nothing: it is made from config.json, and left out.
  std::map<std::string_view, std::optional<ggml::HfTarget>> targets;
};

RestoredModel restore_model(std::span<const GgufFile> shards);

// bos_token_id, eos_token_id and pad_token_id, those inside the vocabulary.
void set_token_ids(Json& config, const GgufFile& metadata, uint64_t vocab);

}  // namespace qp
