#include "lib/algorithm/activations.h"

#include <algorithm>
#include <cstring>

#include "lib/base/error.h"
#include "lib/scheme/numerics.h"

namespace qp {
namespace {

constexpr std::string_view kMakeThem =
    "make them with qcalibrate MODEL --text FILE -o calib.qmap, and quantize that; or use a dynamic scheme";

[[noreturn]] void no_statistics(const Store& store, const std::string& what, const std::string& name,
                                std::string_view hint = kMakeThem) {
  throw usage_error(what).file(store.label()).tensor(name).hint(std::string(hint));
}

std::vector<std::byte> bytes_of(DType dtype, float value) {
  auto copy = [](const auto& v) {
    auto bytes = std::as_bytes(std::span(&v, 1));
    return std::vector<std::byte>(bytes.begin(), bytes.end());
  };
  // The value is one of the dtype's: its bits are those of the f32, cut.
  if (dtype == DType::f32) return copy(value);
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (dtype == DType::bf16) return copy(static_cast<uint16_t>(bits >> 16));
  throw defect_error("a scale in a dtype that is none");
}

}  // namespace

bool needs_calibration(const Scheme& s) {
  return s.input_activations && s.input_activations->dynamic != Dynamic::yes;
}

ActivationScales::ActivationScales(const Store& store, const Plan& plan) : store_(store) {
  const Model& m = store.model();
  if (!m.calibration) {
    for (const PlanEntry& e : plan.entries) {
      int32_t scheme = std::max(e.scheme, e.retag);
      if (scheme < 0 || !needs_calibration(plan.schemes[static_cast<size_t>(scheme)])) continue;
      no_statistics(store, "its scheme " + plan.schemes[static_cast<size_t>(scheme)].name +
                               " needs calibrated activations", e.tensor->name);
    }
    return;
  }
  for (const InputStatistics& s : m.calibration->inputs) {
    for (const std::string& reader : s.readers) ranges_[reader] = s.rows > 0 ? s.observed : 0;
  }
  for (const PlanEntry& e : plan.entries) {
    auto it = find(e);
    if (e.info.kind != ModuleKind::expert || it == ranges_.end()) continue;
    float& most = experts_[e.info.agree];
    most = std::max(most, it->second);
  }
}

// By its own name, or as an expert of a stack.
std::map<std::string, float>::const_iterator ActivationScales::find(const PlanEntry& e) const {
  auto it = ranges_.find(e.info.module);
  return it != ranges_.end() || e.input.empty() ? it : ranges_.find(e.input);
}

float ActivationScales::range_of(const PlanEntry& e) const {
  auto it = find(e);
  if (it == ranges_.end()) no_statistics(store_, "has no statistics of its input", e.tensor->name);
  if (it->second > 0) return it->second;
  auto other = experts_.find(e.info.agree);
  if (other != experts_.end() && other->second > 0) return other->second;
  if (store_.model().calibration->windows == 0)
    no_statistics(store_, "has no range of its input: an importance matrix does not say it", e.tensor->name);
  no_statistics(store_, "no token with a value other than zero reached it", e.tensor->name,
                "calibrate with more text; or --ignore it, or use a dynamic scheme");
}

std::vector<ComputedPart> ActivationScales::parts(const PlanEntry& e, const Scheme& scheme) const {
  if (!needs_calibration(scheme)) return {};
  const QuantArgs& a = *scheme.input_activations;
  const numerics::Rules& rules = numerics::rules(scheme.numerics);
  float range = range_of(e);
  if (a.strategy == Strategy::tensor_group) {
    Role role = rules.f32 ? Role::input_scale : Role::input_global_scale;
    return {{{role, DType::f32, Shape{1}}, bytes_of(DType::f32, numerics::second_stage_of(rules, e.tensor->dtype, range))}};
  }
  DType dtype = numerics::in_f32(rules, a) || e.tensor->dtype != DType::bf16 ? DType::f32 : DType::bf16;
  float scale = numerics::scale_of(rules, a, e.tensor->dtype, range);
  return {{{Role::input_scale, dtype, Shape{1}}, bytes_of(dtype, scale)}};
}

std::vector<CacheScale> cache_scales(const Store& store, std::string_view name, DType dtype) {
  const Model& m = store.model();
  if (!m.calibration || m.calibration->caches.empty()) {
    no_statistics(store, "there are no statistics of keys and values", "");
  }
  QuantArgs fp8{.num_bits = 8, .type = NumType::floating, .strategy = Strategy::tensor, .scale_dtype = {}};
  const numerics::Rules& rules = numerics::rules(name);
  std::vector<CacheScale> out;
  for (const CacheStatistics& c : m.calibration->caches) {
    out.push_back({c.block + ".k_scale", numerics::scale_of(rules, fp8, dtype, c.k_amax)});
    out.push_back({c.block + ".v_scale", numerics::scale_of(rules, fp8, dtype, c.v_amax)});
  }
  return out;
}

}  // namespace qp
