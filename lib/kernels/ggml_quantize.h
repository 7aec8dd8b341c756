// Quantizers of ggml's block types, to the bit as ggml-base built for x86-64 without FMA makes them
// (reference/gguf.md sections 5 and 6, golden hashes in its appendix C).
#pragma once

#include <cstddef>
#include <cstdint>

namespace qp {

// How rows become blocks of one type.
struct GgmlQuantizer {
  uint32_t id;             // of the type, as in ggml_types()
  bool needs_importance;   // ggml refuses the type without an importance matrix
  bool uses_importance;    // an importance matrix changes the result
  // x: rows x cols finite f32, dense; cols a multiple of the type's block. importance: [cols] finite and
  // not negative, or null. out: rows x (cols / block * bytes), dense. Any number of threads may call it.
  void (*quantize)(const float* x, size_t rows, size_t cols, const float* importance, uint8_t* out);
};

// f32, f16 and bf16 are types of blocks of one element. Null: the type is never stored, or of integers.
const GgmlQuantizer* ggml_quantizer(uint32_t id);

}  // namespace qp
