#include "lib/transform/hadamard.h"

#include <algorithm>
#include <cmath>

#include "lib/base/parallel.h"
#include "lib/base/random.h"

namespace qp::transform {
namespace {

bool is_prime(size_t n) {
  if (n < 2) return false;
  for (size_t d = 2; d * d <= n; ++d) {
    if (n % d == 0) return false;
  }
  return true;
}

// chi[a]: 0 for 0, 1 for squares mod q, else -1.
std::vector<int> squares(size_t q) {
  std::vector<int> chi(q, -1);
  chi[0] = 0;
  for (size_t a = 1; a < q; ++a) chi[a * a % q] = 1;
  return chi;
}

// The bordered Jacobsthal matrix of order q + 1: row 0 is ones, column 0 `border`.
std::vector<int> conference(size_t q, int border) {
  std::vector<int> chi = squares(q), m((q + 1) * (q + 1));
  for (size_t i = 1; i <= q; ++i) {
    m[i] = 1;
    m[i * (q + 1)] = border;
    for (size_t j = 1; j <= q; ++j) m[i * (q + 1) + j] = chi[(i + q - j) % q];
  }
  return m;
}

// The order of the dense factor: order = dense * 2^k with k as large as a construction allows.
size_t dense_factor(size_t n) {
  size_t odd = n;
  while (odd % 2 == 0) odd /= 2;
  if (odd == 1) return 1;
  for (size_t dense = 4 * odd; n % dense == 0; dense *= 2) {
    if (!hadamard(dense).empty()) return dense;
  }
  return 0;
}

}  // namespace

std::vector<int8_t> hadamard(size_t n) {
  if (n == 1) return {1};
  if (n == 2) return {1, 1, 1, -1};
  if (n % 4 != 0) return {};
  std::vector<int8_t> h(n * n);
  if (size_t q = n - 1; q % 4 == 3 && is_prime(q)) {
    std::vector<int> m = conference(q, -1);
    for (size_t i = 0; i < n; ++i) m[i * n + i] += 1;
    std::ranges::transform(m, h.begin(), [](int x) { return static_cast<int8_t>(x); });
    return h;
  }
  if (size_t q = n / 2 - 1; q % 4 == 1 && is_prime(q)) {
    std::vector<int> m = conference(q, 1);
    size_t half = n / 2;
    // 0 becomes (1 -1; -1 -1), +-1 becomes +-(1 1; 1 -1).
    for (size_t i = 0; i < half; ++i) {
      for (size_t j = 0; j < half; ++j) {
        int c = m[i * half + j];
        int block[4] = {c == 0 ? 1 : c, c == 0 ? -1 : c, c == 0 ? -1 : c, c == 0 ? -1 : -c};
        for (size_t k = 0; k < 4; ++k) {
          h[(2 * i + k / 2) * n + 2 * j + k % 2] = static_cast<int8_t>(block[k]);
        }
      }
    }
    return h;
  }
  return {};
}

Rotation::Rotation(size_t n, size_t blocks, uint64_t seed)
    : n_(n), blocks_(blocks), order_(n), dense_(dense_factor(n)), signs_(n) {
  if (dense_ == 0) {
    dense_ = order_ = 1;
    while (n % (2 * order_) == 0) order_ *= 2;
  }
  kernel_ = hadamard(dense_);
  auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(order_)));
  for (size_t i = 0; i < n; ++i)
    signs_[i] = SplitMix64(seed * 0x10001 + i).next() >> 63 ? -scale : scale;
}

// H x for x of order() groups of `stride` values side by side, in place.
void Rotation::transform(float* x, size_t stride) const {
  size_t two = order_ / dense_;  // index = a * two + b: the dense factor acts on a
  for (size_t half = 1; half < two; half *= 2) {
    for (size_t i = 0; i < order_; i += 2 * half) {
      float *a = x + i * stride, *b = a + half * stride;
      for (size_t j = 0; j < half * stride; ++j) {
        float sum = a[j] + b[j];
        b[j] = a[j] - b[j];
        a[j] = sum;
      }
    }
  }
  if (dense_ == 1) return;
  size_t width = two * stride;
  std::vector<float> out(dense_ * width);
  for (size_t i = 0; i < dense_; ++i) {
    for (size_t k = 0; k < dense_; ++k) {
      const float* from = x + k * width;
      float* to = out.data() + i * width;
      if (kernel_[i * dense_ + k] > 0) {
        for (size_t j = 0; j < width; ++j) to[j] += from[j];
      } else {
        for (size_t j = 0; j < width; ++j) to[j] -= from[j];
      }
    }
  }
  std::ranges::copy(out, x);
}

// x Q = (H^T (D x^T))^T. The dense factors need not be symmetric: what counts is that rows and
// columns are turned by one and the same Q, here D H^T.
void Rotation::turn(float* row) const {
  for (size_t i = 0; i < channels(); ++i) row[i] *= signs_[i % n_];
  for (size_t i = 0; i < channels(); i += order_) transform(row + i, 1);
}

void Rotation::turn_rows(float* matrix, size_t cols) const {
  constexpr size_t kColumns = 256;  // of one thread's turn
  size_t pieces = (cols + kColumns - 1) / kColumns;
  std::vector<std::vector<float>> room(static_cast<size_t>(threads()));
  parallel_for(pieces * (channels() / order_), [&](size_t i, int worker) {
    size_t first = i % pieces * kColumns, n = std::min(kColumns, cols - first);
    size_t row = i / pieces * order_;
    std::vector<float>& x = room[static_cast<size_t>(worker)];
    x.resize(order_ * n);
    for (size_t r = 0; r < order_; ++r) {
      const float* from = matrix + (row + r) * cols + first;
      for (size_t c = 0; c < n; ++c) x[r * n + c] = from[c] * signs_[(row + r) % n_];
    }
    transform(x.data(), n);
    for (size_t r = 0; r < order_; ++r) {
      std::copy_n(x.data() + r * n, n, matrix + (row + r) * cols + first);
    }
  });
}

}  // namespace qp::transform
