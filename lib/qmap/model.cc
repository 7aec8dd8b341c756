#include "lib/qmap/model.h"

#include <algorithm>

namespace qp {

const Part* Tensor::part(Role role) const {
  for (const Part& p : parts) {
    if (p.role == role) return &p;
  }
  return nullptr;
}

Shape Tensor::coded_shape() const {
  Shape s = shape;
  if (transposed && s.rank() >= 2) std::swap(s[s.rank() - 2], s[s.rank() - 1]);
  return s;
}

uint64_t Tensor::stored_bytes() const {
  if (dequantize) return byte_size(dtype, shape).value_or(0);
  uint64_t n = 0;
  for (const Part& p : parts) n += byte_size(p.dtype, p.shape).value_or(0);
  return n;
}

const Tensor* Model::find(std::string_view name) const {
  auto it = std::ranges::find(tensors, name, &Tensor::name);
  return it == tensors.end() ? nullptr : &*it;
}

std::map<std::string_view, const Tensor*> Model::index() const {
  std::map<std::string_view, const Tensor*> by_name;
  for (const Tensor& t : tensors) by_name.emplace(t.name, &t);
  return by_name;
}

const Companion* Model::companion(std::string_view name) const {
  auto it = std::ranges::find(companions, name, &Companion::name);
  return it == companions.end() ? nullptr : &*it;
}

int32_t Model::scheme_index(const Scheme& scheme) {
  auto it = std::ranges::find(schemes, scheme);
  if (it == schemes.end()) {
    schemes.push_back(scheme);
    return static_cast<int32_t>(schemes.size()) - 1;
  }
  return static_cast<int32_t>(it - schemes.begin());
}

uint64_t Model::parameters() const {
  uint64_t n = 0;
  for (const Tensor& t : tensors) n += t.shape.elements().value_or(0);
  return n;
}

}  // namespace qp
