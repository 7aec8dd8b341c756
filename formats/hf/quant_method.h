// Already-quantized checkpoints: where the method is written, and who reads it.
#pragma once

#include <string>

#include "formats/format.h"

namespace qp {

// The last step of loading HF-style weights: parses config.json, names the architecture, detects
// the quantization method and lets its format regroup the tensors. Errors: input, naming a method
// that cannot be read.
void finish_model(Model& model, const std::string& path, const LoadOptions& options);

// The quantization a checkpoint declares. Places, in SGLang's order (model_config.py):
// config.json quantization_config, then of text_config, then compression_config, then
// hf_quant_config.json (ModelOpt), then quant_model_description.json (ModelSlim); then the files that
// GPTQ (quantize_config.json) and AWQ (quant_config.json) had before.
struct DeclaredQuantization {
  std::string method;  // lower case, "" when none
  std::string place;   // where it was found
  Json config;
};
DeclaredQuantization declared_quantization(const Model& model,
                                           const std::function<std::string(const Companion&)>& read);

}  // namespace qp
