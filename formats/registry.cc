#include <algorithm>
#include <vector>

#include "formats/format.h"

namespace qp {

#define QP_FORMAT(id) const Format& id##_format();
#include "formats/formats.def"
#undef QP_FORMAT

std::span<const Format> formats() {
  static const std::vector<Format> all = {
#define QP_FORMAT(id) id##_format(),
#include "formats/formats.def"
#undef QP_FORMAT
  };
  return all;
}

const Format* find_format(std::string_view name) {
  // '-' and '_' are alike: w8a8_int8, compressed_tensors.
  auto same = [](char a, char b) { return a == b || (a == '-' && b == '_'); };
  for (const Format& f : formats()) {
    if (std::ranges::equal(f.name, name, same)) return &f;
  }
  return nullptr;
}

const Format* format_reading(std::string_view quant_method) {
  for (const Format& f : formats()) {
    for (std::string_view rest = f.quant_method; f.adopt != nullptr && !rest.empty();) {
      auto space = std::min(rest.find(' '), rest.size());
      if (rest.substr(0, space) == quant_method) return &f;
      rest.remove_prefix(std::min(space + 1, rest.size()));
    }
  }
  return nullptr;
}

}  // namespace qp
