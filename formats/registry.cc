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
  for (const Format& f : formats()) {
    if (f.name == name) return &f;
  }
  return nullptr;
}

}  // namespace qp
