// What one instruction set brings to a product, for one precision. Private to lib/gemm, its tests
// and its bench.
//
// Operands are packed into panels of `rows` (left) or `cols` (right) vectors, each panel whole over
// k, which is padded with zeros to a multiple of `depth_unit`. A product is made in blocks: tiles
// of rows x cols sums, contiguous, stay in the cache while k is walked in steps of `depth_block`.
// How blocks are cut never shows in the bits: a tile's sums know nothing of their neighbours.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qp::gemm {

enum class Precision : uint8_t;  // gemm.h, which has more than the kernels' files may see

// Vectors of k elements: (i, p) at data[i * stride + p], transposed: at data[p * stride + i].
struct Source {
  const void* data;
  size_t stride;
  bool transposed;
  bool bf16;  // 16 bits an element, else f32
};

// Triangles of the operands a [m, k] and b [k, n] that are zero.
struct Zeros {
  bool a_above, a_below, b_above, b_below;
};

// One step along k of a block of tiles: tile (i, j), at tiles + (j * a_panels + i) * rows * cols,
// gets the sums over `depth` elements of panel i of a and panel j of b; the first step sets them.
// With `lower`, tiles whose elements all have a column above their row are left out, where the
// block's first row is `row0` and its first column `col0`. `zeros` may be left out of sums, where
// the step's first element along k is `k0`.
struct Step {
  const char* a;
  const char* b;
  size_t a_stride, b_stride;  // bytes from panel to panel
  size_t a_panels, b_panels;
  size_t depth;
  float* tiles;
  bool first;
  bool fetch;  // the next step, whose data follow, comes soon
  bool lower;
  Zeros zeros;
  size_t row0, col0, k0;
};

// Writes a block's tiles to c [rows, cols]: (accumulate ? c : 0) + alpha * tile (+ bias).
struct Finish {
  const float* tiles;
  size_t a_panels;
  size_t rows, cols;
  float alpha;
  const float* bias;  // null: none
  float* c;
  size_t ldc;
  bool accumulate;
  bool stream;  // c is not read soon: write around the cache
  bool lower;
  size_t row0, col0;
};

struct Backend {
  const char* isa;
  size_t rows, cols;  // of a tile; cols divides Packed::unit()
  size_t depth_unit, depth_block;
  size_t a_size, b_size;  // bytes of a packed element
  // A panel of `count` vectors (the rest of it zero), `depth` elements each (zero in the padding).
  // Parts of a panel along k may be packed apart, from multiples of depth_unit on.
  void (*pack_a)(const Source&, size_t count, size_t depth, void* panel) noexcept;
  void (*pack_b)(const Source&, size_t count, size_t depth, void* panel) noexcept;
  // Around step() and finish() on a thread: sets up and gives back what the processor needs.
  void (*begin)() noexcept;
  void (*end)() noexcept;
  void (*step)(const Step&) noexcept;
  void (*finish)(const Finish&) noexcept;

  size_t depth(size_t k) const { return (k + depth_unit - 1) / depth_unit * depth_unit; }
  size_t a_panel(size_t k) const { return (depth(k) * rows * a_size + 63) / 64 * 64; }
  size_t b_panel(size_t k) const { return (depth(k) * cols * b_size + 63) / 64 * 64; }
};

// Of the instruction set in use.
const Backend& active(Precision precision);

// Instruction sets that can be had here, slowest first.
struct Pair {
  const char* isa;
  const Backend* bf16;
  const Backend* f32;
};
struct PairList {
  const Pair* data;
  size_t size;
  const Pair* begin() const { return data; }
  const Pair* end() const { return data + size; }
};
PairList supported();

// Bytes of one packed operand that a parallel product holds at a time.
size_t panel_memory();

// While it lives, the process uses this. For tests and benches; one thread only.
class Forced {
 public:
  explicit Forced(const Pair& pair, size_t panel_memory = size_t{32} << 20);
  ~Forced();
  Forced(const Forced&) = delete;
  Forced& operator=(const Forced&) = delete;

 private:
  const Pair* before_;
  size_t memory_before_;
};

#define QP_GEMM_ISA(name) extern const Backend k_##name##_bf16, k_##name##_f32;
QP_GEMM_ISA(scalar)
QP_GEMM_ISA(avx2)
QP_GEMM_ISA(avx512)
QP_GEMM_ISA(neon)
#undef QP_GEMM_ISA
extern const Backend k_avx512_bf16_bf16, k_amx_bf16;

}  // namespace qp::gemm
