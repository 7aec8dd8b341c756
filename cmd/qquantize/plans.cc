// What plans need of memory, and how they are shown.
#include <algorithm>
#include <iostream>

#include "cmd/qquantize/quantize.h"
#include "cmd/tool/table.h"
#include "lib/base/parallel.h"
#include "lib/qmap/identity.h"

namespace qp {
namespace {

// Anonymous memory of a run: per worker a chunk with its codes, and the small parts of the
// tensor at hand (f32 while they grow, then encoded).
uint64_t memory_need(const Plan& plan, int threads) {
  constexpr uint64_t kBase = 24 << 20, kChunk = 1 << 20;
  uint64_t worst = 0;
  for (const PlanEntry& e : plan.entries) {
    uint64_t row = e.source->shape.cols() * dtype_bits(e.tensor->dtype) / 8;
    uint64_t chunk = std::max(kChunk, row), small = 0;
    if (e.scheme >= 0) {
      const Scheme& s = plan.schemes[static_cast<size_t>(e.scheme)];
      if (s.weights.strategy == Strategy::block)
        chunk = std::max(chunk, row * static_cast<uint64_t>(s.weights.block_rows));
      small = scale_shape(s.weights, e.source->shape).elements().value_or(0) *
              (s.weights.symmetric ? 6 : 12);
    }
    worst = std::max(worst, static_cast<uint64_t>(ordered_slots(threads)) * 4 * chunk + small);
  }
  return kBase + worst + plan.entries.size() * 1024;
}

}  // namespace

void QuantizeCommand::check_memory(const std::vector<Result>& wanted, Tool& tool) const {
  uint64_t cap = tool.max_memory();
  auto need_with = [&](int n) {
    uint64_t sum = 0;
    for (const Result& r : wanted) sum += memory_need(r.plan, n);
    return sum;
  };
  int n = threads();
  while (n > 1 && need_with(n) > cap) --n;
  uint64_t need = need_with(n);
  if (need > cap) {
    const Plan& plan = wanted.front().plan;
    auto worst = std::ranges::max_element(
        plan.entries, {}, [](const PlanEntry& e) { return e.tensor->shape.cols(); });
    throw limit_error("needs " + human_bytes(static_cast<double>(need)) +
                      " of memory, --max-memory allows " + human_bytes(static_cast<double>(cap)))
        .tensor(worst->tensor->name)
        .hint("use --max-memory " + std::to_string(need / 1'000'000 + 1) + "MB or more" +
              (wanted.size() > 1 ? ", or fewer schemes at a time" : ""));
  }
  if (n < threads()) {
    tool.say("using " + std::to_string(n) + " threads to stay under --max-memory", 1);
    set_threads(n);
  }
}

void QuantizeCommand::print_heading(const Result& r, const std::vector<Result>& wanted) const {
  if (wanted.size() < 2) return;
  std::cout << (&r == &wanted.front() ? "" : "\n") << "== " << r.scheme
            << (r.path.empty() ? "" : " -> " + printable(r.path)) << "\n";
}

void QuantizeCommand::print_plans(const Store& store, const std::vector<Result>& wanted,
                                  Tool& tool) const {
  Json all = Json::array();
  for (const Result& r : wanted) {
    if (tool.options.json) {
      Json plan = to_json(r.plan, identity(store.model()));
      plan["peak_memory_bytes"] = memory_need(r.plan, threads());
      if (auto_.asked()) plan["allocation"] = auto_.to_json();
      all.push_back(wanted.size() == 1
                        ? plan
                        : Json{{"scheme", r.scheme}, {"output", r.path}, {"plan", plan}});
    } else {
      print_heading(r, wanted);
      print_plan(r.plan);
    }
  }
  if (!tool.options.json) return;
  std::cout
      << (wanted.size() == 1 ? all[0] : all).dump(1, ' ', false, Json::error_handler_t::replace)
      << "\n";
}

void QuantizeCommand::print_plan(const Plan& plan) const {
  uint64_t memory = memory_need(plan, threads());
  if (auto_.asked()) {
    auto_.print();
    std::cout << "\n";
  }
  Table table({"tensor", "kind", "shape", "scheme", "bytes", "why"},
              {false, false, false, false, true, false});
  for (const PlanEntry& e : plan.entries) {
    table.add({printable(e.tensor->name), std::string(name_of(e.info.kind)), e.tensor->shape.str(),
               e.scheme >= 0  ? plan.schemes[static_cast<size_t>(e.scheme)].name
               : e.retag >= 0 ? "keep, as " + plan.schemes[static_cast<size_t>(e.retag)].name
                              : "keep",
               std::to_string(e.output_bytes), e.reason});
  }
  table.print(std::cout);
  std::cout << plan.quantized << " of " << plan.entries.size() << " tensors quantized; "
            << human_bytes(static_cast<double>(plan.input_bytes)) << " -> "
            << human_bytes(static_cast<double>(plan.output_bytes)) << "; peak memory about "
            << human_bytes(static_cast<double>(memory))
            << "; about "
            // 2 GB/s of source on an ordinary disk: an orientation, not a promise.
            << std::max<uint64_t>(1, plan.input_bytes / 2'000'000'000) << " s\n";
}

void QuantizeCommand::explain(const Store& store, const Plan& plan) const {
  const PlanEntry* found = nullptr;
  std::vector<std::string_view> names;
  for (const PlanEntry& e : plan.entries) {
    if (e.tensor->name == explain_ || e.info.module == explain_) found = &e;
    names.push_back(e.tensor->name);
  }
  if (found == nullptr) {
    throw usage_error("--explain: no such tensor")
        .file(store.label())
        .tensor(explain_)
        .hint(did_you_mean(explain_, names));
  }
  const PlanEntry& e = *found;
  const Tensor& t = *e.tensor;
  std::cout << "tensor   " << printable(t.name) << "\nshape    " << t.shape.str() << " "
            << dtype_name(t.dtype) << "\nkind     " << name_of(e.info.kind) << "\n";
  if (!t.source.empty()) std::cout << "source   " << printable(t.source) << "\n";
  if (!e.info.fused.empty()) std::cout << "fused as " << e.info.fused << "\n";
  if (e.scheme < 0) {
    std::cout << "kept     " << e.reason << "\n";
    return;
  }
  const Scheme& s = plan.schemes[static_cast<size_t>(e.scheme)];
  std::cout << "scheme   " << s.name << " by " << e.reason << ", algorithm " << e.algorithm
            << ", numerics " << s.numerics << "\nargs     " << to_json(s.weights).dump() << "\n";
  if (s.input_activations) std::cout << "inputs   " << to_json(*s.input_activations).dump() << "\n";
  for (const PartSpec& p : part_specs(s, e.source->shape, t.dtype)) {
    std::cout << "part     " << name_of(p.role) << " " << dtype_name(p.dtype) << " "
              << p.shape.str() << "\n";
  }
  std::cout << "bytes    " << t.stored_bytes() << " -> " << e.output_bytes << " ("
            << s.bits_per_weight(e.source->shape, t.dtype) << " bits per weight)\n";
}

}  // namespace qp
