// The bytes of a GGUF up to its data: magic, metadata, tensor table (reference/gguf.md section 1).
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "lib/ggml/metadata.h"
#include "lib/kernels/ggml.h"
#include "lib/tensor/dtype.h"

namespace qp {

constexpr uint64_t kGgufAlignment = 32;  // of tensors, and of the data section

struct GgufEntry {
  std::string name;
  const GgmlType* type = nullptr;
  Shape shape;         // PyTorch order
  uint64_t bytes = 0;  // without padding
};

// Bytes of a tensor of this type and shape. Errors: limit, naming the tensor, when ggml cannot hold
// it: a name of 64 bytes or more, more than four dimensions, rows that are not whole blocks.
uint64_t gguf_bytes(const std::string& name, const GgmlType& type, const Shape& shape);

// Padded to the alignment; tensors follow in this order, each padded. Errors: as gguf_bytes().
std::string gguf_header(const ggml::Metadata& metadata, std::span<const GgufEntry> tensors);

// PREFIX-00001-of-00003.gguf; `number` counts from 1.
std::string gguf_shard_name(const std::string& prefix, size_t number, size_t count);

}  // namespace qp
