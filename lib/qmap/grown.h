// Tensors seen larger than they are stored, with the same values: zeros behind rows and columns,
// scales repeated over smaller groups. For engines that cut matrices into ranks. Nothing is copied:
// the rows are made when they are read.
#pragma once

#include <optional>

#include "lib/qmap/decode.h"

namespace qp {

// How a part is made from a smaller one.
struct Grown {
  Part from;
  uint64_t repeat = 1;  // how often each element of a row stands there
  // Bytes that fill rows and columns behind those of `from`, over and over; empty: the last element
  // of each row, and the last row, again.
  std::vector<std::byte> fill;
};

// [out, in] of `shape`, zero where `tensor` has nothing; rows and columns are at least its own.
// Scales of what is added repeat the last ones. Nothing: its codes cannot say so (ggml's blocks,
// codebooks, columns in another order, a zero point of each row in a group that is not full).
std::optional<Tensor> padded(const Model& model, const Tensor& tensor, const Shape& shape);

// Integer codes with the scales (and zero points) of groups of `size`, repeated from groups or
// rows; other tensors stay as they are. Adds the scheme to the model. Errors: limit, naming the
// tensor, when `size` does not divide its groups, or g_idx orders them.
void regroup(Model& model, Tensor& tensor, uint64_t size);

// Of a part with decode->grown, as their namesakes in decode.h.
std::optional<uint64_t> grown_stored_bytes(const Part& part);
ByteRange grown_range(const Part& part, uint64_t first, uint64_t count);
void decode_grown(const Part& part, std::span<const std::byte> stored, uint64_t first,
                  uint64_t count, std::byte* out);

}  // namespace qp
