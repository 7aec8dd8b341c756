// NVIDIA ModelOpt's unified HF checkpoints: quant_method "modelopt", hf_quant_config.json.
// Tensors, names and config: reference/modelopt.md 1. Kinds that are read and written: kAlgorithms.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/format.h"

namespace qp {
struct RawCheckpoint;
struct Finding;
}  // namespace qp

namespace qp::modelopt {

enum class Kind : uint8_t {
  fp8,
  fp8_channel,
  fp8_block,
  nvfp4,
  nvfp4_awq,
  w4a16_nvfp4,
  w4a8_nvfp4,
  int4_awq,
  w4a8_awq,
  int8_static,
  int8_weight,
  mxfp4,
  w4a8_mxfp4,
  mxfp8,
};

struct Algorithm {
  Kind kind;
  std::string_view name;    // quant_algo
  bool group_size = false;  // the config says it
  bool awq_keys = false;    // .. and has_zero_point, pre_quant_scale
};
std::span<const Algorithm> algorithms();
const Algorithm& algorithm(Kind kind);

// What a layer is quantized with. Group 0: the config does not say, the scales' shape does.
struct Entry {
  Kind kind = Kind::fp8;
  int group = 0;
  auto operator<=>(const Entry&) const = default;
};
Scheme scheme_of(Entry entry, bool static_input = true);

struct Config {
  std::optional<Entry> all;             // of every quantized layer, or
  std::map<std::string, Entry> layers;  // MIXED_PRECISION
  std::vector<std::string> exclude;
  std::string kv_cache;  // "", FP8, INT8, NVFP4, NVFP4_AFFINE

  // A layer's own entry, or that of the module it is in. Null: not quantized.
  const Entry* find(std::string_view module) const;
};
// From either JSON file's object. Errors: input, naming the key.
Config read_config(const Json& json);
bool excluded(const Config& config, std::string_view module);  // '*' anywhere; SGLang's rules

// The shortest safe patterns: "a.b*", else "a.b.*", else the name, none of which fits a quantized
// name (reference/modelopt.md 1.5). Sorted.
std::vector<std::string> exclude_patterns(const std::vector<std::string>& unquantized,
                                          std::vector<std::string> quantized);
// hf_quant_config.json of these layers, in the order of the model.
Json hf_quant_config(const std::vector<std::pair<std::string, Entry>>& layers,
                     const std::vector<std::string>& exclude, const std::string& kv_cache);
// config.json's quantization_config, made of that.
Json quantization_config(const Json& hf_quant_config);

ExportPlan plan(const Store& store, const ExportOptions& options);
void adopt(Model& model, const Json& config, const LoadOptions& options);
void check(const RawCheckpoint& raw, const Json& config, std::vector<Finding>& findings);

}  // namespace qp::modelopt
