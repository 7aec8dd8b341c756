// kv_cache_scheme and the scales it announces: ATTENTION.k_scale, ATTENTION.v_scale.
#include <cstring>
#include <map>

#include "formats/compressed_tensors/compressed_tensors.h"
#include "formats/hf/config.h"
#include "formats/hf/modules.h"
#include "lib/base/error.h"
#include "lib/qmap/rows.h"
#include "lib/qmap/store.h"
#include "lib/scheme/numerics.h"

namespace qp::ct {
namespace {

// "a.self_attn.k_scale" of the spellings of section 3.11, or "".
std::string canonical_name(std::string_view name) {
  for (std::string_view kind : {"k", "v"}) {
    std::string k(kind);
    for (const std::string& suffix : {"." + k + "_scale", "." + k + "_proj.output_scale", "." + k + "_proj." + k + "_scale"}) {
      if (name.ends_with(suffix)) return std::string(name.substr(0, name.size() - suffix.size())) + "." + k + "_scale";
    }
  }
  return "";
}

bool is_scale(const Tensor& t) {
  return t.dtype == DType::f32 || t.dtype == DType::f16 || t.dtype == DType::bf16;
}

}  // namespace

void adopt_kv_cache(Model& m, const Json& config, const LoadOptions& options) {
  auto it = config.find("kv_cache_scheme");
  if (it == config.end() || it->is_null()) return;
  if (json_string(*it, "strategy", "") == "attn_head") {
    throw limit_error("its kv_cache_scheme has a scale per head, which qpipe cannot hold");
  }
  m.kv_cache = quant_args_from_json(*it);
  std::map<std::string, int> found;  // by attention module: 1 for keys, 2 for values
  for (Tensor& t : m.tensors) {
    std::string name = canonical_name(t.name);
    if (name.empty()) continue;
    if (!is_scale(t) || t.shape.elements() != 1) {
      throw input_error("is no scale of the KV cache (expected a float of one element, found " +
                        std::string(dtype_name(t.dtype)) + " " + t.shape.str() + ")").tensor(t.name);
    }
    if (name != t.name) t.source = t.name;
    t.name = name;
    t.shape = Shape{1};
    Part& p = t.parts.front();
    p.shape = t.shape;
    if (t.dtype != DType::f32) {
      Decode d = p.decode ? *p.decode : Decode{};
      if (!p.decode) d.stored = p.dtype;
      p.decode = std::make_shared<const Decode>(std::move(d));
      p.dtype = t.dtype = DType::f32;
    }
    found[name.substr(0, name.size() - 8)] |= name[name.size() - 7] == 'k' ? 1 : 2;
  }
  if (options.dequantize) {  // no float model has them
    for (const Tensor& t : m.tensors) {
      if (is_kv_scale(m, t)) m.dropped.emplace_back(t.name, "a scale of the KV cache");
    }
    std::erase_if(m.tensors, [&](const Tensor& t) { return is_kv_scale(m, t); });
  }
  bool needed = m.kv_cache->dynamic == Dynamic::no;
  if (options.dequantize) m.kv_cache.reset();
  if (!needed) return;
  if (found.empty()) throw input_error("quantization_config has a kv_cache_scheme, but there are no k_scale and v_scale");
  for (const auto& [module, kinds] : found) {
    if (kinds != 3) throw input_error(std::string("has no ") + (kinds == 1 ? "v_scale" : "k_scale")).tensor(module);
  }
}

bool is_kv_scale(const Model& m, const Tensor& t) {
  return m.kv_cache && !t.quantized() && (t.name.ends_with(".k_scale") || t.name.ends_with(".v_scale"));
}

void keep_kv_scale(const Store& store, const Tensor& t, ExportPlan& plan) {
  keep_tensor(t, plan);
  // The library stores them in the dtype of the model; engines take any.
  DType dtype = model_dtype(store.model());
  RowScratch scratch;
  float value = *RowSource(store, t).get_f32(0, 1, scratch, true);
  if (dtype == DType::f32 || numerics::round_to(dtype, value) != value) return;
  OutTensor& out = plan.tensors.back();
  out.values = nullptr;
  out.dtype = dtype;
  out.part = t.part(Role::data);
}

}  // namespace qp::ct
