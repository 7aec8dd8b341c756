// Matrix products of the model engine: f32 in, f32 out, row-major.
//
// The bits of an output element depend on nothing but its own inputs (two vectors of k numbers,
// alpha, bias, and what was there), on k and on the instruction set: not on m or n, its place in
// the matrix, the number of threads, or how a caller cuts rows and columns into calls. `Precision`
// f32 gives the same bits under avx2, avx512, avx512_bf16, amx and neon; scalar has no fused
// multiply-add.
//
// Sums. f32 kernels: a chain of fused multiply-adds over each 256 terms (from zero, in order of k),
// these sums added in order. AMX and AVX512_BF16: one chain over all of k, two terms a step, each
// with roundings of its own. NaN and infinities go the way of IEEE arithmetic; these two take
// subnormal inputs, and make subnormal sums, zero. NaNs' payloads are not promised.
//
// Strides are in elements. Nothing may alias an output. Pointers need no alignment. Any of m, n, k
// may be zero; a sum over no terms is +0.
#pragma once

#include <cstddef>
#include <cstdint>

#include "lib/gemm/memory.h"

namespace qp::gemm {

// bf16: both inputs are rounded to bf16 (to nearest, ties to even; NaN stays NaN), products and
// sums are f32. f32: inputs are taken as they are.
enum class Precision : uint8_t { bf16, f32 };

struct Backend;  // lib/gemm/backends.h

// Working memory of products in one thread; one per thread, kept between calls.
struct Scratch {
  Memory a, b, tiles;
};

// The implementation behind `precision`: "amx", "avx512_bf16", "avx512", "avx2", "neon" or "scalar",
// by what QPIPE_ISA names, else the best there is. Throws a usage error where QPIPE_ISA cannot be
// had.
const char* backend(Precision precision);

class Packed;

// The left-hand operand of multiply(), x [m, k], for products with several weights: it is packed at
// the first of them, if panel memory holds it whole. One thread.
class Left {
 public:
  Left() = default;
  Left(const float* x, size_t ldx, size_t m) : x_(x), ldx_(ldx), m_(m) {}
  ~Left() { clear(); }
  Left(const Left&) = delete;
  Left& operator=(const Left&) = delete;
  // Another matrix, not to be changed while it is used here.
  void set(const float* x, size_t ldx, size_t m);
  void clear();  // gives memory back

 private:
  friend void multiply(Left&, const Packed&, const float*, float*, size_t, bool);
  const float* x_ = nullptr;
  size_t ldx_ = 0, m_ = 0, k_ = 0;
  const Backend* backend_ = nullptr;  // that it is packed for
  Memory memory_;
};

// The right-hand operand of multiply(): W [n, k], a linear's weight (out x in), in the order the
// kernels read it. Filled once per layer; any number of threads may then read it.
class Packed {
 public:
  Packed() = default;
  // Room for W [n, k]; rows that are never packed are zero.
  Packed(size_t n, size_t k, Precision precision) { reshape(n, k, precision); }

  // Becomes another matrix in the same memory, where that is large enough: for one layer after the
  // other, as new memory is slow to touch. All rows have to be packed again.
  void reshape(size_t n, size_t k, Precision precision);

  // What a matrix takes, in bytes. bf16: 2 per element, f32: 4; rows padded to unit(), k to 32.
  // Throws a limit error when it does not fit into size_t.
  static size_t bytes(size_t n, size_t k, Precision precision);

  // Rows [first, first + count) of W, from rows[i * stride + p]; `rows` points to row `first`.
  // `first` is a multiple of unit(), and so is `count`, except up to the last row. Different
  // threads may pack different rows at once. The uint16_t forms take bf16 bits.
  void pack(size_t first, size_t count, const float* rows, size_t stride);
  void pack(size_t first, size_t count, const uint16_t* rows, size_t stride);
  // The same from a matrix that lies transposed, [k, n] (GPT-2's Conv1D; W^T where a gradient goes
  // back): element (i, p) at columns[p * stride + i]; `columns` points to the one of row `first`.
  void pack_transposed(size_t first, size_t count, const float* columns, size_t stride);
  void pack_transposed(size_t first, size_t count, const uint16_t* columns, size_t stride);
  // All rows, in parallel.
  void pack_all(const float* rows, size_t stride);
  void pack_all(const uint16_t* rows, size_t stride);
  void pack_all_transposed(const float* columns, size_t stride);
  void pack_all_transposed(const uint16_t* columns, size_t stride);

