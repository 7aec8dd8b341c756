#include <string_view>

#include "lib/kernels/ggml_lanes.h"
#include "lib/kernels/ggml_quantizers.h"
#include "lib/kernels/kernels.h"

namespace qp {

#define QP_ISA(name, table, supported) extern const GgmlScaledTable k_ggml_##table;
#include "lib/kernels/kernels.def"
#undef QP_ISA

std::span<const GgmlQuantizer> ggml_scaled_quantizers() {
  static const GgmlScaledTable& chosen = []() -> const GgmlScaledTable& {
    std::string_view isa = kernels::active().isa;
#define QP_ISA(name, table, supported) \
  if (isa == #table) return k_ggml_##table;
#include "lib/kernels/kernels.def"
#undef QP_ISA
    return k_ggml_scalar;
  }();
  return chosen.rows;
}

}  // namespace qp
