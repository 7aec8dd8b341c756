#include "lib/tensor/dtype.h"

#include <algorithm>

#include "lib/base/checked.h"

namespace qp {
namespace {

struct Row {
  DType dtype;
  std::string_view name;
  uint32_t bits;
  std::string_view torch;
};

constexpr Row kRows[] = {
#define QP_DTYPE(id, name, bits, torch) {DType::id, name, bits, torch},
#include "lib/tensor/dtype.def"
#undef QP_DTYPE
};

const Row& row(DType dtype) { return kRows[static_cast<size_t>(dtype)]; }

}  // namespace

std::string_view dtype_name(DType dtype) { return row(dtype).name; }
std::string_view torch_name(DType dtype) { return row(dtype).torch; }
uint32_t dtype_bits(DType dtype) { return row(dtype).bits; }

std::optional<DType> dtype_from_name(std::string_view name) {
  for (const Row& r : kRows) {
    if (r.name == name) return r.dtype;
  }
  return std::nullopt;
}

std::optional<DType> dtype_from_torch(std::string_view name) {
  if (name.starts_with("torch.")) name.remove_prefix(6);
  for (const Row& r : kRows) {
    if (!r.torch.empty() && r.torch == name) return r.dtype;
  }
  return std::nullopt;
}

bool is_float(DType dtype) {
  return dtype == DType::f16 || dtype == DType::bf16 || dtype == DType::f32 || dtype == DType::f64;
}

Shape::Shape(std::initializer_list<uint64_t> dims) {
  for (uint64_t d : dims) push(d);
}

bool Shape::push(uint64_t dim) {
  if (rank_ == kMaxRank) return false;
  dims_[rank_++] = dim;
  return true;
}

std::optional<uint64_t> Shape::elements() const {
  uint64_t n = 1;
  for (uint64_t d : dims()) {
    auto next = checked_mul(n, d);
    if (!next) return std::nullopt;
    n = *next;
  }
  return n;
}

uint64_t Shape::rows() const {
  uint64_t n = 1;
  for (size_t i = 0; i + 1 < rank_; ++i) n *= dims_[i];
  return n;
}

bool Shape::operator==(const Shape& other) const {
  return std::ranges::equal(dims(), other.dims());
}

std::string Shape::str() const {
  std::string out = "[";
  for (uint64_t d : dims()) out += (out.size() > 1 ? ", " : "") + std::to_string(d);
  return out + "]";
}

std::optional<uint64_t> byte_size(DType dtype, const Shape& shape) {
  auto n = shape.elements();
  if (!n) return std::nullopt;
  auto bits = checked_mul(*n, dtype_bits(dtype));
  if (!bits || *bits % 8 != 0) return std::nullopt;
  return *bits / 8;
}

}  // namespace qp
