// Which of the kernels' element types a dtype is.
#pragma once

#include <optional>

#include "lib/kernels/kernels.h"
#include "lib/tensor/dtype.h"

namespace qp {

// None: neither BF16, F16 nor F32.
constexpr std::optional<kernels::Src> kernel_source(DType dtype) {
  if (dtype == DType::bf16) return kernels::Src::bf16;
  if (dtype == DType::f16) return kernels::Src::f16;
  if (dtype == DType::f32) return kernels::Src::f32;
  return std::nullopt;
}

}  // namespace qp
