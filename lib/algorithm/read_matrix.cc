#include "lib/algorithm/read_matrix.h"

#include "lib/algorithm/quantizer.h"
#include "lib/base/parallel.h"
#include "lib/kernels/forward.h"
#include "lib/qmap/rows.h"

namespace qp {

std::vector<float> read_matrix(const Store& store, const Tensor& t) {
  RowSource source(store, t);
  for (const Part& p : t.parts) store.verify(t, p);
  std::vector<float> w = read_f32(source, 0, source.rows());
  parallel_for(source.rows(), [&](size_t r, int) {
    if (!kernels::forward().all_finite(w.data() + r * source.cols(), source.cols())) refuse_nonfinite(store, t, r);
  });
  store.throw_if_changed(t);
  return w;
}

std::map<std::string_view, const Part*> pre_scales(const Model& model) {
  std::map<std::string_view, const Part*> found;
  for (const Tensor& t : model.tensors) {
    if (t.quantized()) continue;
    if (const Part* p = t.part(Role::pre_scale)) found.emplace(t.name, p);
  }
  return found;
}

}  // namespace qp
