#include "lib/ggml/metadata.h"

namespace qp::ggml {

void Metadata::set(std::string key, Value value) {
  for (auto& [name, old] : values_) {
    if (name != key) continue;
    old = std::move(value);
    return;
  }
  values_.emplace_back(std::move(key), std::move(value));
}

const Value* Metadata::find(std::string_view key) const {
  for (const auto& [name, value] : values_) {
    if (name == key) return &value;
  }
  return nullptr;
}

}  // namespace qp::ggml
