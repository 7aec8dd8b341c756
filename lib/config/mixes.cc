#include "lib/config/mixes.h"

#include <algorithm>
#include <vector>

#include "lib/base/error.h"
#include "lib/tensor/ggml_type.h"

namespace qp {
namespace {

constexpr Mix kMixes[] = {
    {"q4_0", "q4_0", 2, ""},          {"q4_1", "q4_1", 3, ""},
    {"q5_0", "q5_0", 8, ""},          {"q5_1", "q5_1", 9, ""},
    {"q8_0", "q8_0", 7, ""},          {"q2_k", "q2_k", 10, ""},
    {"q2_k_s", "q2_k", 21, ""},       {"q3_k_s", "q3_k", 11, ""},
    {"q3_k_m", "q3_k", 12, "q3_k"},   {"q3_k_l", "q3_k", 13, ""},
    {"q4_k_s", "q4_k", 14, ""},       {"q4_k_m", "q4_k", 15, "q4_k"},
    {"q5_k_s", "q5_k", 16, ""},       {"q5_k_m", "q5_k", 17, "q5_k"},
    {"q6_k", "q6_k", 18, ""},         {"iq1_s", "iq1_s", 24, ""},
    {"iq1_m", "iq1_m", 31, ""},       {"iq2_xxs", "iq2_xxs", 19, ""},
    {"iq2_xs", "iq2_xs", 20, ""},     {"iq2_s", "iq2_xs", 28, ""},
    {"iq2_m", "iq2_s", 29, ""},       {"iq3_xxs", "iq3_xxs", 23, ""},
    {"iq3_xs", "iq3_s", 22, ""},      {"iq3_s", "iq3_s", 26, ""},
    {"iq3_m", "iq3_s", 27, ""},       {"iq4_nl", "iq4_nl", 25, ""},
    {"iq4_xs", "iq4_xs", 30, ""},     {"tq1_0", "tq1_0", 36, ""},
    {"tq2_0", "tq2_0", 37, ""},       {"mxfp4_moe", "mxfp4", 38, ""},
    {"q1_0", "q1_0", 40, ""},         {"q2_0", "q2_0", 41, ""},
};

bool same(std::string_view lower, std::string_view given) {
  return std::ranges::equal(lower, given, [](char a, char b) {
    return a == (b >= 'A' && b <= 'Z' ? static_cast<char>(b + 32) : b);
  });
}

}  // namespace

std::span<const Mix> mixes() { return kMixes; }

const Mix* find_mix(std::string_view name) {
  if (name.size() > 5 && same("gguf:", name.substr(0, 5))) name.remove_prefix(5);
  for (const Mix& m : kMixes) {
    if (same(m.name, name) || (!m.alias.empty() && same(m.alias, name))) return &m;
  }
  return nullptr;
}

std::string block_type(const std::string& name, const std::string& what) {
  if (name.empty()) return name;
  const GgmlType* type = ggml_type(name);
  if (type == nullptr || (type->block == 1 && !type->is_float())) {
    std::vector<std::string_view> known;
    for (const GgmlType& t : ggml_types()) {
      if (t.block > 1 || t.is_float()) known.push_back(t.name);
    }
    throw usage_error(what + " names no type of ggml's: '" + printable(name) + "'").hint(did_you_mean(name, known));
  }
  return std::string(type->name);
}

}  // namespace qp
