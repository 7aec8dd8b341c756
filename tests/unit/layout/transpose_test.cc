// Transposing, beside its definition, on sizes around those of tiles.
#include "lib/layout/transpose.h"

#include <gtest/gtest.h>

#include <vector>

namespace qp::layout {
namespace {

template <class T>
void check() {
  for (uint64_t rows : {1u, 3u, 15u, 16u, 17u, 32u, 48u, 65u}) {
    for (uint64_t cols : {1u, 4u, 16u, 31u, 32u, 33u, 64u, 70u}) {
      uint64_t in_stride = cols + 3, out_stride = rows + 5;  // in elements: lines are not dense
      std::vector<T> in(rows * in_stride), out(cols * out_stride, T(0x5a5a5a5a));
      for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<T>(i * 2654435761u);
      transpose<T>(reinterpret_cast<const std::byte*>(in.data()), in_stride * sizeof(T), rows, cols,
                   reinterpret_cast<std::byte*>(out.data()), out_stride * sizeof(T));
      for (uint64_t c = 0; c < cols; ++c) {
        for (uint64_t r = 0; r < out_stride; ++r) {
          T expected = r < rows ? in[r * in_stride + c] : T(0x5a5a5a5a);
          ASSERT_EQ(out[c * out_stride + r], expected) << rows << "x" << cols << " at " << c << ", " << r;
        }
      }
    }
  }
}

TEST(Transpose, Words) { check<uint32_t>(); }
TEST(Transpose, Halves) { check<uint16_t>(); }

}  // namespace
}  // namespace qp::layout
