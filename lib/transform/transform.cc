#include "lib/transform/transform.h"

#include <algorithm>
#include <cmath>

#include "lib/algorithm/activations.h"
#include "lib/base/error.h"
#include "lib/scheme/numerics.h"
#include "lib/transform/steps.h"

namespace qp::transform {
namespace {

struct Step {
  std::string_view name;
  Edits (*run)(const Subject&);
};

// They are done, and have to be named, in the order of algorithms(): statistics do not outlive a
// rotation, and AWQ weighs what is left.
constexpr Step kSteps[] = {{"rotate", rotate_hidden},
                           {"rotate", rotate_values},
                           {"smoothquant", smoothquant},
                           {"awq", awq}};

const AlgorithmStep* find_step(const std::vector<AlgorithmStep>& steps, std::string_view name) {
  auto it = std::ranges::find_if(steps,
                                 [&](const AlgorithmStep& s) { return s.algorithm->name == name; });
  return it == steps.end() ? nullptr : &*it;
}

}  // namespace

Subject::Subject(const Store& s, const Plan& p, const Options& o, Progress& r)
    : store(s), plan(p), options(o), progress(r) {
  for (const PlanEntry& e : plan.entries) {
    if (e.algorithm.empty()) continue;
    by_module_.emplace(e.info.module, &e);
    if (!e.input.empty()) by_module_.emplace(e.input, &e);
    if (!parsed_.contains(e.algorithm)) parsed_[e.algorithm] = parse_algorithm(e.algorithm);
  }
}

bool Subject::uses(std::string_view name) const {
  return std::ranges::any_of(parsed_,
                             [&](const auto& p) { return find_step(p.second, name) != nullptr; });
}

const PlanEntry* Subject::entry(const std::string& module, std::string_view name) const {
  auto it = by_module_.find(module);
  bool has =
      it != by_module_.end() && find_step(parsed_.at(it->second->algorithm), name) != nullptr;
  return has ? it->second : nullptr;
}

AlgorithmStep Subject::step(std::string_view name) const {
  const AlgorithmStep* first = nullptr;
  for (const auto& [algorithm, steps] : parsed_) {
    const AlgorithmStep* found = find_step(steps, name);
    if (found == nullptr) continue;
    if (first != nullptr && first->options != found->options) {
      throw usage_error("the recipe names " + std::string(name) + " with different options")
          .file(store.label())
          .hint("one model takes one set of them");
    }
    first = found;
  }
  return *first;
}

namespace {

std::string observer(const Calibration& c) {
  return json_string(c.options.value("observer", Json::object()), "name", "max");
}

// Static scales need statistics that outlive the steps: none outlive a rotation, and of what an
// observer found only the maximum follows the factors of channels.
void check_static(const Store& store, const Plan& plan) {
  auto rotates = [](const PlanEntry& e) {
    return !e.algorithm.empty() && find_step(parse_algorithm(e.algorithm), "rotate") != nullptr;
  };
  bool rotated = std::ranges::any_of(plan.entries, rotates);
  const auto& calibration = store.model().calibration;
  for (const PlanEntry& e : plan.entries) {
    if (e.scheme < 0) continue;
    const Scheme& scheme = plan.schemes[static_cast<size_t>(e.scheme)];
    if (!needs_calibration(scheme)) continue;
    std::string why;
    if (rotated) {
      why = "which do not outlive a rotation";
    } else if (calibration && observer(*calibration) != "max") {
      why = "and those of observer " + observer(*calibration) +
            " do not follow when channels are scaled";
    }
    if (why.empty()) continue;
    throw usage_error("its scheme " + scheme.name + " needs statistics of its input, " + why)
        .file(store.label())
        .tensor(e.tensor->name)
        .hint(
            "take the steps first (-s none -a ..), run qcalibrate on the result, then quantize "
            "that");
  }
}

}  // namespace

void check(const Store& store, const Plan& plan) {
  if (wanted(plan)) check_static(store, plan);
}

bool wanted(const Plan& plan) {
  return std::ranges::any_of(plan.entries, [](const PlanEntry& e) {
    return !e.algorithm.empty() && parse_algorithm(e.algorithm).front().algorithm->edits;
  });
}

std::unique_ptr<Store> transform(const Store& store, const Plan& plan, const Options& options,
                                 Progress& progress, Hash128& hash) {
  Subject first(store, plan, options, progress);
  check(store, plan);
  std::unique_ptr<Store> current;
  Hasher128 all;
  auto take = [&](const Step& step) {
    const Store& before = current ? *current : store;
    Edits edits = step.run(current ? Subject(before, plan, options, progress) : first);
    Hash128 h = edits.hash();
    all.update(std::as_bytes(std::span(&h, 1)));
    auto next = edited(before, edits, options.memory, progress);
    next->set_check(false);  // written a moment ago
    current = std::move(next);
  };
  for (const Algorithm& a : algorithms()) {
    if (!a.edits || !first.uses(a.name)) continue;
    for (const Step& step : kSteps) {
      if (step.name == a.name) take(step);
    }
  }
  hash = all.digest();
  return current;
}

void apply_pre_scale(const Fold& fold, const std::vector<float>& scales,
                     const engine::WeightSource& weights, Edits& edits) {
  std::vector<std::string> modules;
  std::vector<float> used(scales.size(), 1.0f);
  for (const Consumer& c : fold.consumers) {
    for (size_t i = 0; i < scales.size(); ++i) {
      float p = numerics::round_to(weights.dtype(c.use), 1 / scales[i]);
      used[i] = std::isfinite(1 / p) && p > 0 ? p : 1;
    }
    edits.pre_scale(c.use, used);
    modules.push_back(c.module);
  }
  edits.inputs(modules, used);
}

void apply(const Fold& fold, std::vector<float> scales, const engine::WeightSource& weights,
           Edits& edits) {
  std::vector<bool> read(fold.channels);  // the others stay
  for (uint32_t c : fold.of) read[c] = true;
  for (size_t i = 0; i < scales.size(); ++i) scales[i] = read[i] ? scales[i] : 1;
  Edit divided;
  std::vector<float> inverse(scales.size());
  if (fold.kind == Fold::Kind::norm) {
    engine::Weight norm = weights.load(fold.producer, gemm::Precision::f32);
    DType dtype = weights.dtype(fold.producer);
    for (size_t i = 0; i < scales.size(); ++i) {
      float was = norm.values[i] + fold.plus,
            is = numerics::round_to(dtype, was / scales[i] - fold.plus) + fold.plus;
      scales[i] = was == 0 || is == 0 ? 1 : was / is;
    }
  }
  for (size_t i = 0; i < scales.size(); ++i) inverse[i] = 1 / scales[i];
  divided.plus = fold.plus;
  (fold.kind == Fold::Kind::norm ? divided.cols : divided.rows) = inverse;
  edits.add(fold.producer, divided);
  if (fold.bias)
    edits.add(*fold.bias, {.rows = {}, .cols = inverse, .turn_rows = {}, .turn_cols = {}});
  std::vector<float> spread = fold.spread(scales);
  std::vector<std::string> modules;
  for (const Consumer& c : fold.consumers) {
    edits.add(c.use, {.rows = {}, .cols = spread, .turn_rows = {}, .turn_cols = {}});
    modules.push_back(c.module);
  }
  edits.inputs(modules, fold.spread(inverse));
  if (fold.cached) edits.drop_caches();
}

}  // namespace qp::transform
