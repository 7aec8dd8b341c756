#include "lib/gemm/block.h"

#include <algorithm>

#include "lib/base/checked.h"
#include "lib/base/parallel.h"

namespace qp::gemm {
namespace {

// A block's tiles (576 KiB) and its panels over two steps of k stay in 2 MiB of L2.
constexpr size_t kBlock = 384, kSmallest = 64;
constexpr size_t kInL1Rows = 32, kInL1Cols = 128;

size_t round_up_to(size_t a, size_t unit) { return (a + unit - 1) / unit * unit; }

// Rows [i, i + rows), columns [j, j + cols), both from the start of a panel.
void run_part(const Job& job, size_t i, size_t j, size_t rows, size_t cols, float* tiles) {
  const Backend& be = job.backend;
  if (job.lower && job.col0 + j > job.row0 + i + rows - 1) return;
  size_t a_stride = be.a_panel(job.k), b_stride = be.b_panel(job.k), depth = be.depth(job.k);
  // Steps in which one side is nothing but zeros are left out, if another one is there.
  const Zeros& z = job.zeros;
  size_t row = job.row0 + i, col = job.col0 + j, begin = 0, end = depth;
  if (z.a_above) end = std::min(end, row + rows);
  if (z.b_below) end = std::min(end, col + cols);
  if (z.a_below) begin = std::max(begin, row);
  if (z.b_above) begin = std::max(begin, col);
  begin = std::min(begin, end > 0 ? end - 1 : 0) / be.depth_block * be.depth_block;
  Step step{.a = job.a + i / be.rows * a_stride + begin * be.rows * be.a_size,
            .b = job.b + j / be.cols * b_stride + begin * be.cols * be.b_size,
            .a_stride = a_stride,
            .b_stride = b_stride,
            .a_panels = ceil_div(rows, be.rows),
            .b_panels = ceil_div(cols, be.cols),
            .depth = 0,
            .tiles = tiles,
            .first = true,
            .fetch = false,
            .lower = job.lower,
            .zeros = z,
            .row0 = row,
            .col0 = col,
            .k0 = 0};
  for (size_t p = begin; p == begin || p < end; p += be.depth_block) {  // once for k = 0: zeros
    step.depth = std::min(be.depth_block, depth - p);
    step.fetch = p + step.depth < end;
    step.k0 = p;
    be.step(step);
    step.a += step.depth * be.rows * be.a_size;
    step.b += step.depth * be.cols * be.b_size;
    step.first = false;
  }
  be.finish({.tiles = tiles,
             .a_panels = step.a_panels,
             .rows = rows,
             .cols = cols,
             .alpha = job.alpha,
             .bias = job.bias != nullptr ? job.bias + j : nullptr,
             .c = job.c + i * job.ldc + j,
             .ldc = job.ldc,
             .accumulate = job.accumulate,
             .stream = job.stream,
             .lower = job.lower,
             .row0 = row,
             .col0 = col});
}

}  // namespace

Grid::Grid(const Job& job, int threads) {
  const Backend& be = job.backend;
  size_t r = std::min(job.m, kBlock), c = std::min(job.n, kBlock);
  auto count = [&] { return ceil_div(job.m, r) * ceil_div(job.n, c); };
  // Enough blocks that no thread waits long for the last one.
  size_t wanted = threads <= 1 ? 1 : static_cast<size_t>(threads) * 4;
  while (count() < wanted && std::max(r, c) > kSmallest) {
    size_t& longer = r >= c ? r : c;
    longer = (longer + 1) / 2;
  }
  // Of equal size.
  rows = round_up_to(ceil_div(job.m, ceil_div(job.m, r)), be.rows);
  cols = round_up_to(ceil_div(job.n, ceil_div(job.n, c)), be.cols);
  row_blocks = ceil_div(job.m, rows);
  col_blocks = ceil_div(job.n, cols);
}

void run_block(const Job& job, const Grid& grid, size_t index, float* tiles) {
  const Backend& be = job.backend;
  size_t i0 = index % grid.row_blocks * grid.rows, j0 = index / grid.row_blocks * grid.cols;
  size_t i1 = std::min(job.m, i0 + grid.rows), j1 = std::min(job.n, j0 + grid.cols);
  // With one step along k, tiles are touched once: they stay in L1.
  bool shallow = be.depth(job.k) <= be.depth_block;
  size_t rows = shallow ? std::min(grid.rows, round_up_to(kInL1Rows, be.rows)) : grid.rows;
  size_t cols = shallow ? std::min(grid.cols, round_up_to(kInL1Cols, be.cols)) : grid.cols;
  be.begin();
  for (size_t j = j0; j < j1; j += cols) {
    for (size_t i = i0; i < i1; i += rows) {
      run_part(job, i, j, std::min(rows, i1 - i), std::min(cols, j1 - j), tiles);
    }
  }
  be.end();
}

void run_blocks(const Job& job) {
  if (job.m == 0 || job.n == 0) return;
  Grid grid(job, threads());
  parallel_for(grid.blocks(), [&](size_t index, int) {
    static thread_local Memory tiles;
    run_block(job, grid, index, static_cast<float*>(tiles.need(grid.tile_bytes())));
  });
}

}  // namespace qp::gemm
