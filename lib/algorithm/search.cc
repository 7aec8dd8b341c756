#include "lib/algorithm/search.h"

#include "lib/kernels/forward.h"
#include "lib/kernels/kernels.h"
#include "lib/kernels/source.h"

namespace qp {

SearchQuantizer::SearchQuantizer(const Store& store, const Tensor& t, const Scheme& scheme,
                                 float range, Fit fit, ScaleSign sign)
    : store_(store), t_(t), grid_(scheme, t.dtype, t.shape.rows(), t.shape.cols(), range),
      fit_(fit) {
  grid_.allow(sign);
}

void SearchQuantizer::chunk(const std::byte* rows, uint64_t first, uint64_t count, RowsScratch& w) {
  size_t cols = grid_.cols();
  kernels::Src src = *kernel_source(t_.dtype);
  w.values.resize(count * cols);
  w.codes.resize(count * grid_.code_bytes());
  kernels::active().to_f32(src, rows, count * cols, w.values.data());
  for (uint64_t r = 0; r < count; ++r) {
    const float* row = w.values.data() + r * cols;
    if (!kernels::forward().all_finite(row, cols)) refuse_nonfinite(store_, t_, first + r);
  }
  grid_.fit_rows(w.values.data(), first, count, {}, fit_, w.strip);
  // The values are not needed any more: their rows take the quotients.
  grid_.round_rows(w.values.data(), first, count, w.values.data(), w.strip);
  grid_.encode(w.values.data(), count, reinterpret_cast<uint8_t*>(w.codes.data()));
}

SmallParts SearchQuantizer::finish() const {
  if (auto row = grid_.overflow()) refuse_overflow(store_, t_, *row);
  return grid_.finish();
}

}  // namespace qp
