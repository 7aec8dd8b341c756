// ModelOpt: from quant_algo to a loader's class. Facts: reference/modelopt.md 4.
#include <algorithm>
#include <memory>
#include <unordered_map>

#include "lib/base/error.h"
#include "lib/target/methods/methods.h"

namespace qp::target {
namespace {

struct Algo {
  std::string_view name;  // quant_algo, upper case
  std::string_view params;
  int bits;
};
constexpr Algo kAlgos[] = {
    {"FP8", "modelopt-fp8", 8},
    {"FP8_PER_CHANNEL_PER_TOKEN", "modelopt-fp8-channel", 8},
    {"FP8_PB_WO", "modelopt-fp8-block", 8},
    {"NVFP4", "modelopt-nvfp4", 4},
    {"W4A16_NVFP4", "modelopt-nvfp4", 4},
    {"NVFP4_AWQ", "modelopt-nvfp4-awq", 4},
    {"MXFP8", "modelopt-mxfp8", 8},
};

std::string upper(std::string s) {
  for (char& c : s) c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c;
  return s;
}

std::optional<Scheme> scheme_of(const std::string& algo, int64_t group) {
  for (const Algo& a : kAlgos) {
    if (a.name != algo) continue;
    Scheme s;
    s.params = a.params;
    s.support = a.name;
    s.bits = a.bits;
    s.group = a.bits == 4 ? static_cast<uint64_t>(std::max<int64_t>(group, 1)) : 0;
    if (a.name == "FP8_PB_WO") s.block_n = s.block_k = 128;
    s.static_in = algo == "NVFP4" || algo == "NVFP4_AWQ";
    return s;
  }
  return std::nullopt;
}

struct Mixed {
  std::unordered_map<std::string, Scheme> by_name;
};

}  // namespace

Chooser choose_modelopt(Context& c, const Method& method) {
  const Json& top = c.checkpoint.quant;
  bool nested = top.contains("quantization") && top["quantization"].is_object();
  const Json& q = nested ? top["quantization"] : top;
  std::string algo = upper(text_at(q, {"quant_algo"}));
  const Json* list = list_at(q, {"exclude_modules", "ignore"});
  auto left = std::make_shared<NameList>(
      method.left_out, list == nullptr ? std::vector<std::string>{} : strings_of(*list));
  bool null_list = q.contains("exclude_modules") && q["exclude_modules"].is_null();
  if (null_list) c.findings.add("modelopt-null-list", "", "exclude_modules is null");
  for (const char* key : {"group_size", "kv_cache_quant_algo", "exclude_modules"}) {
    if (nested && algo == "NVFP4" && !q.contains(key)) {
      c.findings.add("modelopt-nested-keys", "",
                     "hf_quant_config.json has no '" + std::string(key) + "'", key);
    }
  }
  if (algo == "MIXED_PRECISION") {
    auto mixed = std::make_shared<Mixed>();
    bool nvfp4 = false;
    if (auto layers = q.find("quantized_layers"); layers != q.end() && layers->is_object()) {
      for (const auto& [name, value] : layers->items()) {
        std::string one = upper(text_at(value, {"quant_algo"}));
        nvfp4 |= one.find("NVFP4") != one.npos;
        auto s = scheme_of(one, int_at(value, {"group_size"}).value_or(16));
        if (s) mixed->by_name.emplace(name, *s);
        if (!s) c.findings.add("modelopt-algo", name, "quant_algo is " + printable(one), one);
      }
    }
    if (!nvfp4)
      c.findings.add("modelopt-mixed-w4afp8", "", "MIXED_PRECISION without an NVFP4 layer");
    return [&c, mixed](const Layer& layer) -> std::optional<Scheme> {
      auto of = [&](const std::string& n) -> std::optional<Scheme> {
        auto it = mixed->by_name.find(n);
        return it == mixed->by_name.end() ? std::nullopt : std::optional(it->second);
      };
      if (layer.part == Part::experts && of(layer.name)) return of(layer.name);
      return agreed(layer, c.findings, of);
    };
  }
  int64_t group = int_at(q, {"group_size"}).value_or(16);
  auto s = scheme_of(algo, group);
  if (!s) c.findings.add("modelopt-algo", "", "quant_algo is '" + printable(algo) + "'", algo);
  return [&c, s, left](const Layer& layer) -> std::optional<Scheme> {
    if (!s || layer.part == Part::embedding || left->covers(layer.name)) return std::nullopt;
    if (layer.part == Part::experts) {
      auto names = asked_names(layer);
      return std::ranges::all_of(names, [&](const std::string& n) { return left->covers(n); })
                 ? std::nullopt
                 : s;
    }
    return agreed(layer, c.findings,
                  [&](const std::string& n) { return left->covers(n) ? std::nullopt : s; });
  };
}

}  // namespace qp::target
