// The two kinds of ggml's quantizers, behind ggml_quantize.h.
#pragma once

#include <span>

#include "lib/kernels/ggml_quantize.h"

namespace qp {

// A scale (and a minimum) for each group: Q4_0 .. Q8_0, Q2_K .. Q6_K, IQ4_NL, IQ4_XS, TQ1_0, TQ2_0, Q1_0,
// Q2_0, MXFP4, NVFP4.
std::span<const GgmlQuantizer> ggml_scaled_quantizers();
// Points of a lattice: IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S.
std::span<const GgmlQuantizer> ggml_codebook_quantizers();

}  // namespace qp
