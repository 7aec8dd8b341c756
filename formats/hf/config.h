// What HF-style exporters share: config.json, kept tensors, companions.
#pragma once

#include <string>

#include "formats/format.h"

namespace qp {

// Adds a float tensor to the plan as it is.
void keep_tensor(const Tensor& tensor, ExportPlan& plan);

// Adds every companion but config.json, and the tensors and files dropped at loading to the ledger.
// Companions that describe another quantization of the source are dropped with that reason.
void keep_companions(const Model& model, ExportPlan& plan);

// The model's config.json without any quantization block, byte for byte where nothing changes.
// Its dtype follows the tensors when --dtype changed them. Indent 2, trailing newline.
std::string unquantized_config(const Model& model);
Json unquantized_config_json(const Model& model);
std::string config_text(const Json& config);

}  // namespace qp
