// qverify: stored modules against the exclusion list or quantized_layers.
#include <filesystem>
#include <map>

#include "formats/modelopt/modelopt.h"
#include "formats/verify/listed.h"
#include "lib/base/file.h"
#include "lib/base/json.h"

namespace qp::modelopt {
namespace {

constexpr uint64_t kMaxJson = uint64_t{1} << 28;

void add(std::vector<Finding>& findings, std::string tensor, const char* key, int64_t said, uint64_t is) {
  findings.push_back({Severity::error, "quantization-config", std::move(tensor),
                      "the config says " + std::string(key) + " " + std::to_string(said) + " (expected " +
                          std::to_string(is) + ")",
                      "restore quantization_config and hf_quant_config.json"});
}

// A group size that is said against the scales of 4-bit weights and of MXFP8.
void check_group_size(const RawCheckpoint& raw, const QuantArgs& args, int64_t said, std::vector<Finding>& findings) {
  bool mx8 = args.num_bits == 8 && args.strategy == Strategy::group && args.scale_dtype == DType::f8_e8m0;
  if ((args.num_bits != 4 && !mx8) || said <= 0) return;
  std::map<std::string, const RawTensor*> weights;
  for (const RawTensor& t : raw.tensors) weights.emplace(t.name, &t);
  for (const RawTensor& t : raw.tensors) {
    if (!t.name.ends_with(".weight_scale") || t.shape.rank() != 2 || t.shape[1] == 0) continue;
    auto it = weights.find(t.name.substr(0, t.name.size() - 6));
    bool coded = it != weights.end() && it->second->dtype == (mx8 ? DType::f8_e4m3 : DType::u8);
    if (!coded || it->second->shape.rank() != 2) continue;
    // INT4 pairs rows in a byte, the 4-bit float types columns.
    bool pairs = !mx8 && args.type != NumType::integer;
    uint64_t cols = it->second->shape[1] * (pairs ? 2 : 1), found = cols / t.shape[1];
    if (static_cast<uint64_t>(said) != found) return add(findings, t.name, "group_size", said, found);
  }
}

// config_groups repeat what quant_algo says, and so does hf_quant_config.json; engines read either.
void check_groups(const RawCheckpoint& raw, const Json& json, const Config& config, std::vector<Finding>& findings) {
  if (!config.all) return;
  const QuantArgs args = scheme_of(*config.all).weights;
  std::string path = raw.path + "/hf_quant_config.json";
  std::error_code ec;
  if (std::filesystem::is_regular_file(path, ec)) {
    Config other = read_config(parse_json(read_text_file(path, kMaxJson), path));
    if (other.all) check_group_size(raw, args, other.all->group, findings);
  }
  auto groups = json.find("config_groups");
  if (groups == json.end() || !groups->is_object()) return;
  for (const auto& [name, group] : groups->items()) {
    auto w = group.find("weights");
    if (w == group.end() || !w->is_object()) continue;
    auto bits = w->find("num_bits"), size = w->find("group_size");
    if (bits != w->end() && bits->is_number_integer() && bits->get<int64_t>() != args.num_bits) {
      add(findings, "", "num_bits", bits->get<int64_t>(), static_cast<uint64_t>(args.num_bits));
    }
    if (size != w->end() && size->is_number_integer()) check_group_size(raw, args, size->get<int64_t>(), findings);
  }
}

}  // namespace

void check(const RawCheckpoint& raw, const Json& json, std::vector<Finding>& findings) {
  Config config = read_config(json);
  ListedRule rule;
  rule.list = config.all ? "exclude_modules" : "quantized_layers";
  rule.quantized = [](const auto& module) { return module.contains("weight_scale"); };
  rule.left_out = [&](const std::string& module) {
    return config.all ? excluded(config, module) : config.find(module) == nullptr;
  };
  check_listed(raw, rule, findings);
  check_groups(raw, json, config, findings);
}

}  // namespace qp::modelopt
