// What ggml asks of the numbers in its blocks (reference/gguf.md 5.8): only scales can be wrong, as
// every code stands for a number.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace qp {

// A block is bad when a scale of it is NaN or infinite: F16 scales and minima, q8_k's F32, and
// mxfp4's E8M0 of 255. nvfp4's scales are numbers whatever their bits, and so are all blocks of a
// type that is not in this version's table.
struct BlockScales {
  uint64_t bad = 0;
  uint64_t first_bad = 0;  // the number of its block; only when bad > 0
  bool any = false;        // a scale is not zero
};

// Whole blocks of a type, without decoding them.
BlockScales check_block_scales(std::string_view ggml_type, std::span<const std::byte> blocks);

// Whether a block without any scale stands for zeros in a type; not so for nvfp4 (nothing is looked
// at).
bool has_block_scales(std::string_view ggml_type);

}  // namespace qp
