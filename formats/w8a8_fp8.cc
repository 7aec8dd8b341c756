#include "formats/hf/w8a8.h"

namespace qp {

const Format& w8a8_fp8_format() {
  static const Format format = {
      "w8a8-fp8",
      "SGLang's FP8 loader: per row, activations per token; every linear",
      [](const Store& store, const ExportOptions& options) {
        return w8a8::plan(store, options, true);
      },
      "w8a8_fp8",
      [](Model& model, const Json&, const LoadOptions& options) {
        w8a8::adopt(model, options, true);
      },
      [](const RawCheckpoint& raw, const Json& config, std::vector<Finding>& findings) {
        w8a8::check(raw, config, findings, true);
      }};
  return format;
}

}  // namespace qp
