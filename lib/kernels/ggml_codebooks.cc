#include "lib/kernels/ggml_codebook_block.h"

namespace qp {

std::span<const GgmlQuantizer> ggml_codebook_quantizers() {
  // Id, whether it needs and uses importance.
  static const GgmlQuantizer quantizers[] = {
      {16, true, true, kQuantizeIq2Xxs},  {17, true, true, kQuantizeIq2Xs},
      {18, false, true, kQuantizeIq3Xxs}, {19, true, true, kQuantizeIq1S},
      {21, false, true, kQuantizeIq3S},   {22, false, true, kQuantizeIq2S},
      {29, false, true, kQuantizeIq1M},
  };
  return quantizers;
}

}  // namespace qp
