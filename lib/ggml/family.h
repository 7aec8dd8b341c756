// Model families as llama.cpp knows them: names of tensors and metadata, beside Hugging Face's.
// One family is one file in families/ and one line in families.def.
// Facts: reference/gguf.md sections 9, 11 and 12.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lib/ggml/config.h"
#include "lib/ggml/metadata.h"

namespace qp::ggml {

// How the values of a GGUF tensor lie in a Hugging Face tensor. A tensor of one dimension has no
// columns: transposed leaves it as it is, and the halves are of its elements.
enum class Op : uint8_t {
  plain,
  rope_q,
  rope_k,      // rows of a head in llama.cpp's rotary order: pairs side by side
  plus_one,    // values + 1, in f32
  transposed,  // [.., in, out] as [.., out, in]
  first_rows,
  last_rows,  // halves of the rows of each matrix of [E, 2F, H]
  even_columns,
  odd_columns,  // of each matrix of [E, H, 2F], as [E, F, H]
  key_b,
  value_b,  // of kv_b_proj [heads * (nope + v), rank]: [heads, rank, nope] and
            // [heads, v, rank]
};

// Names without ".weight" and ".bias", unless `whole`: then they are complete. A '*' in `hf` is an
// expert's number: the tensors of all experts, in order, are one GGUF tensor. Where several rows
// make one GGUF tensor, a checkpoint has one of them; the first is what reading back makes.
struct TensorRule {
  std::string_view gguf, hf;
  Op op = Op::plain;
  bool whole = false;
};
using TensorRules = std::vector<TensorRule>;
TensorRules joined(std::initializer_list<std::span<const TensorRule>> lists);

// A tensor that llama.cpp wants and no checkpoint has, made from config.json.
struct Computed {
  std::string name;
  std::vector<float> values;
};

// A GGUF that is read back: its "ARCH." keys without "ARCH.", and its tensors.
struct Restored {
  const Json& keys;
  std::function<bool(std::string_view tensor)> has;
  std::function<std::vector<float>(std::string_view tensor)> values;  // of an F32 tensor
};

struct Family {
  std::string_view arch;                        // general.architecture
  std::vector<std::string_view> architectures;  // config.json's; the first is read back
  std::string_view model_type;                  // config.json's, read back
  // Names under "model." (or "transformer."), and under a layer of it.
  TensorRules model, layer;
  // The metadata of the family ("ARCH." keys), in the converter's order.
  void (*describe)(const Config& config, Metadata& out);
  std::vector<Computed> (*compute)(const Config& config) = nullptr;
  // config.json's members from the metadata, but for those that every family has alike: the
  // vocabulary, special tokens, dtype, architectures and model_type (which it may set itself).
  // Errors: input, for keys that are missing; limit, for what config.json cannot say.
  void (*restore)(const Restored& in, Json& config) = nullptr;
  // What the family's tokenizers need beside what their files say; null: nothing.
  void (*adjust_tokenizer)(const Config& config, Metadata& out) = nullptr;
  std::string_view stack = "layers";  // HF's list of layers
  bool extra_layers_dropped = false;  // those behind num_hidden_layers: MTP
  bool tied_head_dropped = false;     // lm_head, where config.json says it is tied
  bool head_dropped = false;          // lm_head, always
};

std::span<const Family* const> families();
// By config.json's architecture; null: unknown.
const Family* find_family(std::string_view architecture);
// Those of a general.architecture (llama: also Mixtral).
std::vector<const Family*> families_of(std::string_view gguf_architecture);

}  // namespace qp::ggml
