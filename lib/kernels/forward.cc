#include "lib/kernels/forward.h"

#include <string_view>

#include "lib/kernels/kernels.h"

namespace qp::kernels {

#define QP_ISA(name, table, supported) extern const ForwardTable k_forward_##table;
#include "lib/kernels/kernels.def"
#undef QP_ISA

const ForwardTable& forward() {
  static const ForwardTable& chosen = []() -> const ForwardTable& {
    std::string_view isa = active().isa;
#define QP_ISA(name, table, supported) \
  if (isa == #table) return k_forward_##table;
#include "lib/kernels/kernels.def"
#undef QP_ISA
    return k_forward_scalar;
  }();
  return chosen;
}

}  // namespace qp::kernels
