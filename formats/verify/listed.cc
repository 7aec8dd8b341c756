#include "formats/verify/listed.h"

#include "lib/model/modules.h"

namespace qp {

void check_listed(const RawCheckpoint& raw, const ListedRule& rule,
                  std::vector<Finding>& findings) {
  std::map<std::string, std::map<std::string, const RawTensor*>> modules;
  for (const RawTensor& t : raw.tensors) {
    auto dot = t.name.rfind('.');
    if (dot != std::string::npos) modules[t.name.substr(0, dot)][t.name.substr(dot + 1)] = &t;
  }
  for (const auto& [name, module] : modules) {
    bool left_out = rule.left_out(name);
    if (rule.quantized(module)) {
      if (!left_out) continue;
      findings.push_back({Severity::error, "ignored-quantized", module.begin()->second->name,
                          "is quantized, but '" + rule.list + "' names its module",
                          "take the module out of '" + rule.list + "', or store it unquantized"});
      continue;
    }
    auto weight = module.find("weight");
    if (left_out || weight == module.end() || weight->second->shape.rank() != 2) continue;
    ModuleInfo info = classify(name + ".weight", DType::bf16, weight->second->shape, raw.config);
    using enum ModuleKind;
    bool surely = info.kind == linear || info.kind == expert;
    if (!surely && info.kind != head && info.kind != mtp) continue;
    findings.push_back({surely ? Severity::error : Severity::warning, "not-quantized",
                        weight->second->name,
                        "is stored unquantized, but '" + rule.list + "' does not name its module",
                        "add '" + name + "' to '" + rule.list + "', or quantize it"});
  }
}

}  // namespace qp
