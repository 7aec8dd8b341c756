#include "lib/kernels/ggml_quantize.h"

#include <cstring>

#include "lib/kernels/ggml_quantizers.h"
#include "lib/tensor/minifloat.h"

namespace qp {
namespace {

template <class T, T (*convert)(float)>
void to_float(const float* x, size_t rows, size_t cols, const float*, uint8_t* out) {
  for (size_t i = 0; i < rows * cols; ++i) {
    T v = convert(x[i]);
    std::memcpy(out + i * sizeof v, &v, sizeof v);
  }
}

float same(float x) { return x; }

constexpr GgmlQuantizer kFloats[] = {{0, false, false, to_float<float, same>},
                                     {1, false, false, to_float<uint16_t, f32_to_f16>},
                                     {30, false, false, to_float<uint16_t, f32_to_bf16>}};

}  // namespace

const GgmlQuantizer* ggml_quantizer(uint32_t id) {
  for (const auto& rows : {ggml_scaled_quantizers(), ggml_codebook_quantizers(), std::span<const GgmlQuantizer>(kFloats)}) {
    for (const GgmlQuantizer& quantizer : rows) {
      if (quantizer.id == id) return &quantizer;
    }
  }
  return nullptr;
}

}  // namespace qp
