#include "lib/tensor/ggml_type.h"

#include <array>
#include <cstddef>

namespace qp {
namespace {

constexpr GgmlType kTypes[] = {
    {0, "f32", 1, 4},
    {1, "f16", 1, 2},
    {2, "q4_0", 32, 18},
    {3, "q4_1", 32, 20},
    {6, "q5_0", 32, 22},
    {7, "q5_1", 32, 24},
    {8, "q8_0", 32, 34},
    {9, "q8_1", 32, 36},
    {10, "q2_k", 256, 84},
    {11, "q3_k", 256, 110},
    {12, "q4_k", 256, 144},
    {13, "q5_k", 256, 176},
    {14, "q6_k", 256, 210},
    {15, "q8_k", 256, 292},
    {16, "iq2_xxs", 256, 66},
    {17, "iq2_xs", 256, 74},
    {18, "iq3_xxs", 256, 98},
    {19, "iq1_s", 256, 50},
    {20, "iq4_nl", 32, 18},
    {21, "iq3_s", 256, 110},
    {22, "iq2_s", 256, 82},
    {23, "iq4_xs", 256, 136},
    {24, "i8", 1, 1},
    {25, "i16", 1, 2},
    {26, "i32", 1, 4},
    {27, "i64", 1, 8},
    {28, "f64", 1, 8},
    {29, "iq1_m", 256, 56},
    {30, "bf16", 1, 2},
    {34, "tq1_0", 256, 54},
    {35, "tq2_0", 256, 66},
    {39, "mxfp4", 32, 17},
    {40, "nvfp4", 64, 36},
    {41, "q1_0", 128, 18},
    {42, "q2_0", 64, 18},
};

constexpr uint32_t kIdEnd = 43;
constexpr auto kIndexOfId = [] {
  std::array<int8_t, kIdEnd> index{};
  index.fill(-1);
  for (size_t i = 0; i < std::size(kTypes); ++i) index[kTypes[i].id] = static_cast<int8_t>(i);
  return index;
}();

bool same_name(std::string_view lower, std::string_view given) {
  if (lower.size() != given.size()) return false;
  for (size_t i = 0; i < lower.size(); ++i) {
    char c = given[i] >= 'A' && given[i] <= 'Z' ? static_cast<char>(given[i] + 32) : given[i];
    if (c != lower[i]) return false;
  }
  return true;
}

}  // namespace

std::span<const GgmlType> ggml_types() { return kTypes; }

const GgmlType* ggml_type(uint32_t id) {
  if (id >= kIdEnd || kIndexOfId[id] < 0) return nullptr;
  return &kTypes[kIndexOfId[id]];
}

const GgmlType* ggml_type(std::string_view name) {
  for (const GgmlType& type : kTypes) {
    if (same_name(type.name, name)) return &type;
  }
  return nullptr;
}

}  // namespace qp
