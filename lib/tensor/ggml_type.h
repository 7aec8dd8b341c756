// ggml's tensor types: the one table of their ids, names and sizes (reference/gguf.md section 2).
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace qp {

struct GgmlType {
  uint32_t id;            // on disk in GGUF
  std::string_view name;  // "q4_k", as ggml prints it, lower case
  uint32_t block;         // elements per block
  uint32_t bytes;         // bytes per block

  bool is_float() const { return id == 0 || id == 1 || id == 30; }  // f32, f16, bf16: blocks of one
};

// All types ggml has a name for, in id order. Removed ids are absent.
std::span<const GgmlType> ggml_types();
const GgmlType* ggml_type(uint32_t id);            // null when unknown
const GgmlType* ggml_type(std::string_view name);  // case-free; null when unknown

}  // namespace qp
