// llama-quantize's file types: a default type for the matrices of a model, and other types for some of
// them, by rules (lib/ggml/mix.h). Pure data: reference/gguf.md 7.1 and 7.2.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace qp {

struct Mix {
  std::string_view name;   // "q4_k_m", as llama-quantize spells it, lower case
  std::string_view type;   // of ggml, where no rule says otherwise
  uint32_t file_type;      // general.file_type
  std::string_view alias;  // "q4_k"
};

std::span<const Mix> mixes();
// By name or alias, without case, "gguf:" before it or not. Null: none of that name.
const Mix* find_mix(std::string_view name);

// How a rule of a recipe uses one.
struct MixRule {
  const Mix* mix = nullptr;
  bool pure = false;            // every matrix in the default type
  std::string output, embedding;  // ggml types of the head and the token table; "": by the rules
};

// The ggml type of a name, lower case ("" stays ""). Errors: usage, naming `what`: no block type of that
// name.
std::string block_type(const std::string& name, const std::string& what);

}  // namespace qp
