// qverify: the group size of the config against the scales that are stored.
#include <map>
#include <set>

#include "formats/torchao/torchao.h"
#include "formats/verify/raw.h"

namespace qp::torchao {
namespace {

constexpr int kMaxDepth = 16;

void group_sizes(const Json& node, int depth, std::set<int64_t>& out) {
  if (depth > kMaxDepth || !node.is_structured()) return;
  for (const auto& [key, value] : node.items()) {
    if (key == "group_size" && value.is_number_integer()) out.insert(value.get<int64_t>());
    group_sizes(value, depth + 1, out);
  }
}

}  // namespace

void check(const RawCheckpoint& raw, const Json& config, std::vector<Finding>& findings) {
  std::set<int64_t> said;
  group_sizes(config, 0, said);
  if (said.size() != 1 || *said.begin() <= 0) return;  // none, or several for several modules
  auto group = static_cast<uint64_t>(*said.begin());
  std::map<std::string, const RawTensor*> tensors;
  for (const RawTensor& t : raw.tensors) tensors.emplace(t.name, &t);
  constexpr std::string_view kScale = "_weight_scale";
  for (const RawTensor& t : raw.tensors) {
    if (!t.name.ends_with(kScale) || t.shape.rank() != 2) continue;
    auto it = tensors.find(t.name.substr(0, t.name.size() - kScale.size()) + "_weight_qdata");
    if (it == tensors.end() || it->second->shape.rank() != 2) continue;
    const Shape& codes = it->second->shape;
    // Int4Tensor: two codes a byte, scales [groups, out]. The others: [out, groups].
    auto fits = [&](uint64_t cols, uint64_t groups) { return cols % group == 0 && cols / group == groups; };
    if (fits(codes[1], t.shape[1]) || fits(2 * codes[1], t.shape[0])) continue;
    findings.push_back({Severity::error, "quantization-config", t.name,
                        "is " + t.shape.str() + ", which does not fit group_size " + std::to_string(group),
                        "restore quantization_config"});
    return;
  }
}

}  // namespace qp::torchao
