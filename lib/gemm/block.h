// Products of packed operands, block by block. Private to lib/gemm.
#pragma once

#include "lib/gemm/backends.h"
#include "lib/gemm/gemm.h"

namespace qp::gemm {

// c [m, n] = (accumulate ? c : 0) + alpha * a b (+ bias), a and b packed whole. Element (i, j) is
// (row0 + i, col0 + j) of the matrix whose lower triangle alone is wanted, with `lower`.
struct Job {
  const Backend& backend;
  size_t m, n, k;
  const char* a;
  const char* b;
  float alpha = 1;
  const float* bias = nullptr;
  float* c;
  size_t ldc;
  bool accumulate;
  bool stream = false;
  bool lower = false;
  Zeros zeros = {};
  size_t row0 = 0, col0 = 0;
};

// Rows and columns of a block, whole panels; the matrix in blocks, in an order good for caches.
struct Grid {
  Grid(const Job& job, int threads);
  size_t blocks() const { return row_blocks * col_blocks; }
  size_t tile_bytes() const { return rows * cols * sizeof(float); }
  size_t rows, cols;
  size_t row_blocks, col_blocks;
};

// Block `index` of the grid in the calling thread; `tiles` has grid.tile_bytes().
void run_block(const Job& job, const Grid& grid, size_t index, float* tiles);

// All blocks, in parallel.
void run_blocks(const Job& job);

}  // namespace qp::gemm
