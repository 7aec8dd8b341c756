// Rounding of 16 rows at once, a row in each lane: the loops of algorithms that go through a matrix
// column by column (GPTQ) or try many scales for a group (clip search, HQQ).
//
// A strip is [columns][16 lanes]. One source, lanes.inc, compiled for each instruction set; every
// lane is computed on its own, in one order, so all give the same bits. As in kernels.h: no
// allocation, no exceptions, no threads.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qp::kernels {

inline constexpr size_t kStrip = 16;

// The numbers that quotients w / scale are rounded to, to nearest, ties to even.
enum class Levels : uint8_t { integer, e4m3, e2m1 };

// For integers: q = round(clamp(w / scale + zero)) to [lo, hi], value (q - zero) * scale; for floats
// q = the nearest E4M3 or E2M1 number, saturating, value q * scale. A scale of 0 gives q = zero.
struct Rounding {
  Levels levels = Levels::integer;
  float lo = -8, hi = 7;  // of integers
};

struct LaneTable {
  // GPTQ's walk over columns [first, last) of a block of `cols` columns: q[c] as above, error
  // e = (w[c] - value) / u[c][c], then w[j] -= e * u[c][j] for c < j < cols (u [cols, cols], rows
  // ldu apart). w[c] becomes e, q[c] the rounded quotient; loss[lane] += e^2.
  void (*sweep)(Rounding, float* w, size_t first, size_t last, size_t cols, const float* u,
                size_t ldu, const float* scale, const float* zero, float* q,
                float* loss) noexcept;
  // Coordinate descent over columns [first, last) of a block of `cols`: t = (w - value) h [cols, 16], h
  // [cols, cols] symmetric, rows ldh apart, inverse[c] = 1 / h[c][c], or 0 where a column stays. Each q
  // in turn becomes the best one as the others are, t of later columns follows, moved[c] += how far the
  // value went.
  void (*descend)(Rounding, float* t, size_t first, size_t last, size_t cols, const float* h, size_t ldh,
                  const float* inverse, const float* scale, const float* zero, float* q,
                  float* moved) noexcept;
  // y[j] = sum over n columns of x[c] * h[j][c] for j < m: h [m, n], rows ldh apart.
  void (*times)(const float* x, size_t n, const float* h, size_t ldh, size_t m, float* y) noexcept;
  // q of n columns.
  void (*round)(Rounding, const float* w, size_t n, const float* scale, const float* zero,
                float* q) noexcept;
  // error[lane] = sum over n columns of weight[c] * (value - w[c])^2; weight null: 1.
  void (*error)(Rounding, const float* w, size_t n, const float* scale, const float* zero,
                const float* weight, float* error) noexcept;
  // error[lane] = d^T h d for d = value - w over n columns; h [n, n] symmetric, rows ldh apart, of which
  // the lower triangle is read. room: n * 16 floats.
  void (*quadratic)(Rounding, const float* w, size_t n, const float* scale, const float* zero,
                    const float* h, size_t ldh, float* room, float* error) noexcept;
  // A half-quadratic step (HQQ): x = w - value, of which what a soft threshold leaves, sign(x) *
  // max(|x| - |x|^-0.3 / beta, 0), counts as outlier and is taken off: t = w - that. error = sum |x|;
  // for zero points num = sum (q - t / scale); for scales num = sum q t, den = sum q^2.
  void (*shrink)(Rounding, const float* w, size_t n, const float* scale, const float* zero, float beta,
                 bool zero_points, float* num, float* den, float* error) noexcept;
  // lo[lane] = min(0, w ..), hi[lane] = max(0, w ..) over n columns. NaN makes both NaN.
  void (*range)(const float* w, size_t n, float* lo, float* hi) noexcept;
  // Rows to a strip and back: strip[c][lane] = rows[lane * stride + c] for lanes < count (others 0).
  void (*to_strip)(const float* rows, size_t stride, size_t count, size_t n, float* strip) noexcept;
  void (*from_strip)(const float* strip, size_t count, size_t n, float* rows, size_t stride) noexcept;
};

// The table of active().
const LaneTable& lanes();

}  // namespace qp::kernels
