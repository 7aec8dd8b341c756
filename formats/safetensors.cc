// Unquantized HF checkpoints: every tensor under its name, in its dtype; decode-on-read tensors
// are decoded. Reading is formats/hf/weights.cc.
#include "formats/format.h"
#include "formats/hf/config.h"
#include "lib/base/error.h"
#include "lib/qmap/store.h"

namespace qp {
namespace {

ExportPlan plan(const Store& store, const ExportOptions&) {
  const Model& m = store.model();
  ExportPlan out;
  for (const Tensor& t : m.tensors) {
    if (t.quantized()) {
      std::string what = t.ggml.empty() ? m.schemes[static_cast<size_t>(t.scheme)].name : t.ggml;
      throw limit_error("is quantized (" + what + "), which format safetensors cannot hold")
          .file(store.label())
          .tensor(t.name)
          .hint("load it with qload --dequantize, or export with -f compressed-tensors");
    }
    keep_tensor(t, out);
  }
  keep_companions(m, out);
  if (!m.config.is_null()) out.config = unquantized_config(m);
  return out;
}

}  // namespace

const Format& safetensors_format() {
  static const Format format = {"safetensors", "HF safetensors, unquantized (bf16, f16, f32)", plan, "", nullptr};
  return format;
}

}  // namespace qp
