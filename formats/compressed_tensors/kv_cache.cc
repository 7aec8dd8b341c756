// kv_cache_scheme and the scales it announces: ATTENTION.k_scale, ATTENTION.v_scale.
#include <map>

#include "formats/compressed_tensors/compressed_tensors.h"
#include "formats/hf/config.h"
#include "formats/hf/kv_cache.h"
#include "formats/hf/modules.h"
#include "lib/base/error.h"
#include "lib/qmap/rows.h"
#include "lib/qmap/store.h"
#include "lib/scheme/numerics.h"

namespace qp::ct {

void adopt_kv_cache(Model& m, const Json& config, const LoadOptions& options) {
  auto it = config.find("kv_cache_scheme");
  if (it == config.end() || it->is_null()) return;
  if (json_string(*it, "strategy", "") == "attn_head") {
    throw limit_error("its kv_cache_scheme has a scale per head, which qpipe cannot hold");
  }
  m.kv_cache = quant_args_from_json(*it);
  bool found = adopt_kv_scales(m, "output_scale", "output_scale", options);
  found = adopt_kv_scales(m, "k_scale", "v_scale", options) || found;
  if (!found && m.kv_cache->dynamic == Dynamic::no) {
    throw input_error("quantization_config has a kv_cache_scheme, but there are no k_scale and v_scale");
  }
  if (options.dequantize) m.kv_cache.reset();
  std::map<std::string, int> kinds;  // by attention module: 1 for keys, 2 for values
  for (const Tensor& t : m.tensors) {
    if (qp::is_kv_scale(t)) kinds[t.name.substr(0, t.name.size() - 8)] |= t.name[t.name.size() - 7] == 'k' ? 1 : 2;
  }
  for (const auto& [module, kind] : kinds) {
    if (kind != 3) throw input_error(std::string("has no ") + (kind == 1 ? "v_scale" : "k_scale")).tensor(module);
  }
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
