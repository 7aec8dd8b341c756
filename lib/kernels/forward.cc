#include "lib/kernels/forward.h"

#include <string_view>

#include "lib/kernels/kernels.h"

namespace qp::kernels {

#define QP_ISA(name, supported) extern const ForwardTable k_forward_##name;
#include "lib/kernels/kernels.def"
#undef QP_ISA

const ForwardTable& forward() {
  static const ForwardTable& chosen = []() -> const ForwardTable& {
    std::string_view isa = active().isa;
#define QP_ISA(name, supported) \
  if (isa == #name) return k_forward_##name;
#include "lib/kernels/kernels.def"
#undef QP_ISA
    return k_forward_scalar;
  }();
  return chosen;
}

}  // namespace qp::kernels
