#include "lib/allocate/candidates.h"

#include <algorithm>
#include <map>

#include "lib/base/error.h"

namespace qp {
namespace {

using Reached = std::map<std::string_view, const PlanEntry*>;

// What the last rule of a candidate quantizes.
Reached reached_by(const Candidate& candidate) {
  Reached reached;
  const std::string& source = candidate.recipe.rules.back().source;
  for (const PlanEntry& e : candidate.plan.entries) {
    if (e.scheme >= 0 && e.reason == source) reached.emplace(e.tensor->name, &e);
  }
  return reached;
}

}  // namespace

CandidateGroups group_tensors(const std::vector<Candidate>& candidates, const std::string& label) {
  std::vector<Reached> reached;
  const Candidate* first = nullptr;
  for (const Candidate& c : candidates) {
    reached.push_back(keeps(c) ? Reached() : reached_by(c));
    if (!keeps(c) && first == nullptr) first = &c;
  }
  if (first == nullptr || candidates.size() < 2) {
    throw usage_error("there is nothing to choose from")
        .hint("give -s two schemes or more, as in -s w3a16,w4a16,w8a16");
  }
  const Reached& all = reached[static_cast<size_t>(first - candidates.data())];
  if (all.empty()) throw usage_error("has no tensor that the schemes reach").file(label);
  for (size_t i = 0; i < candidates.size(); ++i) {
    auto same = [](const auto& a, const auto& b) { return a.first == b.first; };
    if (keeps(candidates[i]) || std::ranges::equal(reached[i], all, same)) continue;
    throw usage_error(candidates[i].name + " and " + first->name + " apply to different tensors")
        .file(label)
        .hint("choose among schemes that keep the model's experts alike");
  }
  CandidateGroups out;
  std::map<std::string, size_t> index;
  out.fixed_bytes = first->plan.output_bytes;
  for (const PlanEntry& e : first->plan.entries) {
    const std::string& name = e.tensor->name;
    if (!all.contains(name)) continue;
    const std::string& key = e.info.agree.empty() ? e.info.module : e.info.agree;
    auto [it, fresh] = index.emplace(key, out.groups.size());
    if (fresh) {
      out.groups.push_back({});
      out.groups.back().name = key;
      out.groups.back().bytes.resize(candidates.size());
    }
    SchemeGroup& g = out.groups[it->second];
    g.tensors.push_back(name);
    g.modules.push_back(e.info.module);
    g.experts = g.experts || e.info.kind == ModuleKind::expert;
    uint64_t n = e.tensor->shape.elements().value_or(0);
    g.params += n;
    out.params += n;
    out.fixed_bytes -= e.output_bytes;
    for (size_t i = 0; i < candidates.size(); ++i) {
      g.bytes[i] +=
          keeps(candidates[i]) ? e.tensor->stored_bytes() : reached[i].at(name)->output_bytes;
    }
  }
  return out;
}

}  // namespace qp
