// GPTQ: codes chosen column by column, the error of each spread over the columns that follow so
// that the layer's output changes least (Frantar et al., arXiv 2210.17323;
// reference/int4-formats.md 2.2).
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "lib/algorithm/grid.h"
#include "lib/gemm/gemm.h"
#include "lib/gemm/memory.h"

namespace qp::gptq {

// The order in which columns are quantized: as they lie; by falling diag(H), which needs a g_idx
// (desc_act); or by group and inside groups, which needs none (GPTQModel's act_group_aware).
enum class Order { none, desc_act, group_aware };

struct Options {
  double damp =
      0.01;  // of the mean of diag(H), added to it; doubled while H is not positive definite
  Order order = Order::group_aware;
  Fit fit = Fit::search;       // of scales, weighted with diag(H)
  ScaleSign sign = ScaleSign::either;  // of scales that are searched for
  bool static_groups = false;  // scales from the weights as they were
  // The share of the inputs' drift that weights make up for; none: share_of() says.
  std::optional<double> alpha;
  size_t sweeps = 0;  // of coordinate descent behind the walk (descent.h)
  // Of the products that tell other columns of errors; all else is f32.
  gemm::Precision precision = gemm::Precision::f32;
};

// Second moments of a linear's inputs, H = sum x x^T [k, k], any positive factor: the lower
// triangle. And for asymmetric calibration D = sum (x_full - x) x^T [k, k] in the same measure,
// x_full being what enters where no weight is quantized; else empty.
struct Moments {
  size_t k = 0;
  std::vector<float> h, drift;
  uint64_t rows = 0;  // that were summed
};

// What linears that read one input share.
struct Factor {
  gemm::Memory memory;            // of u: large pages, as products walk down its columns
  std::vector<uint32_t> order;    // column processed i-th
  std::vector<uint32_t> dead;     // columns without input: their weights become 0
  std::vector<float> importance;  // diag(H), by column
  double damp = 0;                // that worked

  // [k, k] upper, in processing order: H^-1 = u^T u.
  const float* u() const { return static_cast<const float*>(memory.data()); }
};

// None when H has nothing to say: no positive finite diagonal, or no damping helps. `group`:
// columns of a group (order group_aware).
std::optional<Factor> factor(const Moments& moments, size_t group, const Options& options);

// What options.alpha leaves open: how much of the drift that was seen is to be believed. What the
// inputs explain of it is fitted with k numbers to `rows` rows, and fits them too well:
// rows / (rows + 4 k). DESIGN.md says what was measured.
double share_of(const Moments& moments, const Options& options);

// Asymmetric calibration: w [rows, k] += alpha w D (H')^-1, with alpha 1 the weights that
// make of the inputs as they are what w made of the full ones, in least squares (QEP, Arai and
// Ichikawa, 2025; what GPTAQ, Li et al., 2025, aims at). Needs moments.drift.
void follow_drift(const Moments& moments, const Factor& factor, double alpha, float* w,
                  size_t rows);

// Quantizes w [rows, k], which becomes the rounded quotients for Grid::encode. Returns the sum of
// squared errors over the diagonal: tr((Q - W) H' (Q - W)^T), H' the damped H.
double quantize(const Factor& factor, const Options& options, Grid& grid, float* w);

// tr(D H D^T), D = q_values - w, both [rows, k]: what the difference does to the layer's output.
double output_error(const Moments& moments, const float* difference, size_t rows);

}  // namespace qp::gptq
