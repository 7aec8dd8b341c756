// qverify: the stored layout against quantization_config, module by module. Finds every mismatch
// where the reader stops at the first.
#include <algorithm>
#include <map>
#include <set>

#include "formats/compressed_tensors/compressed_tensors.h"
#include "formats/compressed_tensors/targets.h"
#include "formats/verify/raw.h"
#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/model/modules.h"

namespace qp::ct {
namespace {

using Module = std::map<std::string, const RawTensor*>;  // by suffix: "weight", "weight_scale" ..

bool is_part_suffix(const std::string& s) {
  return s == "weight_packed" || std::ranges::find(part_suffixes(), std::string_view(s)) != part_suffixes().end();
}

class LayoutCheck {
 public:
  LayoutCheck(const RawCheckpoint& raw, const Json& config, std::vector<Finding>& findings)
      : raw_(raw), groups_(read_groups(config)), targets_(groups_), ignore_(config), findings_(findings) {}

  void run() {
    std::map<std::string, Module> modules;
    for (const RawTensor& t : raw_.tensors) {
      auto dot = t.name.rfind('.');
      if (dot != std::string::npos) modules[t.name.substr(0, dot)][t.name.substr(dot + 1)] = &t;
    }
    for (const auto& [name, module] : modules) check_module(name, module);
    for (size_t i = 0; i < groups_.size(); ++i) {
      if (used_.contains(i)) continue;
      add(Severity::warning, "quantization-config", "",
          "config group " + std::to_string(i) + " (targets " + first_target(groups_[i]) + ") matches no quantized module",
          "its targets are misspelt, or the tensors are missing");
    }
  }

 private:
  void add(Severity severity, const char* rule, std::string tensor, std::string what, std::string hint) {
    findings_.push_back({severity, rule, std::move(tensor), std::move(what), std::move(hint)});
  }
  void error(const char* rule, const RawTensor& t, std::string what, std::string hint = "export the checkpoint again") {
    add(Severity::error, rule, t.name, std::move(what), std::move(hint));
  }
  static std::string first_target(const ConfigGroup& g) {
    return g.targets.empty() ? "none" : printable(g.targets.front()) + (g.targets.size() > 1 ? " .." : "");
  }

  void check_module(const std::string& name, const Module& m) {
    auto weight = m.find("weight"), packed = m.find("weight_packed");
    const RawTensor* root = packed != m.end() ? packed->second : weight != m.end() ? weight->second : nullptr;
    bool stored = packed != m.end() || m.contains("weight_scale");
    if (root == nullptr) {
      for (const auto& [suffix, t] : m) {
        if (is_part_suffix(suffix)) error("orphan-scale", *t, "there is no weight of this module");
      }
      return;
    }
    ModuleInfo info = classify(name + ".weight", DType::bf16, root->shape, raw_.config);
    std::optional<size_t> group = targets_.find(name, info);
    bool ignored = ignore_(name, info);
    if (!stored) {
      check_plain(*root, m, info, group.has_value() && !ignored);
      return;
    }
    if (ignored) {
      error("ignored-quantized", *root, "is quantized, but quantization_config ignores its module",
            "take the module out of 'ignore', or store it unquantized");
    }
    if (!group) {
      error("untargeted-quantized", *root, "is quantized, but no group of quantization_config targets its module",
            "add the module to the targets of its group");
      return;
    }
    used_.insert(*group);
    check_parts(*root, m, groups_[*group]);
  }

  // A module stored without scales.
  void check_plain(const RawTensor& root, const Module& m, const ModuleInfo& info, bool wanted) {
    for (const auto& [suffix, t] : m) {
      if (is_part_suffix(suffix) && suffix != "input_scale") {
        error("orphan-scale", *t, "its module has no weight_scale and so is not quantized");
      }
    }
    using enum ModuleKind;
    if (!wanted || root.shape.rank() != 2) return;
    bool surely = info.kind == linear || info.kind == expert || info.kind == head;
    bool perhaps = info.kind == router || info.kind == vision || info.kind == mtp;
    if (!surely && !perhaps) return;
    add(surely ? Severity::error : Severity::warning, "not-quantized", root.name,
        "is targeted by quantization_config and not ignored, but has no weight_scale",
        "add '" + info.module + "' to 'ignore', or quantize it");
  }

