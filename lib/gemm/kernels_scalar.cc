// For any processor: vectors of four as the compiler knows them, products and sums rounded apart.
#include <string.h>

#include "lib/gemm/backends.h"

namespace qp::gemm {
namespace {

using V = float __attribute__((vector_size(16)));
constexpr size_t kLanes = 4;

inline V load(const float* p) {
  V v;
  memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, V v) { memcpy(p, &v, sizeof v); }
inline void stream(float* p, V v) { store(p, v); }
inline void fence() {}
inline V set1(float x) { return V{x, x, x, x}; }
inline V add(V a, V b) { return a + b; }
inline V mul(V a, V b) { return a * b; }
inline V fma(V a, V b, V c) { return a * b + c; }
inline V load_bf16(const uint16_t* p) {
  using U = uint32_t __attribute__((vector_size(16)));
  U u = {p[0], p[1], p[2], p[3]};
  return (V)(u << 16);
}

#include "lib/gemm/finish.inc"
#include "lib/gemm/f32_kernels.inc"

}  // namespace

const Backend k_scalar_bf16 = make_backend<4, 2, true>("scalar");
const Backend k_scalar_f32 = make_backend<4, 2, false>("scalar");

}  // namespace qp::gemm
