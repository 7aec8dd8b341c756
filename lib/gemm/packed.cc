#include <algorithm>

#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/base/parallel.h"
#include "lib/gemm/backends.h"
#include "lib/gemm/gemm.h"

namespace qp::gemm {

size_t Packed::bytes(size_t n, size_t k, Precision precision) {
  const Backend& be = active(precision);
  auto groups = checked_add(n, unit() - 1);
  auto panels = checked_mul(groups.value_or(0) / unit(), unit() / be.cols);
  auto row = checked_mul(k + 32, be.cols * be.b_size);  // not less than a panel
  if (!groups || k + 32 < k || !panels || !row || !checked_mul(*row, *panels)) {
    throw limit_error("a matrix of " + std::to_string(n) + " x " + std::to_string(k) +
                      " elements is too large");
  }
  return static_cast<size_t>(*panels) * be.b_panel(k);
}

void Packed::reshape(size_t n, size_t k, Precision precision) {
  memory_.need(bytes(n, k, precision));
  backend_ = &active(precision);
  n_ = n;
  k_ = k;
  precision_ = precision;
}

void Packed::pack_source(size_t first, size_t count, const void* data, size_t stride,
                         bool transposed, bool bf16) {
  if (first % unit() != 0 || first > n_ || count > n_ - first ||
      (count % unit() != 0 && first + count != n_)) {
    throw defect_error("rows of a packed matrix in the wrong groups");
  }
  const Backend& be = *backend_;
  size_t panel = be.b_panel(k_), step = (transposed ? 1 : stride) * (bf16 ? 2 : 4);
  char* to = static_cast<char*>(memory_.data()) + first / be.cols * panel;
  const char* from = static_cast<const char*>(data);
  for (size_t i = 0; i < count; i += be.cols, to += panel) {
    Source s{from + i * step, stride, transposed, bf16};
    be.pack_b(s, std::min(be.cols, count - i), k_, to);
  }
}

void Packed::pack_all_source(const void* data, size_t stride, bool transposed, bool bf16) {
  size_t step = (transposed ? 1 : stride) * (bf16 ? 2 : 4);
  parallel_for(ceil_div(n_, unit()), [&](size_t group, int) {
    size_t first = group * unit();
    pack_source(first, std::min(unit(), n_ - first), static_cast<const char*>(data) + first * step,
                stride, transposed, bf16);
  });
}

void Packed::pack(size_t first, size_t count, const float* rows, size_t stride) {
  pack_source(first, count, rows, stride, false, false);
}
void Packed::pack(size_t first, size_t count, const uint16_t* rows, size_t stride) {
  pack_source(first, count, rows, stride, false, true);
}
void Packed::pack_transposed(size_t first, size_t count, const float* columns, size_t stride) {
  pack_source(first, count, columns, stride, true, false);
}
void Packed::pack_transposed(size_t first, size_t count, const uint16_t* columns, size_t stride) {
  pack_source(first, count, columns, stride, true, true);
}
void Packed::pack_all(const float* rows, size_t stride) {
  pack_all_source(rows, stride, false, false);
}
void Packed::pack_all(const uint16_t* rows, size_t stride) {
  pack_all_source(rows, stride, false, true);
}
void Packed::pack_all_transposed(const float* columns, size_t stride) {
  pack_all_source(columns, stride, true, false);
}
void Packed::pack_all_transposed(const uint16_t* columns, size_t stride) {
  pack_all_source(columns, stride, true, true);
}

}  // namespace qp::gemm
