#include <algorithm>

#include "formats/modelslim/modelslim.h"

namespace qp::modelslim {
namespace {

constexpr Label kLabels[] = {
    {"W8A8", Codes::bytes8, false, true, false, 8, false},
    {"W8A8_MIX", Codes::bytes8, false, true, false, 8, false},
    {"W8A8_DYNAMIC", Codes::bytes8, false, false, false, 8, false},
    {"W8A16", Codes::bytes8, false, false, true, 0, false},
    {"W4A8_DYNAMIC", Codes::pairs4, false, false, false, 8, false},
    {"W4A4_DYNAMIC", Codes::bytes4, false, false, true, 4, false},
    {"WFP8AFP8_DYNAMIC", Codes::fp8, false, false, false, 8, true},
    {"W8A8_MXFP8", Codes::fp8, true, false, false, 8, true},
    {"W4A8_MXFP", Codes::fp4, true, false, false, 8, true},
    {"W4A4_MXFP4", Codes::fp4, true, false, false, 4, true},
};

QuantArgs mx_args(int bits, Dynamic dynamic) {
  return {.num_bits = bits,
          .type = NumType::floating,
          .strategy = Strategy::group,
          .group_size = 32,
          .dynamic = dynamic,
          .scale_dtype = DType::f8_e8m0};
}

}  // namespace

const Label* find_label(std::string_view name) {
  auto it = std::ranges::find(kLabels, name, &Label::name);
  return it == std::end(kLabels) ? nullptr : &*it;
}

Scheme scheme_of(const Label& l, bool symmetric, bool symmetric_input, int group) {
  Scheme s;
  s.name = l.name;
  s.numerics = "modelslim";
  bool floating = l.codes == Codes::fp8 || l.codes == Codes::fp4;
  int bits = l.codes == Codes::bytes8 || l.codes == Codes::fp8 ? 8 : 4;
  if (l.mx) {
    s.weights = mx_args(bits, Dynamic::no);
    s.input_activations = mx_args(l.input_bits, Dynamic::yes);
    return s;
  }
  s.weights = {.num_bits = bits,
               .type = floating ? NumType::floating : NumType::integer,
               .symmetric = symmetric,
               .strategy = group > 0 ? Strategy::group : Strategy::channel,
               .group_size = group,
               .scale_dtype = {}};
  if (l.input_bits == 0) return s;
  s.input_activations = QuantArgs{.num_bits = l.input_bits,
                                  .type = l.float_input ? NumType::floating : NumType::integer,
                                  .symmetric = symmetric_input,
                                  .strategy = l.is_static ? Strategy::tensor : Strategy::token,
                                  .dynamic = l.is_static ? Dynamic::no : Dynamic::yes,
                                  .scale_dtype = {}};
  return s;
}

const Label* label_of(const Scheme& s) {
  const QuantArgs& w = s.weights;
  if (w.amax_scale || w.nested_scale) return nullptr;
  for (const Label& l : kLabels) {
    if (l.name == "W8A8_MIX") continue;  // is W8A8 and more
    if (!w.symmetric && !l.asymmetric) continue;
    bool symmetric_input = !s.input_activations || s.input_activations->symmetric;
    Scheme mine = scheme_of(l, w.symmetric, symmetric_input, l.mx ? 0 : w.group_size);
    if (mine.weights != w || mine.input_activations.has_value() != s.input_activations.has_value())
      continue;
    if (!mine.input_activations || *mine.input_activations == *s.input_activations) return &l;
  }
  return nullptr;
}

}  // namespace qp::modelslim

namespace qp {

const Format& modelslim_format() {
  static const Format format = {
      "modelslim",
      "Ascend: W8A8 static and dynamic, W8A16, W4A8, W4A4, FP8, MXFP8, MXFP4, any mix per tensor",
      modelslim::plan, "modelslim", modelslim::adopt};
  return format;
}

}  // namespace qp
