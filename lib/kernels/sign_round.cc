#include "lib/kernels/sign_round.h"

#include <string_view>

#include "lib/kernels/kernels.h"

namespace qp::kernels {

#define QP_ISA(name, table, supported) extern const SignRoundTable k_sign_round_##table;
#include "lib/kernels/kernels.def"
#undef QP_ISA

const SignRoundTable& sign_round() {
  static const SignRoundTable& chosen = []() -> const SignRoundTable& {
    std::string_view isa = active().isa;
#define QP_ISA(name, table, supported) \
  if (isa == #table) return k_sign_round_##table;
#include "lib/kernels/kernels.def"
#undef QP_ISA
    return k_sign_round_scalar;
  }();
  return chosen;
}

}  // namespace qp::kernels
