#include "lib/allocate/variants.h"

#include <fcntl.h>

#include <cerrno>
#include <set>

#include "lib/algorithm/quantize.h"
#include "lib/base/error.h"
#include "lib/pipe/handover.h"
#include "lib/qmap/reader.h"
#include "lib/qmap/stacks.h"

namespace qp {

Variants::Variants(const Store& store, const std::vector<Candidate>& candidates,
                   const VariantOptions& options, Progress& progress)
    : store_(store) {
  std::set<std::string_view> planned;
  const Candidate* first = nullptr;
  for (const Candidate& c : candidates) {
    add(c, options, progress);
    if (first == nullptr && !keeps(c)) first = &c;
  }
  for (const PlanEntry& e : first->plan.entries) planned.insert(e.tensor->name);
  auto apart = [&](const ExpertStack& s) { return !planned.contains(s.gate_up->name); };
  for (const auto& [prefix, stack] : find_stacks(store.model())) {
    if (!apart(stack)) continue;
    apart_ = store.with(with_experts_apart(store.model(), apart));
    break;
  }
}

void Variants::add(const Candidate& candidate, const VariantOptions& options, Progress& progress) {
  variants_.emplace_back();
  if (keeps(candidate)) return;
  OutputOptions o;
  o.spill = true;
  QmapOutput output(std::move(o));
  QuantizeOptions q;
  q.refer = true;
  q.precision = options.precision;
  q.memory = options.memory;
  q.provenance = Json::object();
  run_plan(store_, candidate.plan, q, output, progress);
  Fd fd(fcntl(output.fd(), F_DUPFD_CLOEXEC, 3));
  if (!fd) throw system_error("cannot open again", errno).file(output.label());
  auto file = MappedFile::adopt(std::move(fd), output.label());
  variants_.back() = std::make_unique<Store>(read_qmap(file, output.base()), file, output.label());
}

MixedWeights::MixedWeights(const Variants& variants) : WeightSource(variants.base()) {
  for (size_t i = 0; i < variants.size(); ++i) {
    const Store* s = variants.variant(i);
    sources_.push_back(s == nullptr ? nullptr : std::make_unique<engine::WeightSource>(*s));
  }
}

void MixedWeights::choose(const SchemeGroup& group, size_t candidate) {
  for (const std::string& name : group.tensors) chosen_[name] = candidate;
}

engine::Weight MixedWeights::load(const engine::WeightUse& use, gemm::Precision precision,
                                  engine::Weight used) const {
  auto it = chosen_.find(use.tensor);
  bool own = it == chosen_.end() || sources_[it->second] == nullptr;
  if (own) return WeightSource::load(use, precision, std::move(used));
  return sources_[it->second]->load(use, precision, std::move(used));
}

}  // namespace qp
