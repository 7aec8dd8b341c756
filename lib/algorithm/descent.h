// Coordinate descent over codes that were chosen already: each code in turn becomes the best one,
// as the others are (QuantEase, Behdin et al., arXiv 2309.01885). GPTQ's walk never turns back;
// this does.
#pragma once

#include "lib/algorithm/gptq.h"

namespace qp::gptq {

// More than the walk's: descent comes nearer to the least error of the calibration tokens, and with
// less damping it fits them rather than the text (DESIGN.md).
inline constexpr double kDescentDamp = 0.1;

// Lowers tr((V - W) H' (V - W)^T), H' = H + damp * mean diag(H) on the diagonal, `sweeps` times
// over the columns as they lie: w [rows, k] the weights, q [rows, k] rounded quotients
// (Grid::encode) that become others, V their values. Scales of groups of up to 128 neighbouring
// columns (Grid::free_scales) become the best ones for the codes before each sweep of their
// columns; others stay. Codes of columns without input are left alone. Threads change no bit.
// `precision`: of products, as in Options.
void descend(const Moments& moments, double damp, gemm::Precision precision, Grid& grid,
             const float* w, size_t sweeps, float* q);

}  // namespace qp::gptq