  void check_parts(const RawTensor& root, const Module& m, const ConfigGroup& g) {
    const Scheme& s = g.scheme;
    bool packed = m.contains("weight_packed");
    if (packed && m.contains("weight")) {
      error("leftover-weight", *m.at("weight"), "is stored beside weight_packed", "remove one of the two");
    }
    if (packed != g.packed()) {
      error("weight-layout", root, "does not fit format " + g.format + " (expected " +
                                       (g.packed() ? "weight_packed)" : "weight)"));
      return;
    }
    if (root.dtype != g.dtype() || root.shape.rank() < 2) {
      error("weight-layout", root, "does not fit format " + g.format + " (expected a matrix of " +
                                       std::string(dtype_name(g.dtype())) + ", found " +
                                       std::string(dtype_name(root.dtype)) + " " + root.shape.str() + ")");
      return;
    }
    check_scale(root, m, g);
    check_zero_point(root, m, s);
    if (s.scale_kind() == ScaleKind::e4m3_global && !m.contains("weight_global_scale")) {
      error("global-scale-layout", root, "has no weight_global_scale");
    }
    if (g.stored == Stored::words && !m.contains("weight_shape")) {
      error("weight-layout", root, "has no weight_shape");
    }
    check_input(root, m, s);
  }

  void check_scale(const RawTensor& root, const Module& m, const ConfigGroup& g) {
    const Scheme& s = g.scheme;
    auto it = m.find("weight_scale");
    if (it == m.end()) {
      error("scale-layout", root, "has no weight_scale");
      return;
    }
    const RawTensor& scale = *it->second;
    bool dtype_ok = s.scale_kind() == ScaleKind::source        ? is_float(scale.dtype) && scale.dtype != DType::f64
                    : s.scale_kind() == ScaleKind::e4m3_global ? scale.dtype == DType::f8_e4m3
                                                               : scale.dtype == DType::u8 || scale.dtype == DType::f8_e8m0;
    if (!dtype_ok) {
      const char* expected = s.scale_kind() == ScaleKind::source        ? "BF16, F16 or F32"
                             : s.scale_kind() == ScaleKind::e4m3_global ? "F8_E4M3"
                                                                        : "U8";
      error("scale-layout", scale, "has the wrong dtype (expected " + std::string(expected) + ", found " +
                                       std::string(dtype_name(scale.dtype)) + ")");
    }
    // The width of packed rows is known up to the padding of the last word.
    auto bits = static_cast<uint64_t>(s.weights.num_bits);
    uint64_t rows = root.shape.rows(), cols = root.shape.cols(), spare = 0;
    if (g.stored == Stored::words) {
      uint64_t words = cols;  // the last one may be padded; before 0.18 each one was, for odd widths
      cols = words <= (uint64_t{1} << 50) ? words * 32 / bits : 0;
      spare = cols - (cols == 0 ? 0 : (words - 1) * (32 / bits));
    } else if (g.stored == Stored::nibbles) {
      cols *= 2;
    }
    Shape widest = scale_shape(s.weights, Shape{rows, cols});
    Shape narrowest = scale_shape(s.weights, Shape{rows, cols - std::min(cols, spare)});
    if (scale.shape == widest) return;
    bool within = scale.shape.rank() == 2 && scale.shape[0] == widest[0] && widest.rank() == 2 &&
                  scale.shape[1] >= narrowest[1] && scale.shape[1] <= widest[1];
    if (within) return;
    bool same_count = scale.shape.elements() == widest.elements();
    add(same_count ? Severity::warning : Severity::error, "scale-layout", scale.name,
        "has another shape than its scheme (expected " + widest.str() + ", found " + scale.shape.str() + ")",
        same_count ? "some readers refuse it; export the checkpoint again" : "export the checkpoint again");
  }

  void check_zero_point(const RawTensor& root, const Module& m, const Scheme& s) {
    auto it = m.find("weight_zero_point");
    if (s.weights.symmetric && it != m.end()) {
      error("zero-point-layout", *it->second, "is stored, but the scheme is symmetric");
    } else if (!s.weights.symmetric && it == m.end()) {
      error("zero-point-layout", root, "has no weight_zero_point, but the scheme is asymmetric");
    }
  }

  void check_input(const RawTensor& root, const Module& m, const Scheme& s) {
    auto scale = m.find("input_scale"), global = m.find("input_global_scale");
    bool is_static = s.input_activations && s.input_activations->dynamic == Dynamic::no;
    bool is_local = s.input_activations && s.input_activations->dynamic == Dynamic::local;
    if (is_static && scale == m.end()) {
      error("input-scale-layout", root, "has no input_scale, but its activations are quantized statically",
            "calibrate the model, or use a dynamic scheme");
    } else if (!is_static && scale != m.end()) {
      add(Severity::warning, "input-scale-layout", scale->second->name,
          "is stored, but the scheme quantizes no activation statically", "engines ignore it");
    }
    if (is_local && global == m.end()) {
      error("input-scale-layout", root, "has no input_global_scale, but its activations are quantized with one",
            "calibrate the model, or use a scheme without quantized activations");
    }
  }

  const RawCheckpoint& raw_;
  std::vector<ConfigGroup> groups_;
  Targets targets_;
  Ignore ignore_;
  std::vector<Finding>& findings_;
  std::set<size_t> used_;
};

}  // namespace

void check(const RawCheckpoint& raw, const Json& config, std::vector<Finding>& findings) {
  LayoutCheck(raw, config, findings).run();
}

}  // namespace qp::ct
