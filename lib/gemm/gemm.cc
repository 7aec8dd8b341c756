#include "lib/gemm/gemm.h"

#include <algorithm>
#include <mutex>
#include <vector>

#include "lib/base/checked.h"
#include "lib/base/parallel.h"
#include "lib/gemm/block.h"

namespace qp::gemm {
namespace {

constexpr size_t kPanelMemory = size_t{32} << 20;  // of one packed operand at a time
constexpr size_t kStreamed = size_t{8} << 20;      // a result of more than this leaves the cache

// Working memory of parallel products, kept between calls: new memory is slow to touch.
class Loan {
 public:
  Loan() {
    std::lock_guard lock(mutex());
    if (kept().empty()) return;
    memory_ = std::move(kept().back());
    kept().pop_back();
  }
  ~Loan() {
    std::lock_guard lock(mutex());
    kept().push_back(std::move(memory_));
  }
  Loan(const Loan&) = delete;
  Loan& operator=(const Loan&) = delete;
  char* need(size_t bytes) { return static_cast<char*>(memory_.need(bytes)); }

 private:
  static std::mutex& mutex() {
    static std::mutex m;
    return m;
  }
  static std::vector<Memory>& kept() {
    static std::vector<Memory> list;
    return list;
  }
  Memory memory_;
};

// Vectors [first, first + count) of a source.
Source part(const Source& s, size_t first) {
  size_t step = (s.transposed ? 1 : s.stride) * (s.bf16 ? 2 : 4);
  return {static_cast<const char*>(s.data) + first * step, s.stride, s.transposed, s.bf16};
}

using PackPanel = void (*)(const Source&, size_t, size_t, void*) noexcept;

void pack_panels(PackPanel pack, size_t width, size_t panel_bytes, const Source& s, size_t count,
                 size_t depth, char* to, bool parallel) {
  constexpr size_t kTogether = 2;  // panels a thread packs at a time
  size_t panels = ceil_div(count, width);
  auto some = [&](size_t group, int) {
    for (size_t i = group * kTogether; i < std::min(panels, (group + 1) * kTogether); ++i) {
      pack(part(s, i * width), std::min(width, count - i * width), depth, to + i * panel_bytes);
    }
  };
  size_t groups = ceil_div(panels, kTogether);
  if (parallel) {
    parallel_for(groups, some);
  } else {
    for (size_t g = 0; g < groups; ++g) some(g, 0);
  }
}

void pack_left(const Backend& be, const Source& s, size_t m, size_t k, char* to, bool parallel) {
  pack_panels(be.pack_a, be.rows, be.a_panel(k), s, m, k, to, parallel);
}
void pack_right(const Backend& be, const Source& s, size_t n, size_t k, char* to, bool parallel) {
  pack_panels(be.pack_b, be.cols, be.b_panel(k), s, n, k, to, parallel);
}

// As many vectors as kPanelMemory holds, in whole panels; all if they fit.
size_t vectors_at_once(size_t count, size_t width, size_t panel_bytes) {
  size_t panels = std::max<size_t>(kPanelMemory / std::max<size_t>(panel_bytes, 1), 1);
  return std::min(panels, std::max<size_t>(ceil_div(count, width), 1)) * width;
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
    pack_left(job.backend, part(a, i), job.m, job.k, panels, true);
    job.a = panels;
    run_blocks(job);
  }
}

// Both operands packed part by part, b outside.
void product_parallel(Job job, const Source& a, const Source& b) {
  const Backend& be = job.backend;
  size_t rows = vectors_at_once(job.m, be.rows, be.a_panel(job.k));
  size_t cols = vectors_at_once(job.n, be.cols, be.b_panel(job.k));
  Loan left, right;
  char* a_panels = left.need(rows / be.rows * be.a_panel(job.k));
  char* b_panels = right.need(cols / be.cols * be.b_panel(job.k));
  size_t n = job.n;
  float* c = job.c;
  for (size_t j = 0; j < n; j += cols) {
    job.n = std::min(cols, n - j);
    job.col0 = j;
    job.c = c + j;
    job.b = b_panels;
    pack_right(be, part(b, j), job.n, job.k, b_panels, true);
    times_packed(job, a, a_panels, rows);
  }
}

Source left_source(const Operand& a) { return {a.data, a.ld, a.transposed, false}; }
Source right_source(const Operand& b) { return {b.data, b.ld, !b.transposed, false}; }

}  // namespace

void multiply(const float* x, size_t ldx, size_t m, const Packed& w, const float* bias, float* y,
              size_t ldy, bool accumulate) {
  if (m == 0 || w.n_ == 0) return;
  const Backend& be = *w.backend_;
  size_t rows = vectors_at_once(m, be.rows, be.a_panel(w.k_));
  Loan loan;
  char* panels = loan.need(rows / be.rows * be.a_panel(w.k_));
  Job job{.backend = be,
          .m = m,
          .n = w.n_,
          .k = w.k_,
          .a = nullptr,
          .b = static_cast<const char*>(w.memory_.data()),
          .bias = bias,
          .c = y,
          .ldc = ldy,
          .accumulate = accumulate,
          .stream = !accumulate && m > kStreamed / sizeof(float) / w.n_};
  times_packed(job, {x, ldx, false, false}, panels, rows);
}

void product_serial(Precision precision, size_t m, size_t n, size_t k, float alpha, Operand a,
                    Operand b, float* c, size_t ldc, bool accumulate, Scratch& scratch) {
  if (m == 0 || n == 0) return;
  const Backend& be = active(precision);
  Job job{.backend = be,
          .m = m,
          .n = n,
          .k = k,
          .a = nullptr,
          .b = nullptr,
          .alpha = alpha,
          .c = c,
          .ldc = ldc,
          .accumulate = accumulate};
  char* a_panels = static_cast<char*>(scratch.a.need(ceil_div(m, be.rows) * be.a_panel(k)));
  char* b_panels = static_cast<char*>(scratch.b.need(ceil_div(n, be.cols) * be.b_panel(k)));
  pack_left(be, left_source(a), m, k, a_panels, false);
  pack_right(be, right_source(b), n, k, b_panels, false);
  job.a = a_panels;
  job.b = b_panels;
  Grid grid(job, 1);
  float* tiles = static_cast<float*>(scratch.tiles.need(grid.tile_bytes()));
  for (size_t i = 0; i < grid.blocks(); ++i) run_block(job, grid, i, tiles);
}

void product(Precision precision, size_t m, size_t n, size_t k, float alpha, Operand a, Operand b,
             float* c, size_t ldc, bool accumulate) {
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
          .accumulate = accumulate};
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
