#include "lib/algorithm/read_matrix.h"

#include <algorithm>

#include "lib/algorithm/quantizer.h"
#include "lib/base/parallel.h"
#include "lib/kernels/forward.h"
#include "lib/qmap/rows.h"

namespace qp {

std::vector<float> read_matrix(const Store& store, const Tensor& t) {
  RowSource source(store, t);
  size_t cols = source.cols();
  std::vector<float> w(source.rows() * cols);
  std::vector<RowScratch> scratch(static_cast<size_t>(threads()));
  for (const Part& p : t.parts) store.verify(t, p);
  parallel_for(source.rows(), [&](size_t r, int worker) {
    const float* row = source.get_f32(r, 1, scratch[static_cast<size_t>(worker)], false);
    if (!kernels::forward().all_finite(row, cols)) refuse_nonfinite(store, t, r);
    std::copy(row, row + cols, w.data() + r * cols);
  });
  store.throw_if_changed(t);
  return w;
}

}  // namespace qp