  // Rows come in groups of this many.
  static constexpr size_t unit() { return 64; }

  size_t n() const { return n_; }
  size_t k() const { return k_; }
  Precision precision() const { return precision_; }

 private:
  friend void multiply(Left&, const Packed&, const float*, float*, size_t, bool);
  friend void multiply_serial(const float*, size_t, size_t, const Packed&, float, float*, size_t,
                              bool, Scratch&);
  void pack_source(size_t first, size_t count, const void* data, size_t stride, bool transposed,
                   bool bf16);
  void pack_all_source(const void* data, size_t stride, bool transposed, bool bf16);

  Memory memory_;
  const Backend* backend_ = nullptr;
  size_t n_ = 0, k_ = 0;
  Precision precision_ = Precision::f32;
};

// y[m, n] = (accumulate ? y : 0) + x[m, k] * W^T (+ bias[n] unless null): the sum over k is made
// first, added to y, then the bias is added. Parallel. Takes up to 32 MiB of working memory, kept
// for the next call, and 1 MiB per thread.
void multiply(Left& x, const Packed& w, const float* bias, float* y, size_t ldy, bool accumulate);
void multiply(const float* x, size_t ldx, size_t m, const Packed& w, const float* bias, float* y,
              size_t ldy, bool accumulate);

// y[m, n] = (accumulate ? y : 0) + alpha * (x[m, k] * W^T) in the calling thread alone, for use
// inside parallel_for: W may be packed once for many calls (keys and values of attention, by head).
void multiply_serial(const float* x, size_t ldx, size_t m, const Packed& w, float alpha, float* y,
                     size_t ldy, bool accumulate, Scratch& scratch);

// Where a matrix may be other than zero, its diagonal included.
enum class Part : uint8_t { all, lower, upper };

// One side of a product. Left, a [m, k]: element (i, p) at data[i * ld + p], transposed: at
// data[p * ld + i]. Right, b [k, n]: element (p, j) at data[p * ld + j], transposed: at
// data[j * ld + p]. `part` is that of the matrix as it is multiplied, after transposing. Zeros
// elsewhere have to be there; sums leave most of them out, which changes no bit of a finite one.
// Which sums an infinity or NaN opposite such a zero reaches is not promised.
struct Operand {
  const float* data;
  size_t ld;
  bool transposed = false;
  Part part = Part::all;
};

// c[m, n] = (accumulate ? c : 0) + alpha * (a * b), alpha times the sum being rounded once more.
// With `lower` only the lower triangle of c, with its diagonal: what is above stays as it is.
// In the calling thread alone: for use inside parallel_for.
void product_serial(Precision precision, size_t m, size_t n, size_t k, float alpha, Operand a,
                    Operand b, float* c, size_t ldc, bool accumulate, Scratch& scratch,
                    bool lower = false);
// The same, parallel, with the same bits.
void product(Precision precision, size_t m, size_t n, size_t k, float alpha, Operand a, Operand b,
             float* c, size_t ldc, bool accumulate, bool lower = false);

// The lower triangle, with its diagonal, of h[k, k] += x[m, k]^T x[m, k]; what is above stays as it
// is. Rows of x are summed in blocks of kRankRows from the first on, and the sums of the blocks
// added to h in order: callers who cut x into calls do so at multiples of kRankRows, or always at
// the same rows. Parallel.
inline constexpr size_t kRankRows = 2048;
void rank_update_lower(Precision precision, const float* x, size_t ldx, size_t m, size_t k,
                       float* h, size_t ldh);

}  // namespace qp::gemm
