// qverify: stored modules against the exclusion list or quantized_layers.
#include "formats/modelopt/modelopt.h"
#include "formats/verify/listed.h"

namespace qp::modelopt {

void check(const RawCheckpoint& raw, const Json& json, std::vector<Finding>& findings) {
  Config config = read_config(json);
  ListedRule rule;
  rule.list = config.all ? "exclude_modules" : "quantized_layers";
  rule.quantized = [](const auto& module) { return module.contains("weight_scale"); };
  rule.left_out = [&](const std::string& module) {
    return config.all ? excluded(config, module) : config.find(module) == nullptr;
  };
  check_listed(raw, rule, findings);
}

}  // namespace qp::modelopt
