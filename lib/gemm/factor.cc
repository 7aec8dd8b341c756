#include "lib/gemm/factor.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "lib/base/parallel.h"
#include "lib/gemm/gemm.h"

namespace qp::gemm {
namespace {

constexpr size_t kBase = 64;  // matrices up to this size are done element by element, in f64

// A square block of a row-major matrix.
struct Block {
  float* data;
  size_t ld;
  float* at(size_t r, size_t c) const { return data + r * ld + c; }
  Block sub(size_t r, size_t c) const { return {at(r, c), ld}; }
};

void multiply(size_t m, size_t n, size_t k, float alpha, Operand a, Operand b, Block c, bool add) {
  product(Precision::f32, m, n, k, alpha, a, b, c.data, c.ld, add);
}

// Half of n, in whole base blocks.
size_t split(size_t n) { return (n / 2 + kBase - 1) / kBase * kBase; }

// Lower triangle of c [n, n] -= a a^T, a [n, k].
void subtract_square(Block c, Block a, size_t n, size_t k) {
  if (n <= 4 * kBase) {
    multiply(n, n, k, -1, {a.data, a.ld}, {a.data, a.ld, true}, c, true);
    return;
  }
  size_t h = split(n);
  subtract_square(c, a, h, k);
  multiply(n - h, h, k, -1, {a.at(h, 0), a.ld}, {a.data, a.ld, true}, c.sub(h, 0), true);
  subtract_square(c.sub(h, h), a.sub(h, 0), n - h, k);
}

bool small_cholesky(Block a, size_t n) {
  double l[kBase][kBase];
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j <= i; ++j) {
      double sum = static_cast<double>(*a.at(i, j));
      for (size_t k = 0; k < j; ++k) sum -= l[i][k] * l[j][k];
      if (i != j) {
        l[i][j] = sum / l[j][j];
      } else {
        if (!(sum > 0) || !std::isfinite(sum)) return false;
        l[i][i] = std::sqrt(sum);
      }
    }
  }
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j <= i; ++j) *a.at(i, j) = static_cast<float>(l[i][j]);
  }
  return true;
}

// l [n, n] lower: its inverse, in place.
void small_inverse(Block l, size_t n) {
  double x[kBase][kBase] = {};
  for (size_t j = 0; j < n; ++j) {
    x[j][j] = 1 / static_cast<double>(*l.at(j, j));
    for (size_t i = j + 1; i < n; ++i) {
      double sum = 0;
      for (size_t k = j; k < i; ++k) sum += static_cast<double>(*l.at(i, k)) * x[k][j];
      x[i][j] = -sum / static_cast<double>(*l.at(i, i));
    }
  }
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) *l.at(i, j) = static_cast<float>(x[i][j]);
  }
}

// x [m, n] becomes x l^-T, l [n, n] lower.
void solve_right(Block x, size_t m, Block l, size_t n, std::vector<float>& room) {
  if (n <= kBase) {
    std::vector<float> inverse(n * n);
    for (size_t i = 0; i < n; ++i) std::copy(l.at(i, 0), l.at(i, 0) + i + 1, inverse.data() + i * n);
    small_inverse({inverse.data(), n}, n);
    room.resize(m * n);
    for (size_t i = 0; i < m; ++i) std::copy(x.at(i, 0), x.at(i, 0) + n, room.data() + i * n);
    multiply(m, n, n, 1, {room.data(), n}, {inverse.data(), n, true}, x, false);
    return;
  }
  size_t h = split(n);
  solve_right(x, m, l, h, room);
  multiply(m, n - h, h, -1, {x.data, x.ld}, {l.at(h, 0), l.ld, true}, x.sub(0, h), true);
  solve_right(x.sub(0, h), m, l.sub(h, h), n - h, room);
}

bool cholesky(Block a, size_t n, std::vector<float>& room) {
  if (n <= kBase) return small_cholesky(a, n);
  size_t h = split(n);
  if (!cholesky(a, h, room)) return false;
  solve_right(a.sub(h, 0), n - h, a, h, room);
  subtract_square(a.sub(h, h), a.sub(h, 0), n - h, h);
  return cholesky(a.sub(h, h), n - h, room);
}

// c [n, k] = l b, l [n, n] lower (zeros above), b [n, k]: not over the zeros.
void lower_times(Block c, Block l, Block b, size_t n, size_t k, float alpha, bool add) {
  if (n <= 4 * kBase) return multiply(n, k, n, alpha, {l.data, l.ld}, {b.data, b.ld}, c, add);
  size_t h = split(n);
  lower_times(c, l, b, h, k, alpha, add);
  multiply(n - h, k, h, alpha, {l.at(h, 0), l.ld}, {b.data, b.ld}, c.sub(h, 0), add);
  lower_times(c.sub(h, 0), l.sub(h, h), b.sub(h, 0), n - h, k, alpha, true);
}

// c [m, n] = b l, l [n, n] lower.
void times_lower(Block c, Block b, Block l, size_t m, size_t n, float alpha, bool add) {
  if (n <= 4 * kBase) return multiply(m, n, n, alpha, {b.data, b.ld}, {l.data, l.ld}, c, add);
  size_t h = split(n);
  times_lower(c, b, l, m, h, alpha, add);
  multiply(m, h, n - h, alpha, {b.at(0, h), b.ld}, {l.at(h, 0), l.ld}, c, true);
  times_lower(c.sub(0, h), b.sub(0, h), l.sub(h, h), m, n - h, alpha, add);
}

// l lower, zeros above: its inverse, in place.
void inverse(Block l, size_t n, std::vector<float>& room) {
  if (n <= kBase) return small_inverse(l, n);
  size_t h = split(n), rest = n - h;
  inverse(l, h, room);
  inverse(l.sub(h, h), rest, room);
  room.resize(std::max(room.size(), rest * h));
  Block between{room.data(), h};
  times_lower(between, l.sub(h, 0), l, rest, h, 1, false);
  lower_times(l.sub(h, 0), l.sub(h, h), between, rest, h, -1, false);
}

// Rows and columns in reverse order.
void reverse(float* a, size_t n) {
  parallel_for(n / 2 + n % 2, [&](size_t i, int) {
    float *top = a + i * n, *bottom = a + (n - 1 - i) * n;
    if (top == bottom) return std::reverse(top, top + n);
    for (size_t j = 0; j < n; ++j) std::swap(top[j], bottom[n - 1 - j]);
  });
}

}  // namespace

bool inverse_factor(float* h, size_t n, float* u) {
  // The lower triangle of the reverse is the upper of h.
  parallel_for(n, [&](size_t i, int) {
    for (size_t j = 0; j < i; ++j) h[j * n + i] = h[i * n + j];
  });
  reverse(h, n);
  std::vector<float> room;
  Block a{h, n};
  if (!cholesky(a, n, room)) return false;
  parallel_for(n, [&](size_t i, int) { std::fill(a.at(i, i) + 1, h + (i + 1) * n, 0.0f); });
  inverse(a, n, room);
  reverse(h, n);
  if (u != h) std::copy(h, h + n * n, u);
  return true;
}

}  // namespace qp::gemm
