// qverify: modules against modules_to_not_convert, and the rules between weights and scales that
// no reader states tensor by tensor.
#include "formats/fp8/fp8.h"
#include "formats/hf/linear_writer.h"
#include "formats/verify/listed.h"
#include "lib/base/error.h"

namespace qp::fp8 {
namespace {

std::vector<std::string> listed(const Json& config) {
  for (const char* key : {"ignored_layers", "modules_to_not_convert"}) {
    auto it = config.find(key);
    if (it == config.end() || it->is_null()) continue;
    if (!it->is_array()) {
      throw input_error("quantization_config: '" + std::string(key) + "' is no list");
    }
    std::vector<std::string> out;
    for (const Json& name : *it) {
      if (name.is_string()) out.push_back(name.get<std::string>());
    }
    if (!out.empty()) return out;
  }
  return {};
}

}  // namespace

void check(const RawCheckpoint& raw, const Json& config, std::vector<Finding>& findings) {
  auto names = listed(config);
  ListedRule rule;
  rule.list = "modules_to_not_convert";
  rule.quantized = [](const auto& module) {
    return module.contains("weight_scale_inv") || module.contains("weight_scale") ||
           module.contains("scale");
  };
  rule.left_out = [&](const std::string& module) {
    for (const std::string& n : names) {
      if (names_module(n, module)) return true;
    }
    return false;
  };
  check_listed(raw, rule, findings);
  if (!config.contains("activation_scheme")) {
    findings.push_back({Severity::error, "quantization-config", "",
                        "has no 'activation_scheme', which engines require",
                        "add \"activation_scheme\": \"dynamic\""});
  }
  (void)block_size(config);
}

}  // namespace qp::fp8
