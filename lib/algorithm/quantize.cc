#include "lib/algorithm/quantize.h"

#include <algorithm>
#include <map>
#include <unordered_map>

#include "lib/algorithm/autoround.h"
#include "lib/algorithm/gptq_matrix.h"
#include "lib/algorithm/importance.h"
#include "lib/algorithm/plan_output.h"
#include "lib/base/error.h"
#include "lib/base/interrupt.h"
#include "lib/config/algorithms.h"
#include "lib/qmap/rows.h"

namespace qp {
namespace {

// Several results of one source, in step: at each of its tensors all take what they want of it.
class Run {
 public:
  Run(const Store& store, std::span<const PlanRun> runs, Progress& progress)
      : store_(store), progress_(progress) {
    for (const PlanRun& run : runs) {
      outputs_.push_back(
          std::make_unique<PlanOutput>(store, run, progress, maxima_, [this] { batch_.run(); }));
    }
  }

  std::vector<QuantizeResult> run() {
    for (auto& o : outputs_) o->begin();
    std::vector<QuantizeResult> results;
    try {
      walk_rows();
      walk_layers();
      store_.throw_if_changed();
      for (auto& o : outputs_) results.push_back(o->finish());
    } catch (Error& e) {
      if (e.kind() != ErrorKind::system) {
        for (auto& o : outputs_) o->give_up();  // trying again would fail again
        throw;
      }
      if (keep_partial() && e.hint().empty()) throw std::move(e).hint("continue with --resume");
      throw;
    } catch (const Interrupted&) {
      keep_partial();
      throw;
    }
    return results;
  }

 private:
  // Where in the first plan each entry of another has its turn: beside the entry of the same name,
  // or behind what comes before it.
  std::vector<size_t> turns(const PlanOutput& of) const {
    std::unordered_map<std::string_view, size_t> places;
    const auto& first = outputs_.front()->plan().entries;
    for (size_t i = 0; i < first.size(); ++i) places.emplace(first[i].tensor->name, i);
    std::vector<size_t> result;
    for (const PlanEntry& e : of.plan().entries) {
      auto it = places.find(e.tensor->name);
      size_t before = result.empty() ? 0 : result.back();
      result.push_back(it == places.end() ? before : std::max(before, it->second));
    }
    return result;
  }

  void walk_rows() {
    struct Cursor {
      PlanOutput* output;
      std::vector<size_t> turns;
      size_t next = 0;
    };
    std::vector<Cursor> cursors;
    uint64_t bytes = 0;
    for (auto& o : outputs_) {
      cursors.push_back({o.get(), turns(*o)});
      bytes += o->plan().input_bytes;
    }
    progress_.begin("quantizing", bytes);
    for (size_t at = 0, n = outputs_.front()->plan().entries.size(); at < n; ++at) {
      struct Wanted {
        PlanOutput* output;
        size_t entry;
        float range;
      };
      std::vector<Wanted> wanted;
      for (Cursor& c : cursors) {
        for (; c.next < c.turns.size() && (c.turns[c.next] <= at || at + 1 == n); ++c.next) {
          if (c.output->take_over(c.next) || c.output->by_layers(c.next)) continue;
          wanted.push_back({c.output, c.next, c.output->range(c.next)});
        }
      }
      for (const Wanted& w : wanted) w.output->add(w.entry, w.range, batch_);
    }
    batch_.run();
    progress_.end();
  }

  // Models that are run must be alike to share the unquantized one: results whose experts are apart
  // where those of others are not go on their own.
  static bool alike(const PlanOutput& a, const PlanOutput& b) {
    return std::ranges::equal(
        a.plan().entries, b.plan().entries,
        [](const PlanEntry& x, const PlanEntry& y) { return x.tensor->name == y.tensor->name; });
  }

  void walk_layers() {
    std::vector<PlanOutput*> left;
    for (auto& o : outputs_) {
      if (o->runs_model()) left.push_back(o.get());
    }
    while (!left.empty()) {
      std::vector<LayerwiseRun> together;
      std::vector<PlanOutput*> others;
      const PlanOutput& first = *left.front();
      for (PlanOutput* o : left) {
        if (!alike(first, *o)) {
          others.push_back(o);
          continue;
        }
        together.push_back({&o->running(), &o->plan(), &o->architecture(), o->options().log, o,
                            o->options().warn});
      }
      StreamOptions stream;
      stream.memory = first.options().memory;
      stream.precision = first.options().precision;
      run_layerwise(together, first.windows(), stream, progress_);
      left = std::move(others);
    }
  }

