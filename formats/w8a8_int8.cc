#include "formats/hf/w8a8.h"

namespace qp {

const Format& w8a8_int8_format() {
  static const Format format = {
      "w8a8-int8",
      "SGLang's INT8 loader: per row, activations per token",
      [](const Store& store, const ExportOptions& options) {
        return w8a8::plan(store, options, false);
      },
      "w8a8_int8",
      [](Model& model, const Json&, const LoadOptions& options) {
        w8a8::adopt(model, options, false);
      },
      [](const RawCheckpoint& raw, const Json& config, std::vector<Finding>& findings) {
        w8a8::check(raw, config, findings, false);
      }};
  return format;
}

}  // namespace qp
