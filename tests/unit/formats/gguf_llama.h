// The least Llama as a GGUF, for tests: width 8, 2 heads of 4, one key-value head, one layer.
#pragma once

#include <numeric>
#include <set>
#include <string>

#include "tests/unit/formats/gguf_bytes.h"

namespace qp {

// F32 values first, first + 1, ..
inline std::string counting(uint64_t n, float first = 0) {
  std::string s;
  for (uint64_t i = 0; i < n; ++i) s += GgufBytes::raw(first + static_cast<float>(i));
  return s;
}

struct TinyLlama {
  uint64_t hidden = 8, kv = 4;
  bool tied = true, biases = false;
  uint32_t type = 0;           // of the matrices
  std::set<std::string> omit;  // tensors left out

  GgufBytes keys() const {
    GgufBytes g;
    auto width = static_cast<uint32_t>(hidden);
    g.string("general.architecture", "llama").number("llama.block_count", 1);
    g.number("llama.context_length", 64).number("llama.embedding_length", width);
    g.number("llama.feed_forward_length", width).number("llama.attention.head_count", 2);
    g.number("llama.attention.head_count_kv", 1).real("llama.rope.freq_base", 500000.0f);
    return g.real("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  }

  GgufBytes& add_tensors(GgufBytes& g) const {
    auto matrix = [&](const std::string& name, uint64_t rows) {
      if (omit.contains(name)) return;
      if (type == 0) {
        g.tensor(name, {hidden, rows}, 0, counting(hidden * rows));
      } else {
        g.zeros(name, {hidden, rows}, type);
      }
    };
    auto vector = [&](const std::string& name, uint64_t n) {
      if (!omit.contains(name)) g.tensor(name, {n}, 0, counting(n));
    };
    matrix("token_embd.weight", 5);
    vector("output_norm.weight", hidden);
    if (!tied) matrix("output.weight", 5);
    struct {
      const char* name;
      uint64_t rows;
    } const rows[] = {{"attn_q", hidden}, {"attn_k", kv}, {"attn_v", kv}, {"attn_output", hidden},
                      {"ffn_gate", hidden}, {"ffn_up", hidden}, {"ffn_down", hidden}};
    vector("blk.0.attn_norm.weight", hidden);
    vector("blk.0.ffn_norm.weight", hidden);
    for (auto& row : rows) matrix("blk.0." + std::string(row.name) + ".weight", row.rows);
    for (auto& row : rows) {
      if (biases) vector("blk.0." + std::string(row.name) + ".bias", row.rows);
    }
    return g;
  }

  std::string build() const {
    GgufBytes g = keys();
    return add_tensors(g).build();
  }
};

}  // namespace qp
