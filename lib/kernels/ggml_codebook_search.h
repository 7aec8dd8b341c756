// The searches behind ggml's lattice types (reference/gguf.md 5.1 make_qp, 5.6): which scale and
// which points of a codebook a sub-block of weights gets.
//
// One source, ggml_codebook_search.inc, compiled for each instruction set. What is in the lanes of
// a vector (candidates for a scale, neighbours of a point, places to split) is each computed in the
// order of ggml's loops, so all give ggml's bits. As in kernels.h: no allocation, no exceptions, no
// threads.
#pragma once

#include "lib/kernels/ggml_codebook_tables.h"

namespace qp::kernels {

inline constexpr size_t kMostGroups = 8;  // points of a sub-block

// Candidates for the scale are largest / (2 * levels - 1 + i * step) for i = -steps .. steps, where
// levels are 3 (books of 8 elements) or 8 (of 4). Then groups get the points for the best scale's
// own refinement: those that the best candidate found off the book; or all when one was; or all.
enum class Again : uint8_t { off_book, all_if_off_book, all };
struct LatticeSearch {
  int steps;  // at most 15
  float step;
  Again again;
};

struct LatticeFit {
  float scale;  // may be negative
  uint16_t codes[kMostGroups];
};

// Elements as -1, 0 or 1 plus or minus 1/8, times scale.
struct Split {
  float scale;  // not negative
  int down;     // the groups that are shifted down: bit 0 the first 8 of 16 elements, bit 1 the
                // others; of 32 elements all (3) or none
  uint16_t codes[4];  // of 8 elements each, as in a book; they need not be on it
  bool found;         // else nothing above is set
};

// A block of 256: weights importance * sqrt(sigma2 + x^2), or without importance part * sigma2 +
// x^2; their roots; sizes |x| and, of each 8, the bits of those below 0. `even`: where their number
// is odd, the one with the least w x^2 (the first) changes its bit and gets a negative size.
struct WeighedBlock {
  float w[256], root[256], size[256];
  uint8_t signs[32];
};

struct CodebookTable {
  void (*weigh)(const float* x, const float* importance, float sigma2, float part, bool even,
                WeighedBlock* out) noexcept;
  // A sub-block of n = 16 or 32 elements: sizes x (no more than one of a group of 8 negative),
  // weights w and their roots. `scale` is what stays when no candidate is any good, `largest` is
  // above 0.
  LatticeFit (*fit)(const Codebook& book, const LatticeSearch& search, const float* x,
                    const float* w, const float* root, size_t n, float largest,
                    float scale) noexcept;
  // The scale of 32 sizes x with weights w for codes 0 .. 4 (ggml's make_qp); 0 when all are tiny.
  float (*positive_scale)(const float* x, const float* w) noexcept;
  // The best split of x, in ascending order, into elements for -1, 0 and 1: 32 elements with a
  // common shift, or 16 with one for each 8.
  Split (*split_32)(const float* x, const float* w) noexcept;
  Split (*split_16)(const float* x, const float* w) noexcept;
  // Which of the neighbours of `code`, off the book of 8 ternary elements t = -1, 0, 1, has the
  // least sum of w * (scale * (t + shift) - x)^2.
  uint16_t (*nearest_ternary)(const Codebook& book, uint32_t code, const float* x, const float* w,
                              float scale, float shift) noexcept;
};

// The table of active().
const CodebookTable& codebook_kernels();

}  // namespace qp::kernels
