#include "formats/hf/config.h"

#include <map>

namespace qp {
namespace {

// The float dtype most elements of weights have.
std::string main_dtype(const Model& m) {
  std::map<DType, uint64_t> count;
  for (const Tensor& t : m.tensors) {
    if (is_float(t.dtype) && t.shape.rank() >= 2) count[t.dtype] += t.shape.elements().value_or(0);
  }
  uint64_t most = 0;
  DType dtype = DType::bf16;
  for (auto [d, n] : count) {
    if (n > most) {
      most = n;
      dtype = d;
    }
  }
  return most == 0 ? "" : std::string(torch_name(dtype));
}

bool describes_quantization(const std::string& name) {
  return name == "hf_quant_config.json" || name == "quant_model_description.json" ||
         name == "quantize_config.json" || name == "quant_config.json" ||
         name == "quantization_config.json";
}

}  // namespace

void keep_tensor(const Tensor& t, ExportPlan& plan) {
  OutTensor out;
  out.name = t.name;
  out.dtype = t.dtype;
  out.shape = t.shape;
  out.values = &t;
  plan.tensors.push_back(std::move(out));
  plan.ledger.push_back(
      {t.name, t.dequantize ? "dequantized" : "kept", std::string(dtype_name(t.dtype))});
}

void keep_companions(const Model& m, ExportPlan& plan) {
  for (const Companion& c : m.companions) {
    if (c.name == "config.json") {
      plan.ledger.push_back({c.name, "rewritten", "quantization_config replaced"});
    } else if (describes_quantization(c.name)) {
      plan.ledger.push_back({c.name, "dropped", "describes the quantization of the source"});
    } else {
      plan.companions.push_back(&c);
      plan.ledger.push_back({c.name, "kept", "byte for byte"});
    }
  }
  for (const auto& [name, why] : m.dropped) plan.ledger.push_back({name, "dropped", why});
}

Json unquantized_config_json(const Model& m) {
  Json config = m.config.is_object() ? m.config : Json::object();
  config.erase("quantization_config");
  config.erase("compression_config");
  if (auto text = config.find("text_config"); text != config.end() && text->is_object()) {
    text->erase("quantization_config");
  }
  std::string dtype = main_dtype(m);
  for (const char* key : {"dtype", "torch_dtype"}) {
    if (!dtype.empty() && config.contains(key) && config[key].is_string()) config[key] = dtype;
  }
  return config;
}

std::string config_text(const Json& config) {
  return config.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string unquantized_config(const Model& m) { return config_text(unquantized_config_json(m)); }

}  // namespace qp
