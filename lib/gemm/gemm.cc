#include "lib/gemm/gemm.h"

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

#include "lib/base/checked.h"
#include "lib/base/parallel.h"
#include "lib/gemm/block.h"

namespace qp::gemm {
namespace {

constexpr size_t kStreamed = size_t{8} << 20;  // a result of more than this leaves the cache

// Working memory of parallel products, kept between calls: new memory is slow to touch.
class Store {
 public:
  Memory take() {
    std::lock_guard lock(mutex_);
    if (kept_.empty()) return {};
    Memory memory = std::move(kept_.back());
    kept_.pop_back();
    return memory;
  }
  void give(Memory memory) {
    std::lock_guard lock(mutex_);
    kept_.push_back(std::move(memory));
  }

 private:
  std::mutex mutex_;
  std::vector<Memory> kept_;
};

Store& store() {
  static Store s;
  return s;
}

class Loan {
 public:
  Loan() : memory_(store().take()) {}
  ~Loan() { store().give(std::move(memory_)); }
  Loan(const Loan&) = delete;
  Loan& operator=(const Loan&) = delete;
  char* need(size_t bytes) { return static_cast<char*>(memory_.need(bytes)); }

 private:
  Memory memory_;
};

// A source from vector `first` and element `from` on.
Source part(const Source& s, size_t first, size_t from = 0) {
  size_t at = s.transposed ? from * s.stride + first : first * s.stride + from;
  return {static_cast<const char*>(s.data) + at * (s.bf16 ? 2 : 4), s.stride, s.transposed, s.bf16};
}

// How one side of a product is packed.
struct Side {
  void (*pack)(const Source&, size_t, size_t, void*) noexcept;
  size_t width, size, panel_bytes;
};
Side left_side(const Backend& be, size_t k) {
  return {be.pack_a, be.rows, be.a_size, be.a_panel(k)};
}
Side right_side(const Backend& be, size_t k) {
  return {be.pack_b, be.cols, be.b_size, be.b_panel(k)};
}

// Some panels of a source that lies transposed: a few rows of it at a time, for all of them, as
// every row is in another page.
void pack_some_transposed(const Side& side, const Source& s, size_t first, size_t end, size_t depth,
                          char* to) {
  constexpr size_t kSlice = 64;  // a multiple of every depth_unit
  for (size_t p = 0; p < depth; p += kSlice) {
    for (size_t i = first; i < end; i += side.width) {
      char* panel = to + i / side.width * side.panel_bytes;
      side.pack(part(s, i, p), std::min(side.width, end - i), std::min(kSlice, depth - p),
                panel + p * side.width * side.size);
    }
  }
}

void pack_panels(const Side& side, const Source& s, size_t count, size_t depth, char* to,
                 bool parallel) {
  size_t together = side.width * (s.transposed ? 8 : 2);  // vectors a thread packs at a time
  auto some = [&](size_t group, int) {
    size_t first = group * together, end = std::min(count, first + together);
    if (s.transposed) {
      pack_some_transposed(side, s, first, end, depth, to);
      return;
    }
    for (size_t i = first; i < end; i += side.width) {
      side.pack(part(s, i), std::min(side.width, end - i), depth,
                to + i / side.width * side.panel_bytes);
    }
  };
  size_t groups = ceil_div(count, together);
  if (parallel) {
    parallel_for(groups, some);
  } else {
    for (size_t g = 0; g < groups; ++g) some(g, 0);
  }
}

// As many vectors as panel_memory() holds, in whole panels; all if they fit.
size_t vectors_at_once(size_t count, const Side& side) {
  size_t panels = std::max<size_t>(panel_memory() / std::max<size_t>(side.panel_bytes, 1), 1);
  return std::min(panels, ceil_div(count, side.width)) * side.width;
}

size_t bytes_of(const Side& side, size_t vectors) {
  return ceil_div(vectors, side.width) * side.panel_bytes;
}

// Rows of a, packed part by part, times a b that is packed whole. The part of a starts at row 0.
void times_packed(Job job, const Source& a, char* panels, size_t at_once) {
  size_t m = job.m, row0 = job.row0;
  float* c = job.c;
  for (size_t i = 0; i < m; i += at_once) {
    job.m = std::min(at_once, m - i);
    job.row0 = row0 + i;
    if (job.lower && job.col0 > job.row0 + job.m - 1) continue;
    job.c = c + i * job.ldc;
    pack_panels(left_side(job.backend, job.k), part(a, i), job.m, job.k, panels, true);
    job.a = panels;
    run_blocks(job);
  }
}

// Both operands packed part by part, b outside.
void product_parallel(Job job, const Source& a, const Source& b) {
  Side left = left_side(job.backend, job.k), right = right_side(job.backend, job.k);
  size_t rows = vectors_at_once(job.m, left), cols = vectors_at_once(job.n, right);
  Loan a_memory, b_memory;
  char* a_panels = a_memory.need(bytes_of(left, rows));
  char* b_panels = b_memory.need(bytes_of(right, cols));
  size_t n = job.n;
  float* c = job.c;
  for (size_t j = 0; j < n; j += cols) {
    job.n = std::min(cols, n - j);
    job.col0 = j;
    job.c = c + j;
    job.b = b_panels;
    pack_panels(right, part(b, j), job.n, job.k, b_panels, true);
    times_packed(job, a, a_panels, rows);
  }
}

Source left_source(const Operand& a) { return {a.data, a.ld, a.transposed, false}; }
Source right_source(const Operand& b) { return {b.data, b.ld, !b.transposed, false}; }

Zeros zeros(const Operand& a, const Operand& b) {
  return {.a_above = a.part == Part::lower,
          .a_below = a.part == Part::upper,
          .b_above = b.part == Part::lower,
          .b_below = b.part == Part::upper};
}

// Rows of a times a b that is packed, in this thread.
void run_serial(Job job, const Source& a, Scratch& scratch) {
  Side left = left_side(job.backend, job.k);
  char* panels = static_cast<char*>(scratch.a.need(bytes_of(left, job.m)));
  pack_panels(left, a, job.m, job.k, panels, false);
  job.a = panels;
  Grid grid(job, 1);
  float* tiles = static_cast<float*>(scratch.tiles.need(grid.tile_bytes()));
  for (size_t i = 0; i < grid.blocks(); ++i) run_block(job, grid, i, tiles);
}

}  // namespace

void Left::set(const float* x, size_t ldx, size_t m) {
  clear();
  x_ = x;
  ldx_ = ldx;
  m_ = m;
}

void Left::clear() {
  if (memory_.data() != nullptr) store().give(std::exchange(memory_, {}));
  backend_ = nullptr;
}

void multiply(Left& x, const Packed& w, const float* bias, float* y, size_t ldy, bool accumulate) {
  if (x.m_ == 0 || w.n_ == 0) return;
  const Backend& be = *w.backend_;
  Side left = left_side(be, w.k_);
  size_t rows = vectors_at_once(x.m_, left);
  bool ready = x.backend_ == &be && x.k_ == w.k_;
  if (x.memory_.data() == nullptr) x.memory_ = store().take();
  char* panels = static_cast<char*>(x.memory_.need(bytes_of(left, rows)));
  Job job{.backend = be,
          .m = x.m_,
          .n = w.n_,
          .k = w.k_,
          .a = panels,
          .b = static_cast<const char*>(w.memory_.data()),
          .bias = bias,
          .c = y,
          .ldc = ldy,
          .accumulate = accumulate,
          .stream = !accumulate && x.m_ > kStreamed / sizeof(float) / w.n_};
  if (ready) {
    run_blocks(job);
    return;
  }
  times_packed(job, {x.x_, x.ldx_, false, false}, panels, rows);
  x.backend_ = rows >= x.m_ ? &be : nullptr;
  x.k_ = w.k_;
}

void multiply(const float* x, size_t ldx, size_t m, const Packed& w, const float* bias, float* y,
              size_t ldy, bool accumulate) {
  Left left(x, ldx, m);
  multiply(left, w, bias, y, ldy, accumulate);
}

void multiply_serial(const float* x, size_t ldx, size_t m, const Packed& w, float alpha, float* y,
                     size_t ldy, bool accumulate, Scratch& scratch) {
  if (m == 0 || w.n_ == 0) return;
  Job job{.backend = *w.backend_,
          .m = m,
          .n = w.n_,
          .k = w.k_,
          .a = nullptr,
          .b = static_cast<const char*>(w.memory_.data()),
          .alpha = alpha,
          .c = y,
          .ldc = ldy,
          .accumulate = accumulate};
  run_serial(job, {x, ldx, false, false}, scratch);
}

void product_serial(Precision precision, size_t m, size_t n, size_t k, float alpha, Operand a,
                    Operand b, float* c, size_t ldc, bool accumulate, Scratch& scratch,
                    bool lower) {
  if (m == 0 || n == 0) return;
  const Backend& be = active(precision);
  Side right = right_side(be, k);
  char* panels = static_cast<char*>(scratch.b.need(bytes_of(right, n)));
  pack_panels(right, right_source(b), n, k, panels, false);
  Job job{.backend = be,
          .m = m,
          .n = n,
          .k = k,
          .a = nullptr,
          .b = panels,
          .alpha = alpha,
          .c = c,
          .ldc = ldc,
          .accumulate = accumulate,
          .lower = lower,
          .zeros = zeros(a, b)};
  run_serial(job, left_source(a), scratch);
}

void product(Precision precision, size_t m, size_t n, size_t k, float alpha, Operand a, Operand b,
             float* c, size_t ldc, bool accumulate, bool lower) {
  if (m == 0 || n == 0) return;
  Job job{.backend = active(precision),
          .m = m,
          .n = n,
          .k = k,
          .a = nullptr,
          .b = nullptr,
          .alpha = alpha,
          .c = c,
          .ldc = ldc,
          .accumulate = accumulate,
          .lower = lower,
          .zeros = zeros(a, b)};
  product_parallel(job, left_source(a), right_source(b));
}

void rank_update_lower(Precision precision, const float* x, size_t ldx, size_t m, size_t k,
                       float* h, size_t ldh) {
  if (k == 0) return;
  for (size_t i = 0; i < m; i += kRankRows) {
    Source columns{x + i * ldx, ldx, true, false};
    Job job{.backend = active(precision),
            .m = k,
            .n = k,
            .k = std::min(kRankRows, m - i),
            .a = nullptr,
            .b = nullptr,
            .c = h,
            .ldc = ldh,
            .accumulate = true,
            .lower = true};
    product_parallel(job, columns, columns);
  }
}

}  // namespace qp::gemm
