#include "cmd/qquantize/quantize.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <iostream>

#include "cmd/tool/input.h"
#include "lib/algorithm/activations.h"
#include "lib/base/file.h"
#include "lib/base/interrupt.h"
#include "lib/transform/transform.h"

namespace qp {
namespace {

// What --log FILE asks for: a line of JSON at a time, on disk before the work goes on. A resumed
// run goes on with the file.
class Log {
 public:
  Log(const std::string& path, bool resumed) : path_(path) {
    if (path_.empty()) return;
    file_.open(path_, resumed ? std::ios::app : std::ios::trunc);
    if (!file_) throw system_error("cannot open for writing", errno).file(path_);
  }
  void add(const Json& line) {
    if (path_.empty()) return;
    file_ << line.dump(-1, ' ', false, Json::error_handler_t::replace) << std::endl;
    if (!file_) throw system_error("cannot write", errno).file(path_);
  }
  void close() {
    if (path_.empty()) return;
    file_.close();
    if (!file_) throw system_error("cannot write", errno).file(path_);
  }

 private:
  std::string path_;
  std::ofstream file_;
};

}  // namespace

int QuantizeCommand::run(Tool& tool) {
  if (list_schemes_) {
    list_schemes(tool);
    return 0;
  }
  if (list_algorithms_) {
    list_algorithms(tool);
    return 0;
  }
  target_.check_arguments();
  auto_.check(scheme_names(), overrides_, algorithm_);
  std::vector<Result> wanted = results();  // before the input: the cheapest mistakes first
  if (!looking() && output_.path.empty() && stdout_kind() == StdoutKind::nowhere) {
    throw usage_error("nowhere to write the result").hint("give -o FILE or a pipe, or --dry-run");
  }
  LoadOptions load;
  load.warn = [&](const std::string& text) { tool.warn(text); };
  OpenedInput in = open_input(input_, load);
  Store& given = *in.store;
  given.set_check(!no_check_);
  OutputOptions options = output_.options(in.paths);
  options.resume = resume_;
  options.resumable = true;
  options.many = wanted.size() > 1;
  auto options_of = [&](const Result& r) {
    OutputOptions of = options;
    of.path = r.path;
    return of;
  };
  for (const Result& r : wanted) {
    if (!looking()) check_output(options_of(r));
  }
  if (auto_.asked()) {
    wanted[0].rules = auto_.choose(given, wanted[0].rules, precision(), tool);
  }
  for (Result& r : wanted) {
    make_plan_of(given, r, tool);
    target_.check(given, r.plan, !kv_cache_.empty(), tool);
  }
  if (tool.options.strict && tool.warnings() > 0) return 0;  // run_tool turns it into exit 2
  if (!explain_.empty()) {
    for (const Result& r : wanted) {
      print_heading(r, wanted);
      explain(given, r.plan);
    }
  } else if (dry_run_) {
    print_plans(given, wanted, tool);
  } else {
    check_memory(wanted, tool);
    std::vector<std::unique_ptr<transform::JournalScope>> journals;
    std::vector<std::unique_ptr<QmapOutput>> outputs;
    for (Result& r : wanted) {
      journals.push_back(
          std::make_unique<transform::JournalScope>(r.path.empty() ? "" : r.path + ".partial"));
      outputs.push_back(std::make_unique<QmapOutput>(options_of(r)));
    }
    write(given, wanted, outputs, tool);
  }
  return 0;
}

// Not once for every scheme.
void QuantizeCommand::warn(const std::string& text, Tool& tool) {
  if (warned_.insert(text).second) tool.warn(text);
}

// The plan, and what it asks of the input.
void QuantizeCommand::make_plan_of(const Store& given, Result& r, Tool& tool) {
  r.plan = make_plan(given.model(), r.rules, given.label());
  check(given, r.plan);
  for (const std::string& w : r.plan.warnings) warn(w, tool);
  bool changed =
      std::ranges::any_of(r.plan.entries, [](const PlanEntry& e) { return e.retag >= 0; });
  if (r.plan.quantized == 0 && !transform::wanted(r.plan) && !changed && kv_cache_.empty()) {
    warn("nothing is quantized", tool);
  }
}

gemm::Precision QuantizeCommand::precision() const {
  return compute_ == "f32" ? gemm::Precision::f32 : gemm::Precision::bf16;
}

// What the plan asks of the statistics, before anything is printed or done.
void QuantizeCommand::check(const Store& store, const Plan& plan) const {
  check_algorithms(store, plan);
  if (!transform::wanted(plan)) {
    ActivationScales(store, plan);
  } else if (!kv_cache_.empty()) {
    throw usage_error(
        "--kv-cache needs the ranges of keys and values, which the steps of -a change")
        .file(store.label())
        .hint(
            "take the steps first (-s none -a ..), run qcalibrate on the result, then quantize "
            "that");
  }
}

// Before long work: room for what is not there yet.
void QuantizeCommand::check_space(const std::vector<Result>& wanted, const Outputs& outputs) const {
  uint64_t need = 0;
  for (size_t k = 0; k < wanted.size(); ++k) {
    if (!outputs[k]->resuming()) need += wanted[k].plan.output_bytes;
  }
  if (output_.path.empty() || need == 0) return;
  const std::string& path = wanted.front().path;
  uint64_t have = free_space(path);
  if (have >= need) return;
  throw Error(ErrorKind::system, "needs " + human_bytes(static_cast<double>(need)) + ", " +
                                     human_bytes(static_cast<double>(have)) + " are free")
      .file(path)
      .hint("free some space or choose another place");
}

// The model with the steps before rounding done, and the plan for it; null: there are none.
std::unique_ptr<Store> QuantizeCommand::edit(const Store& given, Result& r, QmapOutput& out,
                                             const JsonLog& log, QuantizeOptions& q,
                                             Tool& tool) const {
  if (!transform::wanted(r.plan)) return nullptr;
  transform::Options t;
  t.memory = tool.max_memory();
  t.precision = precision();
  t.journal = r.path.empty() ? "" : r.path + ".partial";
  t.resume = out.resuming();
  t.log = log;
  t.warn = q.warn;
  std::unique_ptr<Store> edited;
  try {
    edited = transform::transform(given, r.plan, t, tool.progress(), q.edits);
  } catch (const Interrupted&) {
    out.keep_partial(!t.journal.empty());
    throw;
  }
  r.plan = make_plan(edited->model(), r.rules, given.label());
  ActivationScales(*edited, r.plan);
  return edited;
}

// Carries the plans out, together where nothing comes before rounding: then there is one source.
// What is finished stays unfinished in name until all are.
void QuantizeCommand::write(const Store& given, std::vector<Result>& wanted, const Outputs& outputs,
                            Tool& tool) {
  check_space(wanted, outputs);
  Log log(log_, resume_);
  std::vector<QuantizeResult> done;
  bool together =
      std::ranges::none_of(wanted, [](const Result& r) { return transform::wanted(r.plan); });
  auto keep = [&](bool worth) {  // of those that are finished, when another is not
    for (size_t k = 0; k < done.size(); ++k) outputs[k]->keep_partial(worth);
  };
  try {
    while (done.size() < wanted.size()) {
      size_t first = done.size(), last = together ? wanted.size() : first + 1;
      std::vector<PlanRun> runs;
      std::unique_ptr<Store> edited;
      for (size_t k = first; k < last; ++k) {
        Result& r = wanted[k];
        JsonLog add = [&log, path = wanted.size() > 1 ? r.path : ""](Json line) {
          if (!path.empty()) line["output"] = path;
          log.add(line);
        };
        QuantizeOptions q = options_of(given, r, *outputs[k], tool);
        q.log = add;
        edited = edit(given, r, *outputs[k], add, q, tool);
        runs.push_back({&r.plan, std::move(q), outputs[k].get()});
      }
      for (QuantizeResult& r : run_plans(edited ? *edited : given, runs, tool.progress()))
        done.push_back(std::move(r));
    }
  } catch (const Interrupted&) {
    keep(true);
    throw;
  } catch (const Error& e) {
    keep(e.kind() == ErrorKind::system);
    throw;
  }
  log.close();
  commit(wanted, outputs, done, tool);
}

QuantizeOptions QuantizeCommand::options_of(const Store& given, const Result& r,
                                            const QmapOutput& out, Tool& tool) {
  QuantizeOptions q;
  q.refer = refer_;
  q.refer_big_companions = out.unnamed() && !output_.stream;
  q.kv_cache = !kv_cache_.empty();
  Json asked = r.rules.to_json();
  if (q.kv_cache) asked["kv_cache"] = kv_cache_;
  q.memory = tool.max_memory();
  q.precision = precision();
  q.warn = [this, &tool](const std::string& text) { warn(text, tool); };
  q.provenance = provenance_entry("qquantize", asked, given.model());
  return q;
}

// Gives the results their names, and says what they are.
void QuantizeCommand::commit(const std::vector<Result>& wanted, const Outputs& outputs,
                             const std::vector<QuantizeResult>& done, Tool& tool) const {
  bool many = wanted.size() > 1;
  std::string handles;
  Json report = Json::array();
  for (size_t k = 0; k < wanted.size(); ++k) {
    const Plan& plan = wanted[k].plan;
    std::string whose = many ? wanted[k].path + ": " : "";
    if (done[k].resumed > 0) {
      tool.say(whose + std::to_string(done[k].resumed) +
               " tensors taken over from the unfinished run");
    }
    tool.say(whose + std::to_string(plan.quantized) + " of " + std::to_string(plan.entries.size()) +
                 " tensors quantized, " + human_bytes(static_cast<double>(plan.input_bytes)) +
                 " -> " + human_bytes(static_cast<double>(plan.output_bytes)),
             1);
    outputs[k]->commit(done[k].id);
    if (many) handles += outputs[k]->handle(done[k].id);
    report.push_back({{"output", wanted[k].path},
                      {"id", done[k].id.hex()},
                      {"tensors", plan.entries.size()},
                      {"quantized", plan.quantized},
                      {"input_bytes", plan.input_bytes},
                      {"output_bytes", plan.output_bytes},
                      {"resumed", done[k].resumed}});
    if (many) report.back()["scheme"] = wanted[k].scheme;
  }
  if (stdout_kind() == StdoutKind::pipe) {
    // All at once, so that a reader of one handle notices the others. The files are safe: a closed
    // pipe is no failure.
    [[maybe_unused]] ssize_t n = ::write(STDOUT_FILENO, handles.data(), handles.size());
  } else if (tool.options.json && !output_.path.empty()) {
    std::cout << (many ? report : report[0]).dump(2) << "\n";
  }
}

}  // namespace qp
