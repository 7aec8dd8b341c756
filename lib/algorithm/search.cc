#include "lib/algorithm/search.h"

#include <cmath>

#include "lib/kernels/forward.h"
#include "lib/kernels/kernels.h"

namespace qp {

using kernels::kStrip;

SearchQuantizer::SearchQuantizer(const Store& store, const Tensor& t, const Scheme& scheme, float range, Fit fit)
    : store_(store), t_(t), grid_(scheme, t.dtype, t.shape.rows(), t.shape.cols(), range), fit_(fit) {}

void SearchQuantizer::check(const float* values, uint64_t first, uint64_t count) const {
  for (uint64_t r = 0; r < count; ++r) {
    if (!kernels::forward().all_finite(values + r * grid_.cols(), grid_.cols())) refuse_nonfinite(store_, t_, first + r);
  }
}

void SearchQuantizer::chunk(const std::byte* rows, uint64_t first, uint64_t count, RowsScratch& w) {
  const kernels::LaneTable& k = kernels::lanes();
  size_t cols = grid_.cols(), group = grid_.group();
  auto src = t_.dtype == DType::bf16  ? kernels::Src::bf16
             : t_.dtype == DType::f16 ? kernels::Src::f16
                                      : kernels::Src::f32;
  w.values.resize(count * cols);
  w.codes.resize(count * grid_.code_bytes());
  w.strip.resize(cols * kStrip);
  w.quotients.resize(cols * kStrip);
  kernels::active().to_f32(src, rows, count * cols, w.values.data());
  check(w.values.data(), first, count);
  if (grid_.spans_rows()) grid_.fit_blocks(w.values.data(), first, count, Clip{.search = true});
  for (uint64_t r = 0; r < count; r += kStrip) {
    size_t n = std::min<uint64_t>(kStrip, count - r);
    k.to_strip(w.values.data() + r * cols, cols, n, cols, w.strip.data());
    for (size_t g = 0; g < grid_.groups(); ++g) {
      size_t begin = g * group, size = std::min(group, cols - begin);
      const float* strip = w.strip.data() + begin * kStrip;
      float scale[kStrip], zero[kStrip];
      if (!grid_.spans_rows()) {
        fit_ == Fit::mse ? grid_.fit(strip, size, first + r, n, g, nullptr, Clip{.search = true})
                         : grid_.fit_shrinking(strip, size, first + r, n, g);
      }
      grid_.lanes(first + r, g, scale, zero);
      for (size_t i = 0; i < n; ++i) {
        if (!std::isfinite(scale[i])) refuse_overflow(store_, t_, first + r + i);
      }
      k.round(grid_.rounding(), strip, size, scale, zero, w.quotients.data() + begin * kStrip);
    }
    // The values are not needed any more: their rows take the quotients.
    k.from_strip(w.quotients.data(), n, cols, w.values.data() + r * cols, cols);
  }
  grid_.encode(w.values.data(), count, reinterpret_cast<uint8_t*>(w.codes.data()));
}

}  // namespace qp
