#include "lib/kernels/lanes.h"

#include <string_view>

#include "lib/kernels/kernels.h"

namespace qp::kernels {

#define QP_ISA(name, table, supported) extern const LaneTable k_lanes_##table;
#include "lib/kernels/kernels.def"
#undef QP_ISA

const LaneTable& lanes() {
  static const LaneTable& chosen = []() -> const LaneTable& {
    std::string_view isa = active().isa;
#define QP_ISA(name, table, supported) \
  if (isa == #table) return k_lanes_##table;
#include "lib/kernels/kernels.def"
#undef QP_ISA
    return k_lanes_scalar;
  }();
  return chosen;
}

}  // namespace qp::kernels
