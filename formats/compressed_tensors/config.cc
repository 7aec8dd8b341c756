#include "formats/compressed_tensors/compressed_tensors.h"

namespace qp::ct {
namespace {
// The library's version whose layouts are written and whose spelling of the arguments is used.
constexpr const char* kVersion = "0.20.0";
}  // namespace

std::string_view format_of(const Scheme& s) {
  if (s.code_kind() == CodeKind::e2m1) {
    return s.scale_kind() == ScaleKind::e8m0 ? "mxfp4-pack-quantized" : "nvfp4-pack-quantized";
  }
  if (s.scale_kind() == ScaleKind::e8m0) return "mxfp8-quantized";
  if (s.code_kind() == CodeKind::integer) {
    // FP8 activations: the library infers int-quantized, which no engine loads (section 10, 5).
    bool packed = !s.input_activations || s.input_activations->type == NumType::floating;
    return packed ? "pack-quantized" : "int-quantized";
  }
  return s.input_activations ? "float-quantized" : "naive-quantized";
}

Json args_json(const QuantArgs& a, bool weights) {
  auto dtype = [](DType d) -> std::string {
    // E8M0 exponents are held, and named, as bytes.
    return d == DType::f8_e8m0 ? "torch.uint8" : "torch." + std::string(torch_name(d));
  };
  // What is at its default and was not asked for stays away, as in the library's own files: older
  // readers fill in the same values, and those before scale_dtype existed refuse its name.
  Json j;
  if (a.strategy == Strategy::block) j["block_structure"] = {a.block_rows, a.block_cols};
  if (a.dynamic == Dynamic::local) {
    j["dynamic"] = "local";
  } else {
    j["dynamic"] = a.dynamic == Dynamic::yes;
  }
  j["group_size"] = nullptr;
  if (a.group_size > 0) j["group_size"] = a.group_size;
  // vLLM's MoE path wants channel spelled out for packed integers; null elsewhere, as presets do.
  if (weights && a.type == NumType::integer && a.num_bits < 8 && a.strategy == Strategy::channel) {
    j["group_size"] = -1;
  }
  j["num_bits"] = a.num_bits;
  if (a.scale_dtype) j["scale_dtype"] = dtype(*a.scale_dtype);
  j["strategy"] = name_of(a.strategy);
  j["symmetric"] = a.symmetric;
  j["type"] = name_of(a.type);
  return j;
}

Json quantization_config(const std::vector<Group>& groups, const std::vector<std::string>& ignore,
                         const std::optional<QuantArgs>& kv_cache) {
  Json config_groups = Json::object();
  std::string common;
  for (size_t i = 0; i < groups.size(); ++i) {
    const Scheme& s = *groups[i].scheme;
    std::string format(format_of(s));
    common = i == 0 || common == format ? format : "mixed-precision";
    Json g;
    g["format"] = format;
    g["input_activations"] = s.input_activations ? args_json(*s.input_activations, false) : Json();
    g["output_activations"] = nullptr;
    g["targets"] = groups[i].targets;
    g["weights"] = args_json(s.weights, true);
    if (groups[i].act_order) g["weights"]["actorder"] = "group";
    if (groups[i].use_clip) g["activation_use_clip"] = *groups[i].use_clip;
    config_groups["group_" + std::to_string(i)] = std::move(g);
  }
  Json q;
  q["config_groups"] = std::move(config_groups);
  q["format"] = groups.empty() ? "dense" : common;
  q["global_compression_ratio"] = nullptr;
  q["ignore"] = ignore;
  q["kv_cache_scheme"] = kv_cache ? args_json(*kv_cache, false) : Json();
  q["moe_sparsity_config"] = nullptr;
  q["quant_method"] = "compressed-tensors";
  q["quantization_status"] = "compressed";
  q["sparsity_config"] = Json::object();
  q["transform_config"] = Json::object();
  q["version"] = kVersion;
  return q;
}

}  // namespace qp::ct

namespace qp {

const Format& compressed_tensors_format() {
  static const Format format = {.name = "compressed-tensors",
                                .summary = "vLLM and SGLang: every scheme but codebooks, no extra flag",
                                .plan = ct::plan,
                                .quant_method = "compressed-tensors",
                                .adopt = ct::adopt,
                                .check = ct::check,
                                .groups = true,
                                .target = "sglang"};
  return format;
}

}  // namespace qp
