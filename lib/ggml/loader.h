// What llama.cpp's loader asks of a GGUF: the keys it reads and their types, the tensors it creates
// and their shapes (reference/gguf.md 9, 10.1, 11 and 14; held against what llama.cpp really does
// by tests/peers/ggml/loads.py).
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace qp::ggml {

enum class KeyType : uint8_t {
  u32,
  i32,
  u16,
  f32,
  boolean,
  text,
  texts,
  i32s,
  ints,         // i32 or u32
  scores,       // f32 or i32
  u32_or_list,  // one for all layers, or one for each
};

struct KeyRule {
  std::string_view key;  // without "ARCH.", unless it is no key of an architecture
  KeyType type;
  bool required = false;  // the loader stops without it
  bool read = true;       // it stops at another type
};

// A dimension of a tensor, by the metadata that says it.
enum class Size : uint8_t {
  none,
  hidden,     // embedding_length
  vocab,      // tokens
  positions,  // context_length
  q,
  k,
  v,       // heads (or key-value heads) * the width of a head
  qkv,     // the three together
  head_k,  // the width of a head
  heads,
  inner,  // feed_forward_length
  twice_inner,
  experts,
  expert_inner,  // expert_feed_forward_length
  twice_expert_inner,
  shared_inner,  // of the expert that every token sees
  half_rotated,  // rope.dimension_count / 2
  q_rank,
  kv_rank,
  kv_rank_rotated,
  mla_q,      // heads * key_length_mla
  mla_nope,   // key_length_mla - rope.dimension_count
  mla_value,  // value_length_mla
  mla_v,      // heads * value_length_mla
  mla_kv,     // heads * (nope + value)
};

// When a tensor of a layer belongs to the model.
enum class When : uint8_t {
  always,
  optional,  // it may be there
  dense,     // a layer without experts
  dense_optional,
  sparse,  // a layer with experts
  sparse_optional,
  split_qkv,      // attn_qkv is not there
  split_experts,  // ffn_gate_up_exps is not there, in a layer with experts
  low_q,          // attention.q_lora_rank is said
  full_q,
  mla,  // key_length_mla is said
  no_mla,
  longrope,  // may be there where rope.scaling.type is "longrope"
  no_longrope,
};

// Sizes in ggml's order; none at the end. No sizes at all: not looked at.
struct TensorNeed {
  std::string_view name;  // in a layer: without "blk.N."
  When when = When::always;
  Size sizes[3] = {Size::none, Size::none, Size::none};
};

struct LoaderRules {
  std::string_view arch;
  std::span<const KeyRule> keys;  // beside arch_keys()
  std::vector<std::span<const TensorNeed>> model, layer;
  bool whole_heads = false;  // it stops unless a head is turned in full, keys as wide as values
};

// Null: an architecture that is not in the table.
const LoaderRules* find_loader_rules(std::string_view arch);

std::span<const KeyRule> file_keys();  // whole names: general.*, split.*, tokenizer.*
std::span<const KeyRule> arch_keys();  // read of every architecture
std::span<const KeyRule> some_keys();  // of those that ask for them (LoaderRules::keys)

// Whether the loader knows the value of general.architecture, of tokenizer.ggml.pre.
bool knows_architecture(std::string_view name);
bool knows_pre_tokenizer(std::string_view name);

}  // namespace qp::ggml
