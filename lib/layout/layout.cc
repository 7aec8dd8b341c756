#include "lib/layout/layout.h"

#include <algorithm>
#include <array>

namespace qp {

std::span<const Layout* const> layouts() {
  static constexpr std::array kAll = {
#define QP_LAYOUT(id) &id##_layout,
#include "lib/layout/layouts.def"
#undef QP_LAYOUT
  };
  return kAll;
}

const Layout* find_layout(std::string_view name) {
  auto all = layouts();
  auto it = std::ranges::find(all, name, [](const Layout* l) { return l->name; });
  return it == all.end() ? nullptr : *it;
}

}  // namespace qp
