// ggml's blocks decoded to f32. Layouts: reference/gguf.md section 4 (ggml-common.h, ggml-quants.c).
#pragma once

#include <cstddef>
#include <cstdint>

#include "lib/tensor/ggml_type.h"

namespace qp {

// n elements, a multiple of the type's block.
using GgmlDecoder = void (*)(const uint8_t* blocks, size_t n, float* out);
// Null: the type is known by name only.
GgmlDecoder ggml_decoder(uint32_t id);

}  // namespace qp
