#include "formats/hf/kv_cache.h"

#include "lib/base/error.h"

namespace qp {

QuantArgs fp8_kv_cache() {
  QuantArgs a;
  a.type = NumType::floating;
  return a;
}

bool adopt_kv_scales(Model& model, std::string_view k_suffix, std::string_view v_suffix,
                     const LoadOptions& options) {
  bool found = false;
  std::string k_tail = ".k_proj." + std::string(k_suffix),
              v_tail = ".v_proj." + std::string(v_suffix);
  for (Tensor& t : model.tensors) {
    bool k = t.name.ends_with(k_tail), v = t.name.ends_with(v_tail);
    if (k || v) {
      t.source = t.name;
      t.name = t.name.substr(0, t.name.size() - (k ? k_tail : v_tail).size()) +
               (k ? ".k_scale" : ".v_scale");
    }
    if (!is_kv_scale(t)) continue;
    if (!is_float(t.dtype) || t.shape.elements() != 1) {
      throw input_error("is no single float (found " + std::string(dtype_name(t.dtype)) + " " +
                        t.shape.str() + ")")
          .tensor(t.source.empty() ? t.name : t.source);
    }
    t.shape = Shape{1};
    Part& p = t.parts.front();
    p.shape = t.shape;
    if (t.dtype != DType::f32) {
      Decode d = p.decode ? *p.decode : Decode{};
      if (!p.decode) d.stored = p.dtype;
      p.decode = std::make_shared<const Decode>(std::move(d));
      p.dtype = t.dtype = DType::f32;
    }
    found = true;
  }
  if (options.dequantize) {
    std::erase_if(model.tensors, [&](const Tensor& t) {
      if (is_kv_scale(t)) {
        model.dropped.emplace_back(t.source.empty() ? t.name : t.source, "a scale of the KV cache");
      }
      return is_kv_scale(t);
    });
  }
  return found;
}

bool is_kv_scale(const Tensor& t) {
  return t.name.ends_with(".k_scale") || t.name.ends_with(".v_scale");
}

std::string kv_scale_name(const Tensor& t, std::string_view k_suffix, std::string_view v_suffix) {
  bool k = t.name.ends_with(".k_scale");
  return t.name.substr(0, t.name.size() - 8) + (k ? ".k_proj." : ".v_proj.") +
         std::string(k ? k_suffix : v_suffix);
}

}  // namespace qp
