// The loops over weights: reduce, quantize + pack, dequantize, compare.
//
// Every operation exists as scalar code (the specification, *_ref.cc) and for each instruction set
// in kernels.def; all give the same bits on every input, NaN, Inf, -0, denormals and odd tails
// included. Kernels take pointers and sizes, do not allocate, throw or start threads, and write
// exactly the bytes documented. Callers split work by rows. (A NaN in an f32 output is some NaN:
// its sign and payload are not part of the contract, but for group_absmax, group_minmax, casts.)
//
// A row has `cols` elements in groups of `group` along the row (the last one may be shorter; a
// group >= cols means one group), so it has ceil(cols / group) scales. Scales and zero points
// arrive as f32 whatever dtype stores them. Division is IEEE f32 division (or gives its bits).
#pragma once

#include <cstddef>
#include <cstdint>

namespace qp::kernels {

// Element type of a source row. "Rounded to Src" below means: f32 result rounded once to that type,
// to nearest even (nothing to do for f32). References: DESIGN.md, "Numerics".
enum class Src : uint8_t { bf16, f16, f32 };

// Sums behind MSE, SQNR and cosine of two rows, in f64. Element i goes to lane i % 16 of each sum,
// lanes are added pairwise (0+8, 1+9, .. then 0+4 ..) at the end of each call, so the
// result does not depend on the instruction set. Non-finite pairs are counted and left out.
struct ErrorSums {
  double diff2 = 0;    // sum (a-b)^2
  double a2 = 0;       // sum a^2
  double b2 = 0;       // sum b^2
  double ab = 0;       // sum a*b
  double max_abs = 0;  // max |a-b|
  uint64_t nonfinite = 0;
};

struct Table {
  const char* isa;  // "scalar", "avx2", "avx512", "neon"

  // out[g] = max |x| over group g. A NaN in the group gives NaN; +-Inf gives +Inf.
  void (*group_absmax)(Src, const void* src, size_t cols, size_t group, float* out) noexcept;
  // lo[g] = min(0, x...), hi[g] = max(0, x...) (-0 counts as 0, results are never -0).
  // A NaN in the group makes both NaN.
  void (*group_minmax)(Src, const void* src, size_t cols, size_t group, float* lo,
                       float* hi) noexcept;

  // Integer codes of `bits` (2..8): t = w / scale rounded to Src; with zero points
  // t = t + zero_point[g] rounded to Src; clamp to [-2^(bits-1), 2^(bits-1)-1]; round to nearest
  // even; stored code u = q + 2^(bits-1). zero_point is in the signed domain, or null.
  // Codes are packed as a little-endian bit stream: element i occupies bits [i*bits, (i+1)*bits);
  // ceil(cols*bits/8) bytes are written, unused bits 0. NaN quotients give code of 0 after clamp
  // to the lower bound (callers refuse non-finite weights first; this only pins the behaviour).
  void (*int_codes)(Src, const void* src, size_t cols, size_t group, const float* scale,
                    const float* zero_point, int bits, uint8_t* out) noexcept;

  // E4M3 (fn) codes, one byte each: w / scale rounded to Src, clamped to +-448, to nearest even.
  // The sign of zero and of underflow is kept, except that a rounded quotient of -0.0 gives 0x00
  // when `drop_negative_zero` (compressed-tensors oneshot adds a zero point of 0). NaN gives 0x7F.
  void (*e4m3_codes)(Src, const void* src, size_t cols, size_t group, const float* scale,
                     bool drop_negative_zero, uint8_t* out) noexcept;

  // E2M1 codes, two per byte, even column in the low nibble (cols is even): w / scale, rounded to
  // Src when `round_quotient` (MXFP4; NVFP4 stays in f32), clamped to +-6, then |t| <=.25->0,
  // <.75->.5, <=1.25->1, <1.75->1.5, <=2.5->2, <3.5->3, <=5->4, else 6. Sign bit set iff t < 0
  // (so -0.0 gives 0, a negative value rounded to 0 gives 8). NaN gives 7.
  void (*e2m1_codes)(Src, const void* src, size_t cols, size_t group, const float* scale,
                     bool round_quotient, uint8_t* out) noexcept;

  // NVFP4 local scales from group absmax: code = e4m3(clamp(global * (amax/6 rounded to Src),
  // +-448)), 0 replaced by 0x20 (0.125); effective = f32(code) / global.
  void (*nvfp4_scales)(Src, const float* amax, size_t groups, float global, uint8_t* code,
                       float* effective) noexcept;
  // MX shared exponents from group absmax (values representable in Src): power of two P = amax
  // with a quarter of the mantissa range added and the mantissa cleared, done on the bits of Src;
  // E = clamp(127 + log2 P - offset, 0, 255), offset 2 for FP4, 8 for FP8; amax 0 or subnormal
  // without carry: E = 0 (Src f16: scale 2^-127 underflows, so scale 1.0 and E = 127); P infinite
  // (a carry out of the largest exponent, Inf) or NaN: E = 255.
  // effective = 2^(E-127) as the reference divides by it, Inf for 255.
  void (*mx_scales)(Src, const float* amax, size_t groups, int offset, uint8_t* code,
                    float* effective) noexcept;

  // Inverses, to f32. int: (u - 2^(bits-1) - zero_point) * scale. e4m3 / e2m1: value * scale.
  void (*int_values)(const uint8_t* codes, size_t cols, size_t group, const float* scale,
                     const float* zero_point, int bits, float* out) noexcept;
  void (*e4m3_values)(const uint8_t* codes, size_t cols, size_t group, const float* scale,
                      float* out) noexcept;
  void (*e2m1_values)(const uint8_t* codes, size_t cols, size_t group, const float* scale,
                      float* out) noexcept;

  // Casts. NaN stays NaN and keeps its sign and upper payload; it becomes quiet, except bf16 -> f32
  // and f32 -> f32, which keep all bits. f32 -> f16 overflows to Inf; subnormals are kept.
  void (*to_f32)(Src, const void* src, size_t n, float* out) noexcept;
  void (*from_f32)(Src, const float* src, size_t n, void* out) noexcept;

  // Adds one row to the sums (see ErrorSums).
  void (*compare)(const float* a, const float* b, size_t n, ErrorSums* sums) noexcept;

  // counts[u] += occurrences of code u among the first `cols` codes of `bits` (2..8) in a packed
  // row.
  void (*histogram)(const uint8_t* codes, size_t cols, int bits, uint64_t* counts) noexcept;
};

// The table in use: the best the processor has, or what QPIPE_ISA names (kernels.def: scalar, avx2,
// avx512, avx512_bf16, amx, neon). Throws a usage error, naming the valid ones, when QPIPE_ISA is
// unknown, or not for this processor. Chosen once per process.
const Table& active();
// The name behind that choice; "avx512_bf16" and "amx" have the table of avx512.
const char* active_isa();
// Whether this processor and its OS have what kernels.def calls `isa`.
bool supports(const char* isa);

// Tables compiled in and supported by this processor, scalar first. For tests and benches.
struct TableList {
  const Table* const* data;
  size_t size;
  const Table* const* begin() const { return data; }
  const Table* const* end() const { return data + size; }
};
TableList supported();

}  // namespace qp::kernels
