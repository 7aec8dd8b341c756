// Decoding of ggml's lattice types to f32, for the table of ggml.h (reference/gguf.md 4.10): n
// elements, a multiple of 256.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qp {

void from_iq1_s(const uint8_t* blocks, size_t n, float* out);
void from_iq1_m(const uint8_t* blocks, size_t n, float* out);
void from_iq2_xxs(const uint8_t* blocks, size_t n, float* out);
void from_iq2_xs(const uint8_t* blocks, size_t n, float* out);
void from_iq2_s(const uint8_t* blocks, size_t n, float* out);
void from_iq3_xxs(const uint8_t* blocks, size_t n, float* out);
void from_iq3_s(const uint8_t* blocks, size_t n, float* out);

}  // namespace qp
