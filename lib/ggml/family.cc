#include "lib/ggml/family.h"

#include <algorithm>

namespace qp::ggml {

#define QP_GGUF_FAMILY(id) const Family& id##_family();
#include "lib/ggml/families.def"
#undef QP_GGUF_FAMILY

TensorRules joined(std::initializer_list<std::span<const TensorRule>> lists) {
  TensorRules all;
  for (auto list : lists) all.insert(all.end(), list.begin(), list.end());
  return all;
}

std::span<const Family* const> families() {
  static const Family* const all[] = {
#define QP_GGUF_FAMILY(id) &id##_family(),
#include "lib/ggml/families.def"
#undef QP_GGUF_FAMILY
  };
  return all;
}

const Family* find_family(std::string_view architecture) {
  for (const Family* f : families()) {
    if (std::ranges::find(f->architectures, architecture) != f->architectures.end()) return f;
  }
  return nullptr;
}

std::vector<const Family*> families_of(std::string_view gguf_architecture) {
  std::vector<const Family*> found;
  for (const Family* f : families()) {
    if (f->arch == gguf_architecture) found.push_back(f);
  }
  return found;
}

}  // namespace qp::ggml
