// The small parts of a quantized tensor, encoded in the dtypes that part_specs() names.
#pragma once

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "lib/scheme/numerics.h"
#include "lib/scheme/scheme.h"

namespace qp {

struct SmallParts {
  std::vector<std::byte> scale;
  std::vector<std::byte> zero_point;    // empty when symmetric
  std::vector<std::byte> second_stage;  // global_scale or scale_2; empty unless the scheme has one
  std::vector<std::pair<Role, std::vector<std::byte>>> others;  // of codebooks, g_idx
  const std::vector<std::byte>* find(Role role) const;  // null: not of these
};

// From scales in f32 (`small_codes` where they are stored as E4M3 or E8M0), zero points in the
// signed domain (empty: none) and the second stage (ScaleKind::e4m3_global only).
SmallParts encode_small_parts(const Scheme& scheme, const numerics::Rules& rules, DType source,
                              std::span<const float> scale, std::span<const float> zero,
                              std::span<const uint8_t> small_codes, float second_stage);

}  // namespace qp
