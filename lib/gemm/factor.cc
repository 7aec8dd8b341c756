#include "lib/gemm/factor.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "lib/base/checked.h"
#include "lib/base/parallel.h"
#include "lib/gemm/gemm.h"

namespace qp::gemm {
namespace {

constexpr size_t kBase = 64;    // matrices up to this size are done element by element, in f64
constexpr size_t kAlone = 256;  // up to this size one thread does it: a team would wait for itself
constexpr size_t kRows = 192;   // that a thread solves at a time
constexpr size_t kWindow = 16;  // elements of a cache line
constexpr auto f32 = Precision::f32;

// A square block of a row-major matrix.
struct Block {
  float* data;
  size_t ld;
  float* at(size_t r, size_t c) const { return data + r * ld + c; }
  Block sub(size_t r, size_t c) const { return {at(r, c), ld}; }
};

// What a thread works with.
struct Room {
  Scratch scratch;
  Memory memory;
  float* floats(size_t n) { return static_cast<float*>(memory.need(n * sizeof(float))); }
};

// Half of n, in whole base blocks.
size_t split(size_t n) { return (n / 2 + kBase - 1) / kBase * kBase; }

// a [n, n], n <= kBase: its Cholesky factor, in place, and the factor's inverse, dense, with kBase
// elements a row. Loops run along rows: no sum has to wait for itself.
bool small_factor(Block a, size_t n, float* inverse) {
  double l[kBase][kBase], column[kBase], x[kBase][kBase] = {};
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j <= i; ++j) l[i][j] = static_cast<double>(*a.at(i, j));
  }
  for (size_t j = 0; j < n; ++j) {
    if (!(l[j][j] > 0) || !std::isfinite(l[j][j])) return false;
    l[j][j] = std::sqrt(l[j][j]);
    for (size_t i = j + 1; i < n; ++i) column[i] = l[i][j] /= l[j][j];
    for (size_t i = j + 1; i < n; ++i) {
      const double v = column[i];
      for (size_t k = j + 1; k <= i; ++k) l[i][k] -= v * column[k];
    }
  }
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j <= i; ++j) *a.at(i, j) = static_cast<float>(l[i][j]);
    x[i][i] = 1;
    for (size_t k = 0; k < i; ++k) {
      const double v = l[i][k];
      for (size_t j = 0; j <= k; ++j) x[i][j] -= v * x[k][j];
    }
    for (size_t j = 0; j <= i; ++j) x[i][j] /= l[i][i];
    for (size_t j = 0; j < n; ++j) inverse[i * kBase + j] = static_cast<float>(x[i][j]);
  }
  return true;
}

// Recursive, with matrix products between the halves. `inverses_` are those of the base blocks of
// the diagonal, kBase rows each, one below the other.
class Cholesky {
 public:
  Cholesky(Block a, size_t n)
      : a_(a), n_(n), inverses_(ceil_div(n, kBase) * kBase * kBase),
        rooms_(static_cast<size_t>(threads())) {}

  // The factor l in the lower triangle; false where there is none.
  bool factor() { return factor(0, n_); }

  // After factor(), with zeros above the diagonal: the inverse of l, in its place.
  void invert() {
    std::vector<std::pair<size_t, size_t>> alone;
    cut(0, n_, alone);
    parallel_for(alone.size(), [&](size_t i, int worker) {
      invert(alone[i].first, alone[i].second, rooms_[static_cast<size_t>(worker)]);
    });
    join(0, n_);
  }

 private:
  const float* inverse_at(size_t at) const { return inverses_.data() + at * kBase; }

  // Rows and columns [at, at + n).
  bool factor(size_t at, size_t n) {
    Block a = a_.sub(at, at);
    if (n <= kBase) return small_factor(a, n, inverses_.data() + at * kBase);
    size_t h = split(n), rest = n - h;
    if (!factor(at, h)) return false;
    Block below = a.sub(h, 0), corner = a.sub(h, h);
    const Operand left{below.data, below.ld}, right{below.data, below.ld, true};
    if (n <= kAlone) {
      Room& room = rooms_[0];
      solve(below, rest, at, h, room);
      product_serial(f32, rest, rest, h, -1, left, right, corner.data, a.ld, true, room.scratch,
                     true);
    } else {
      solve_together(below, rest, at, h);
      product(f32, rest, rest, h, -1, left, right, corner.data, a.ld, true, true);
    }
    return factor(at + h, rest);
  }

  // x [m, n] becomes x l^-T, l being rows and columns [at, at + n) of the factor. Its rows know
  // nothing of each other.
  void solve_together(Block x, size_t m, size_t at, size_t n) {
    if (n <= kAlone) {
      parallel_for(ceil_div(m, kRows), [&](size_t i, int worker) {
        solve(x.sub(i * kRows, 0), std::min(kRows, m - i * kRows), at, n,
              rooms_[static_cast<size_t>(worker)]);
      });
      return;
    }
    size_t h = split(n);
    solve_together(x, m, at, h);
    product(f32, m, n - h, h, -1, {x.data, x.ld}, {a_.at(at + h, at), a_.ld, true}, x.at(0, h),
            x.ld, true);
    solve_together(x.sub(0, h), m, at + h, n - h);
  }

