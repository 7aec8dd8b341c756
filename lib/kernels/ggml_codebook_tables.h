// The codebooks of ggml's lattice types, and which of their points are near a point that they lack
// (reference/gguf.md 4.10, 5.6 and appendix A).
//
// A code packs the elements of a point, element 0 lowest: 8 elements of 2 bits (0..2) or 4 elements
// of 3 bits (0..7). What number an element stands for is up to the type; distances are those of
// equal steps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace qp::kernels {

enum class Book : uint8_t { iq2_xxs, iq2_xs, iq2_s, iq3_xxs, iq3_s, iq1 };

// The codes of the points by index, increasing.
std::span<const uint16_t> book_points(Book book);

struct Codebook {
  struct Neighbours {
    const uint16_t* codes;  // nearest first; those equally near in the order of their indices
    size_t count;           // a multiple of kStep: the last one is repeated
  };
  // By code: kOnBook | index of a point, or first << kCountBits | count of its neighbours.
  static constexpr uint32_t kOnBook = 1u << 31;
  static constexpr int kCountBits = 9;
  static constexpr size_t kStep = 4;

  int elements;
  std::span<const uint16_t> points;
  const uint32_t* cells;
  const uint16_t* neighbours;  // 16 more may be read beyond any list

  bool on_book(uint32_t code) const { return (cells[code] & kOnBook) != 0; }
  uint32_t index(uint32_t code) const { return cells[code] & ~kOnBook; }  // of a code on the book
  Neighbours near(uint32_t code) const {                                  // of one that is not
    uint32_t cell = cells[code];
    return {neighbours + (cell >> kCountBits), cell & ((1u << kCountBits) - 1)};
  }
};

// Made at the first call for the book (1 to 40 ms), in memory that is untouched until then; any
// number of threads may call it.
const Codebook& codebook(Book book);

}  // namespace qp::kernels
