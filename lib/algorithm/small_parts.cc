#include "lib/algorithm/small_parts.h"

#include "lib/kernels/kernels.h"
#include "lib/kernels/source.h"

namespace qp {
namespace {

std::vector<std::byte> copy(std::span<const std::byte> bytes) { return {bytes.begin(), bytes.end()}; }

std::vector<std::byte> rounded(DType dtype, std::span<const float> x) {
  std::vector<std::byte> bytes(x.size() * dtype_bits(dtype) / 8);
  kernels::Src src = *kernel_source(dtype);
  kernels::active().from_f32(src, x.data(), x.size(), bytes.data());
  return bytes;
}

}  // namespace

const std::vector<std::byte>* SmallParts::find(Role role) const {
  if (role == Role::scale) return &scale;
  if (role == Role::zero_point) return &zero_point;
  if (role == Role::global_scale || role == Role::scale_2) return &second_stage;
  for (const auto& [other, bytes] : others) {
    if (other == role) return &bytes;
  }
  return nullptr;
}

SmallParts encode_small_parts(const Scheme& scheme, const numerics::Rules& rules, DType source,
                              std::span<const float> scale, std::span<const float> zero,
                              std::span<const uint8_t> small_codes, float second_stage) {
  SmallParts parts;
  if (scheme.scale_kind() != ScaleKind::source) {
    parts.scale = copy(std::as_bytes(small_codes));
  } else {
    std::vector<float> under(scale.begin(), scale.end());
    if (scheme.weights.fp8_stage) {
      for (float& s : under) s /= second_stage;
    }
    parts.scale = rounded(numerics::in_f32(rules, scheme.weights) ? DType::f32 : source, under);
  }
  auto offset = static_cast<float>(1 << (scheme.weights.num_bits - 1));
  for (float z : zero) parts.zero_point.push_back(static_cast<std::byte>(z + offset));
  if (scheme.scale_kind() == ScaleKind::e4m3_global || scheme.weights.fp8_stage) {
    parts.second_stage = copy(std::as_bytes(std::span(&second_stage, 1)));
  }
  return parts;
}

}  // namespace qp
