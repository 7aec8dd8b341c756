// ModelSlim (Ascend): quant_model_description.json names a label per tensor, the weights lie in
// quant_model_weights*.safetensors. Reference: reference/fp8-torchao-quark-modelslim.md 5.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "formats/format.h"
#include "lib/scheme/scheme.h"

namespace qp::modelslim {

// What a label says, and how the codes lie.
enum class Codes : uint8_t {
  bytes8,  // I8 [N, K]
  pairs4,  // I8 [N/2, K]: rows 2i and 2i + 1 in the low and high nibble
  bytes4,  // I8 [N, K], one signed nibble a byte
  fp8,     // F8_E4M3 [N, K]
  fp4,     // U8 [N, K/2], low nibble first
};
struct Label {
  std::string_view name;
  Codes codes;
  bool mx;          // weight_scale U8 [N, K/32], no weight_offset
  bool is_static;   // input_scale, input_offset, deq_scale, quant_bias
  bool asymmetric;  // weight_offset may be other than zero
  int input_bits;   // 0: activations as they are
  bool float_input;
};
const Label* find_label(std::string_view name);
// The label that holds a scheme; null when none does.
const Label* label_of(const Scheme& scheme);
// The scheme of a label; `group` columns share a scale (0: a row).
Scheme scheme_of(const Label& label, bool symmetric, bool symmetric_input, int group);

ExportPlan plan(const Store& store, const ExportOptions& options);
void adopt(Model& model, const Json& description, const LoadOptions& options);

}  // namespace qp::modelslim
