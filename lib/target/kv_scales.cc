#include "lib/target/kv_scales.h"

#include <algorithm>

#include "lib/target/methods/methods.h"

namespace qp::target {
namespace {

constexpr std::string_view kSuffixes[] = {"k_scale",  "v_scale",      "q_scale",
                                          "kv_scale", "k_zero_point", "v_zero_point"};

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

namespace {

// What vLLM's attention has for scales, by the method: kv_cache.py, compressed_tensors.py.
enum class Attention : uint8_t {
  plain,    // no method at all: no parameters
  without,  // the method gives it none, and what is stored is passed over
  pairs,    // k and v, or k for both; a lone v stops it
  ones,     // each starts as 1.0
};

bool promised_to_vllm(const Json& top, std::string_view method) {
  if (!top.is_object()) return false;
  auto object = [](const Json& q, const char* key) {
    return q.contains(key) && q[key].is_object();
  };
  if (method == "compressed-tensors") return object(top, "kv_cache_scheme");
  if (!method.starts_with("modelopt")) return false;
  const Json& q = object(top, "quantization") ? top["quantization"] : top;
  return object(q, "kv_cache_scheme") || !text_at(q, {"kv_cache_quant_algo"}).empty();
}

Attention vllm_attention(const Json& quant, std::string_view method) {
  if (method.empty()) return Attention::plain;
  if (method == "compressed-tensors") return Attention::ones;
  bool pairs = method == "fp8" || method == "quark" ||
               (method.starts_with("modelopt") && promised_to_vllm(quant, method));
  return pairs ? Attention::pairs : Attention::without;
}

struct Scales {
  Context& c;
  std::vector<Verdict>& verdicts;
  bool vllm, quantized;
  Attention attention;
  bool kept, any = false, one_missing = false;

  bool drop(std::string_view topic, uint32_t i, std::string what) {
    const std::string& name = c.checkpoint.tensors[i].name;
    if (!c.findings.add(topic, name, std::move(what), name)) return false;
    verdicts[i] = Verdict::dropped;
    return true;
  }

  void check(const StoredModule& m) {
    auto k = m.find("k_scale"), v = m.find("v_scale");
    bool in_projection = m.name.ends_with("_proj"), lone = !in_projection && (k || v) && !(k && v);
    if (lone && quantized && attention == Attention::pairs && v)
      drop("kv-scale-lone", *v, "has no k_scale beside it");
    one_missing |= lone;
    for (const auto& [suffix, i] : m.parts) {
      bool of_projection =
          suffix == "output_scale" && (m.name.ends_with("k_proj") || m.name.ends_with("v_proj"));
      if (!of_projection && std::ranges::find(kSuffixes, suffix) == std::end(kSuffixes)) continue;
      any = true;
      if (vllm ? attention == Attention::without : !kept) {
        if (drop("kv-scale-dropped", i, "is a scale of the KV cache")) continue;
      }
      if (attention == Attention::plain &&
          drop("kv-scale-unquantized", i, "is a scale of the KV cache of an unquantized model"))
        continue;
      if (c.model.architecture.starts_with("Qwen3_5")) {
        c.findings.add("kv-scale-architecture", c.checkpoint.tensors[i].name,
                       "is a scale of the KV cache of " + c.model.architecture);
      }
      check_heads(i, suffix);
    }
  }

  void check_heads(uint32_t i, std::string_view suffix) {
    uint64_t n = c.checkpoint.tensors[i].shape.elements().value_or(0);
    const Json& q = c.checkpoint.quant;
    bool by_head = vllm && q.is_object() && q.contains("kv_cache_scheme") &&
                   text_at(q["kv_cache_scheme"], {"strategy"}) == "attn_head";
    if (n <= 1 || suffix == "kv_scale" || by_head) return;
    c.findings.add("kv-scale-per-head", c.checkpoint.tensors[i].name,
                   "has " + std::to_string(n) + " values, one per head", "",
                   attention == Attention::pairs ? "KV-cache scale expects a scalar weight"
                                                 : "Attempted to load weight");
  }
};

}  // namespace

void check_kv_scales(Context& c, std::string_view method, const Flags& flags,
                     std::vector<Verdict>& verdicts) {
  bool vllm = c.findings.knows("kv-scale-lone");
  const Json& quant = c.checkpoint.quant;
  bool promised = vllm ? promised_to_vllm(quant, method)
                       : quant.is_object() && quant.contains("kv_cache_scheme") &&
                             quant["kv_cache_scheme"].is_object();
  bool fp8 = flags.kv_cache.starts_with("fp8");
  Scales s{c,
           verdicts,
           vllm,
           promised || fp8,
           vllm_attention(quant, method),
           attention_has_scales(c, method)};
  for (const StoredModule& m : c.layers.modules) s.check(m);
  bool half = s.one_missing && s.attention == Attention::ones && vllm;
  if ((promised || fp8) && (!s.any || half)) {
    c.findings.add(
        "kv-scale-default", "",
        std::string(promised ? "the config promises an fp8 KV cache" : "--kv-cache-dtype is fp8") +
            (half ? ", and only one of k_scale and v_scale is stored"
                  : ", and no scale is stored"));
  }
}

}  // namespace qp::target