  // True when there is something to resume.
  bool keep_partial() {
    bool any = false;
    for (auto& o : outputs_) any = o->keep_partial() || any;
    return any;
  }

  const Store& store_;
  Progress& progress_;
  std::map<std::string, float> maxima_;
  RowBatch batch_;
  std::vector<std::unique_ptr<PlanOutput>> outputs_;
};

// Codes that stay, under activations that are to be quantized: what quantizes for that makes no g_idx
// (gptq::check) and no negative scales (scale_sign.h).
void check_retag(const Store& store, const PlanEntry& e, const Scheme& to) {
  if (!to.input_activations || to.weights.type != NumType::integer) return;
  if (e.tensor->part(Role::g_idx) != nullptr) {
    throw limit_error("has a g_idx, which engines do not take beside quantized activations (" + to.name + ")")
        .file(store.where(*e.tensor))
        .tensor(e.tensor->name)
        .hint("quantize the weights again, with order=group or order=desc_act:static_groups=true");
  }
  const Part* part = e.tensor->part(Role::scale);
  if (part == nullptr) return;
  RowSource source(store, *part);
  for (float s : read_f32(source, 0, source.rows())) {
    if (!(s < 0)) continue;
    throw limit_error("has negative scales, which are for weights alone, and " + to.name +
                      " quantizes activations, too")
        .file(store.where(*e.tensor))
        .tensor(e.tensor->name)
        .hint("quantize the weights again, with -a ALGORITHM:negative_scales=false");
  }
}

}  // namespace

void check_algorithms(const Store& store, const Plan& plan) {
  Importance importance(store);
  const PlanEntry* weighed = nullptr;  // by imatrix
  bool informed = false, rotated = false;
  for (const PlanEntry& e : plan.entries) {
    if (e.retag >= 0) check_retag(store, e, plan.schemes[static_cast<size_t>(e.retag)]);
    if (e.scheme < 0) continue;
    const Scheme& scheme = plan.schemes[static_cast<size_t>(e.scheme)];
    std::string_view name = parse_algorithm(e.algorithm).back().algorithm->name;
    if (std::string why = why_not(name, scheme); !why.empty()) {
      throw usage_error(std::string(name) + " cannot choose the codes of " + scheme.name + ": " +
                        why)
          .file(store.label())
          .tensor(e.tensor->name);
    }
    if (name == "gptq") gptq::check(parse_algorithm(e.algorithm).back(), scheme);
    bool layers = e.info.kind == ModuleKind::linear || e.info.kind == ModuleKind::expert;
    if (name == "imatrix" && layers) {  // of embeddings and heads nothing need be known
      rotated = rotated || std::ranges::any_of(parse_algorithm(e.algorithm), [](const AlgorithmStep& s) {
        return s.algorithm->name == "rotate";
      });
      if (weighed == nullptr) weighed = &e;
      informed = informed || importance.has(e);
    }
    for (const AlgorithmStep& step : parse_algorithm(e.algorithm)) {
      if (!step.algorithm->runs_model || store.model().calibration) continue;
      throw usage_error(std::string(step.algorithm->name) +
                        " needs token windows to run through the model, and there are none")
          .file(store.label())
          .hint("make them with qcalibrate MODEL --text FILE -o calib.qmap, and quantize that");
    }
  }
  if (weighed != nullptr && (rotated || !informed)) {
    throw usage_error("imatrix weighs by statistics of what a matrix reads, and there are none" +
                      std::string(rotated ? " behind a rotation" : ""))
        .file(store.label())
        .tensor(weighed->tensor->name)
        .hint(rotated ? "take the rotation first (-s none -a rotate), run qcalibrate on the result, then "
                        "quantize that"
                      : "run qcalibrate on the model first, with --text or with --imatrix FILE, and "
                        "quantize its result");
  }
  autoround::check(plan);
}

std::vector<QuantizeResult> run_plans(const Store& store, std::span<const PlanRun> runs,
                                      Progress& progress) {
  return Run(store, runs, progress).run();
}

QuantizeResult run_plan(const Store& store, const Plan& plan, const QuantizeOptions& options,
                        QmapOutput& output, Progress& progress) {
  PlanRun run{&plan, options, &output};
  return run_plans(store, {&run, 1}, progress).front();
}

}  // namespace qp
