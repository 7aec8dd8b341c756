// ggml's block types: the one table of their ids, names and sizes, and their decoding to f32.
// Layouts: reference/gguf.md sections 2 and 4 (ggml-common.h, ggml-quants.c).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace qp {

struct GgmlType {
  uint32_t id;               // on disk in GGUF
  std::string_view name;     // "q4_k", as ggml prints it, lower case
  uint32_t block;            // elements per block
  uint32_t bytes;            // bytes per block
  // Decodes n elements (a multiple of block) to f32. Null: the type is known by name only.
  void (*dequantize)(const uint8_t* blocks, size_t n, float* out);
};

// All types ggml has a name for, in id order. Removed ids are absent.
std::span<const GgmlType> ggml_types();
const GgmlType* ggml_type(uint32_t id);               // null when unknown
const GgmlType* ggml_type(std::string_view name);     // case-free; null when unknown

}  // namespace qp
