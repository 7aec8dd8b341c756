#include "lib/kernels/ggml_codebook_search.h"

#include <string_view>

#include "lib/kernels/kernels.h"

namespace qp::kernels {

#define QP_ISA(name, table, supported) extern const CodebookTable k_codebook_##table;
#include "lib/kernels/kernels.def"
#undef QP_ISA

const CodebookTable& codebook_kernels() {
  static const CodebookTable& chosen = []() -> const CodebookTable& {
    std::string_view isa = active().isa;
#define QP_ISA(name, table, supported) \
  if (isa == #table) return k_codebook_##table;
#include "lib/kernels/kernels.def"
#undef QP_ISA
    return k_codebook_scalar;
  }();
  return chosen;
}

}  // namespace qp::kernels
