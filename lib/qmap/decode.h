// From stored bytes to the elements a Part promises (see Decode in model.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "lib/qmap/model.h"

namespace qp {

// Bytes the part's extent must hold when not compressed, or nothing when its decode, dtype and
// shape do not fit together (unknown ggml type, strides out of range, overflow).
std::optional<uint64_t> stored_bytes(const Part& part);

// Bytes of one decoded row: cols of the part's shape in its dtype.
uint64_t row_bytes(const Part& part);

// True when rows can be taken from the stored bytes as they are.
bool is_plain(const Part& part);

// Stored byte range that rows [first, first + count) need.
struct ByteRange {
  uint64_t begin = 0, end = 0;
};
ByteRange stored_range(const Part& part, uint64_t first, uint64_t count);

// Decodes rows [first, first + count) into out (count * row_bytes). `stored` holds the bytes of
// stored_range(). Requires: stored_bytes(part) has a value.
void decode_rows(const Part& part, std::span<const std::byte> stored, uint64_t first,
                 uint64_t count, std::byte* out);

// A piece of a part: element (i0, i1, ..) of it is element first + sum(ik * strides[k]) of `from`.
// Nothing when the stored bytes of `from` are not its elements in order (ggml, layouts, strides), or
// the piece does not lie inside it.
std::optional<Part> piece_of(const Part& from, const Shape& shape, uint64_t first,
                             std::vector<uint64_t> strides);

// n floats (F16, BF16, F32, F64) of one dtype as another, to nearest even, through f32.
void cast_floats(DType from, const std::byte* in, uint64_t n, DType to, std::byte* out);

}  // namespace qp