  void solve(Block x, size_t m, size_t at, size_t n, Room& room) {
    if (n <= kBase) {
      float* copy = room.floats(m * kBase);
      for (size_t i = 0; i < m; ++i) std::copy_n(x.at(i, 0), n, copy + i * kBase);
      product_serial(f32, m, n, n, 1, {copy, kBase}, {inverse_at(at), kBase, true, Part::upper},
                     x.data, x.ld, false, room.scratch);
      return;
    }
    size_t h = split(n);
    solve(x, m, at, h, room);
    product_serial(f32, m, n - h, h, -1, {x.data, x.ld}, {a_.at(at + h, at), a_.ld, true},
                   x.at(0, h), x.ld, true, room.scratch);
    solve(x.sub(0, h), m, at + h, n - h, room);
  }

  // The blocks that one thread inverts.
  static void cut(size_t at, size_t n, std::vector<std::pair<size_t, size_t>>& to) {
    if (n <= kAlone) {
      to.emplace_back(at, n);
      return;
    }
    cut(at, split(n), to);
    cut(at + split(n), n - split(n), to);
  }

  void invert(size_t at, size_t n, Room& room) {
    if (n <= kBase) {
      for (size_t i = 0; i < n; ++i) {
        std::copy_n(inverse_at(at) + i * kBase, i + 1, a_.at(at + i, at));
      }
      return;
    }
    size_t h = split(n), rest = n - h;
    invert(at, h, room);
    invert(at + h, rest, room);
    float* middle = room.floats(rest * h);
    auto [between, corner, left, right] = across(at, h, middle);
    product_serial(f32, rest, h, h, 1, corner, left, middle, h, false, room.scratch);
    product_serial(f32, rest, h, rest, -1, right, between, a_.at(at + h, at), a_.ld, false,
                   room.scratch);
  }

  // Inverses of blocks that lie side by side become one of both.
  void join(size_t at, size_t n) {
    if (n <= kAlone) return;
    size_t h = split(n), rest = n - h;
    join(at, h);
    join(at + h, rest);
    float* middle = rooms_[0].floats(rest * h);
    auto [between, corner, left, right] = across(at, h, middle);
    product(f32, rest, h, h, 1, corner, left, middle, h, false);
    product(f32, rest, h, rest, -1, right, between, a_.at(at + h, at), a_.ld, false);
  }

  // [l 0; c r]^-1 = [l' 0; -r' (c l') r'].
  struct Sides {
    Operand between, corner, left, right;
  };
  Sides across(size_t at, size_t h, const float* between) const {
    return {{between, h},
            {a_.at(at + h, at), a_.ld},
            {a_.at(at, at), a_.ld, false, Part::lower},
            {a_.at(at + h, at + h), a_.ld, false, Part::lower}};
  }

  Block a_;
  size_t n_;
  std::vector<float> inverses_;
  std::vector<Room> rooms_;  // by thread
};

// Lower triangle: (i, j) and (n - 1 - j, n - 1 - i) change places, so that it becomes that of the
// symmetric matrix with its rows and columns in reverse order. By windows, as one of the two is
// walked across rows.
void reverse_symmetric(float* a, size_t n) {
  parallel_for(ceil_div(n, kWindow), [&](size_t band, int) {
    const size_t i0 = band * kWindow, i1 = std::min(n, i0 + kWindow);
    for (size_t j0 = 0; j0 < i1 && i0 + j0 < n - 1; j0 += kWindow) {
      const size_t j1 = j0 + kWindow;
      if (i1 - i0 < kWindow || j1 - 1 > i0 || i1 + j1 - 2 >= n - 1) {  // cut by an edge
        for (size_t i = i0; i < i1; ++i) {
          for (size_t j = j0; j < j1 && j <= i && i + j < n - 1; ++j) {
            std::swap(a[i * n + j], a[(n - 1 - j) * n + n - 1 - i]);
          }
        }
        continue;
      }
      float here[kWindow][kWindow], there[kWindow][kWindow];
      float *at = a + i0 * n + j0, *other = a + (n - j1) * n + n - i1;
      for (size_t r = 0; r < kWindow; ++r) {
        std::copy_n(at + r * n, kWindow, here[r]);
        std::copy_n(other + r * n, kWindow, there[r]);
      }
      for (size_t r = 0; r < kWindow; ++r) {
        for (size_t c = 0; c < kWindow; ++c) {
          at[r * n + c] = there[kWindow - 1 - c][kWindow - 1 - r];
          other[r * n + c] = here[kWindow - 1 - c][kWindow - 1 - r];
        }
      }
    }
  });
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
  if (n == 0) return true;
  reverse_symmetric(h, n);
  Cholesky cholesky({h, n}, n);
  if (!cholesky.factor()) return false;
  parallel_for(n, [&](size_t i, int) { std::fill(h + i * n + i + 1, h + (i + 1) * n, 0.0f); });
  cholesky.invert();
  reverse(h, n);
  if (u != h) std::copy(h, h + n * n, u);
  return true;
}

}  // namespace qp::gemm
