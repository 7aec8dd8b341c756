// awq_gemv_fast: AWQ's gemv_fast version, which is llm-awq's own (reference/int4-formats.md 1.3):
// I16 [N / 4, K]. Of 4 rows x 64 columns come 64 words: row r owns words 16 r .. 16 r + 15, word t
// of its half h has in nibble i the code of column 32 h + t + 8 i.
#include "lib/layout/bits.h"

namespace qp {
namespace {

using namespace layout;

std::optional<uint64_t> bytes(const LayoutArgs& a) {
  if (!plain_nibbles(a) || a.rows % 4 != 0 || a.cols % 64 != 0) return std::nullopt;
  return checked_mul(a.rows, a.row_bytes());
}

// The nibble of the stored matrix that holds (row, col).
uint64_t place(const LayoutArgs& a, uint64_t row, uint64_t col) {
  uint64_t in = col % 64, half = in / 32, t = in % 8, i = in % 32 / 8;
  uint64_t word = row / 4 * a.cols + col / 64 * 64 + row % 4 * 16 + half * 8 + t;
  return word * 4 + i;
}

uint64_t unit(const LayoutArgs&) { return 4; }

}  // namespace

const Layout awq_gemv_fast_layout = {"awq_gemv_fast",        bytes, unit, Nibbles<place>::decode,
                                     Nibbles<place>::encode, true};

}  // namespace qp
