// Element types and shapes. dtype.def is the only table of dtypes in the project.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace qp {

enum class DType : uint8_t {
#define QP_DTYPE(id, name, bits, torch) id,
#include "lib/tensor/dtype.def"
#undef QP_DTYPE
};

std::string_view dtype_name(DType dtype);                       // as safetensors spells it: "BF16"
std::string_view torch_name(DType dtype);                       // "bfloat16"; "" if PyTorch has none
std::optional<DType> dtype_from_name(std::string_view name);    // "BF16"
std::optional<DType> dtype_from_torch(std::string_view name);   // "bfloat16", "torch.bfloat16"
uint32_t dtype_bits(DType dtype);
bool is_float(DType dtype);  // F16 BF16 F32 F64: what a weight can be quantized from

// Up to kMaxRank dimensions, row-major, outermost first: a matrix weight is [out, in].
class Shape {
 public:
  static constexpr size_t kMaxRank = 6;
  Shape() = default;
  Shape(std::initializer_list<uint64_t> dims);
  // Appends a dimension; false when the rank is already kMaxRank.
  bool push(uint64_t dim);
  size_t rank() const { return rank_; }
  uint64_t operator[](size_t i) const { return dims_[i]; }
  uint64_t& operator[](size_t i) { return dims_[i]; }
  std::span<const uint64_t> dims() const { return {dims_.data(), rank_}; }
  // Product of all dimensions (1 for a scalar), or nothing on overflow.
  std::optional<uint64_t> elements() const;
  // The tensor as a matrix: last dimension, and product of the others. A scalar is 1 x 1.
  uint64_t cols() const { return rank_ == 0 ? 1 : dims_[rank_ - 1]; }
  uint64_t rows() const;
  bool operator==(const Shape& other) const;
  std::string str() const;  // "[4096, 14336]"

 private:
  std::array<uint64_t, kMaxRank> dims_{};
  uint8_t rank_ = 0;
};

// Bytes of a dense tensor; nothing on overflow or when the bits are no whole number of bytes.
std::optional<uint64_t> byte_size(DType dtype, const Shape& shape);

}  // namespace qp
