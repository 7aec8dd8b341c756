#include "lib/target/kv_scales.h"

#include <algorithm>

#include "lib/target/methods/methods.h"

namespace qp::target {
namespace {

constexpr std::string_view kSuffixes[] = {"k_scale",  "v_scale",      "q_scale",
                                          "kv_scale", "k_zero_point", "v_zero_point"};

}  // namespace

namespace {

// Whether SGLang gives the attention parameters for scales of keys and values.
bool attention_has_scales(const Context& c, std::string_view method) {
  const Loader* loader = loader_of(c.engine, c.model.architecture);
  if (loader != nullptr && !loader->kv_scales) return false;
  const Json& top = c.checkpoint.quant;
  auto scheme_of = [](const Json& q) {
    return q.is_object() && q.contains("kv_cache_scheme") ? q["kv_cache_scheme"] : Json();
  };
  if (method == "compressed-tensors") {
    Json kv = scheme_of(top);
    return kv.is_object() && text_at(kv, {"type"}) == "float" &&
           int_at(kv, {"num_bits"}).value_or(0) == 8 && text_at(kv, {"strategy"}) == "tensor" &&
           bool_at(kv, {"symmetric"}).value_or(true) && !bool_at(kv, {"dynamic"}).value_or(false);
  }
  if (method.starts_with("modelopt")) {
    bool nested = top.contains("quantization") && top["quantization"].is_object();
    const Json& q = nested ? top["quantization"] : top;
    if (text_at(q, {"quant_algo"}).find("fp4") != std::string::npos) return true;
    Json kv = scheme_of(q);
    if (kv.is_object())
      return text_at(kv, {"type"}) == "float" && int_at(kv, {"num_bits"}).value_or(0) == 8;
    return !text_at(q, {"kv_cache_quant_algo"}).empty();
  }
  return method == "fp8" || method == "mxfp8" || method == "quark";
}

}  // namespace

bool is_kv_scale(std::string_view suffix) {
  return std::ranges::find(kSuffixes, suffix) != std::end(kSuffixes) || suffix == "output_scale";
}

void check_kv_scales(Context& c, std::string_view method, const Flags& flags,
                     std::vector<Verdict>& verdicts) {
  bool promised = c.checkpoint.quant.is_object() &&
                  c.checkpoint.quant.contains("kv_cache_scheme") &&
                  c.checkpoint.quant["kv_cache_scheme"].is_object();
  bool fp8 = flags.kv_cache.starts_with("fp8");
  bool any = false, kept = attention_has_scales(c, method);
  auto drop = [&](std::string_view topic, uint32_t i, std::string what) {
    if (!c.findings.add(topic, c.checkpoint.tensors[i].name, std::move(what),
                        c.checkpoint.tensors[i].name))
      return false;
    verdicts[i] = Verdict::dropped;
    return true;
  };
  for (const StoredModule& m : c.layers.modules) {
    auto k = m.find("k_scale"), v = m.find("v_scale");
    bool in_projection = m.name.ends_with("_proj");
    // An unquantized cache takes no scales.
    if (v && !k && !in_projection && (promised || fp8))
      drop("kv-scale-lone", *v, "has no k_scale beside it");
    for (const auto& [suffix, i] : m.parts) {
      bool of_projection =
          suffix == "output_scale" && (m.name.ends_with("k_proj") || m.name.ends_with("v_proj"));
      if (!of_projection && std::ranges::find(kSuffixes, suffix) == std::end(kSuffixes)) continue;
      any = true;
      if (!kept && drop("kv-scale-dropped", i, "is a scale of the KV cache")) continue;
      if (c.model.architecture.starts_with("Qwen3_5") &&
          drop("kv-scale-architecture", i, "is a scale of the KV cache of " + c.model.architecture))
        continue;
      uint64_t n = c.checkpoint.tensors[i].shape.elements().value_or(0);
      if (n > 1 && suffix != "kv_scale")
        drop("kv-scale-per-head", i, "has " + std::to_string(n) + " values, one per head");
    }
  }
  if (!any && (promised || fp8)) {
    c.findings.add("kv-scale-default", "",
                   promised ? "kv_cache_scheme is set, and no scale is stored"
                            : "--kv-cache-dtype is fp8, and no scale is stored");
  }
}

}  // namespace qp::target
