#include "cmd/qquantize/quantize.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <iostream>
#include <sstream>

#include "cmd/tool/input.h"
#include "cmd/tool/table.h"
#include "lib/algorithm/activations.h"
#include "lib/base/file.h"
#include "lib/base/interrupt.h"
#include "lib/base/parallel.h"
#include "lib/config/algorithms.h"
#include "lib/qmap/identity.h"
#include "lib/transform/transform.h"

namespace qp {
namespace {

constexpr std::string_view kSchemePlace = "{scheme}";  // of -o

// The names that every -s lists.
std::vector<std::string> split_schemes(const std::vector<std::string>& lists) {
  std::vector<std::string> names;
  for (const std::string& list : lists) {
    std::istringstream in(list + ",");
    for (std::string name; std::getline(in, name, ',');) {
      if (name.empty()) throw usage_error("-s " + printable(list) + " has an empty name");
      names.push_back(name);
    }
  }
  return names;
}

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

void QuantizeCommand::declare(CLI::App& app) {
  app.add_option("INPUT", input_, "qmap, handle or checkpoint; '-' or nothing: standard input");
  auto what = "Scheme";
  app.add_option("-s,--scheme", schemes_,
                 "Scheme of every linear; --list-schemes shows all; none: only what -a does before "
                 "it. Several, with commas or several -s: a result each, under the name that -o "
                 "makes of {scheme}; or, with a target, see Bit allocation")
      ->type_name("NAME")
      ->allow_extra_args(false)
      ->group(what);
  app.add_option("-a,--algorithm", algorithm_,
                 "How codes are chosen: steps that edit the model, then one that rounds, such as "
                 "gptq or awq,gptq; options follow as :KEY=VALUE; --list-algorithms shows all")
      ->type_name("NAME")
      ->capture_default_str()
      ->group(what);
  app.add_option("--compute", compute_,
                 "Inputs of products where the model is run: bf16, or f32 for exactness")
      ->check(CLI::IsMember({"bf16", "f32"}))
      ->capture_default_str()
      ->group(what);
  app.add_flag("--list-algorithms", list_algorithms_, "Print the algorithms and their options")
      ->group(what);
  app.add_option("--log", log_,
                 "Write lines of JSON: for each tensor quantized by running the model, and behind "
                 "those of a layer for the layer: the output's error as rounding would leave it "
                 "(error_rtn) and as it is (error), seconds, and forward_passes, how often the "
                 "calibration's tokens went through the layer; awq's searches likewise")
      ->type_name("FILE")
      ->group(what);
  app.add_option("--num-bits", overrides_.num_bits, "Bits of integer weights, 2 to 8")
      ->type_name("N")
      ->group(what);
  app.add_option("--group-size", overrides_.group_size,
                 "Columns per scale: 32, 64, 128, 256, channel or tensor")
      ->type_name("N")
      ->group(what);
  app.add_option("--symmetric", overrides_.symmetric,
                 "true: no zero points; false: with zero points")
      ->type_name("BOOL")
      ->check(CLI::IsMember({"true", "false"}))
      ->group(what);
  app.add_option("--numerics", overrides_.numerics,
                 "Whose arithmetic makes the numbers: compressed-tensors (default), modelopt, "
                 "deepgemm, transformers, sglang, quark, modelslim")
      ->type_name("NAME")
      ->group(what);
  app.add_flag("--pure", pure_, "With a file type of llama-quantize's (q4_k_m): every matrix in its default type")
      ->group(what);
  app.add_option("--output-tensor-type", output_type_, "The same: ggml's type of the output head")
      ->type_name("TYPE")
      ->group(what);
  app.add_option("--token-embedding-type", embedding_type_, "The same: ggml's type of the token table")
      ->type_name("TYPE")
      ->group(what);
  app.add_option("--kv-cache", kv_cache_,
                 "Scales of keys and values too, from the calibration: fp8")
      ->type_name("TYPE")
      ->check(CLI::IsMember({"fp8"}))
      ->group(what);
  app.add_option("--recipe", recipe_, "Rules from a recipe or a plan (JSON with comments)")
      ->type_name("FILE")
      ->group(what);
  app.add_option(
         "--ignore", ignore_,
         "Keep these as they are: a name, re:REGEX or a kind (Linear, Expert ..); repeatable")
      ->type_name("PATTERN")
      ->group(what);
  app.add_flag("--list-schemes", list_schemes_, "Print the schemes and what peers call them")
      ->group(what);
  auto_.declare(app);
  auto plan = "Plan";
  app.add_flag(
         "--dry-run", dry_run_,
         "Print what would happen to every tensor, and why; with --json a plan --recipe takes")
      ->group(plan);
  app.add_option("--explain", explain_, "Print what happens to one tensor")
      ->type_name("TENSOR")
      ->group(plan);
  output_.declare(app);
  auto out = "Output";
  app.add_flag("--resume", resume_, "Continue FILE.partial of an interrupted run")->group(out);
  app.add_flag("--refer", refer_,
               "Refer to the source's files for kept tensors instead of copying them")
      ->group(out);
  app.add_flag("--no-check", no_check_, "Do not compare checksums while reading")->group("Input");
}

// -s NAME: a file type of llama-quantize's, or a scheme for every linear.
Rule QuantizeCommand::rule_of_options(const std::string& name) const {
  std::string source = "--scheme " + (name.empty() ? "(composed)" : name);
  const Mix* mix = find_mix(name);
  if (mix != nullptr && !overrides_.any()) {
    return mix_rule({mix, pure_, block_type(output_type_, "--output-tensor-type"),
                     block_type(embedding_type_, "--token-embedding-type")},
                    source);
  }
  Rule rule = scheme_rule({}, source);
  if (name == "none" && !overrides_.any()) return rule;  // edits alone
  rule.scheme = compose_scheme(name, overrides_);
  if (!name.empty() && !overrides_.any()) rule.experts = expert_scheme(name);
  return rule;
}

Recipe QuantizeCommand::recipe(const std::string& name) const {
  bool of_mix = pure_ || !output_type_.empty() || !embedding_type_.empty();
  if (of_mix && (auto_.asked() || overrides_.any() || find_mix(name) == nullptr)) {
    throw usage_error("--pure, --output-tensor-type and --token-embedding-type are about llama-quantize's file types")
        .hint("give one to -s, such as q4_k_m");
  }
  Recipe r;
  if (!recipe_.empty()) r = read_recipe(recipe_);
  if (!auto_.asked() && (!name.empty() || overrides_.any())) {
    parse_algorithm(algorithm_);
    Rule rule = rule_of_options(name);
    rule.algorithm = algorithm_;
    r.rules.push_back(std::move(rule));
  }
  if (r.rules.empty() && kv_cache_.empty() && !auto_.asked()) {
    throw usage_error("nothing says how to quantize")
        .hint("give -s SCHEME (see --list-schemes) or --recipe FILE");
  }
  for (const std::string& pattern : ignore_) r.ignore.emplace_back(pattern);
  return r;
}

// What -s and -o ask for: with a target one result, else one for each scheme.
std::vector<QuantizeCommand::Result> QuantizeCommand::results() const {
  std::vector<std::string> names = split_schemes(schemes_);
  if (auto_.asked() || names.empty()) names = {""};
  if (names.size() > 1 && output_.path.empty() && !looking()) {
    throw usage_error("several schemes make several results, and nothing names them")
        .hint("give -o 'NAME-{scheme}.qmap', or --target-bpw N or --target-size SIZE to choose "
              "among the schemes");
  }
  bool placed = output_.path.find(kSchemePlace) != std::string::npos;
  if (names.size() > 1 && !placed && !output_.path.empty()) {
    throw usage_error("-o " + printable(output_.path) + " names one file for " +
                      std::to_string(names.size()) + " results")
        .hint("put {scheme} into it for a file each, or give --target-bpw N or --target-size SIZE "
              "to choose among the schemes");
  }
  if (placed && names.front().empty()) {
    throw usage_error("-o " + printable(output_.path) + " asks for a scheme, and -s names " +
                      (auto_.asked() ? "several for one result" : "none"))
        .hint("write the file's name out");
  }
  std::vector<Result> all;
  for (const std::string& name : names) {
    for (const Result& r : all) {
      if (r.scheme == name) throw usage_error("-s names " + printable(name) + " twice");
    }
    Result r{name, output_.path, recipe(name), {}};
    for (size_t at = 0; (at = r.path.find(kSchemePlace, at)) != std::string::npos;) {
      r.path.replace(at, kSchemePlace.size(), name);
      at += name.size();
    }
    all.push_back(std::move(r));
  }
  return all;
}

int QuantizeCommand::run(Tool& tool) {
  if (list_schemes_) {
    list_schemes(tool);
    return 0;
  }
  if (list_algorithms_) {
    list_algorithms(tool);
    return 0;
  }
  auto_.check(split_schemes(schemes_), overrides_, algorithm_);
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
  for (Result& r : wanted) make_plan_of(given, r, tool);
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
      journals.push_back(std::make_unique<transform::JournalScope>(
          r.path.empty() ? "" : r.path + ".partial"));
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
void QuantizeCommand::write(const Store& given, std::vector<Result>& wanted,
                            const Outputs& outputs, Tool& tool) {
  check_space(wanted, outputs);
  Log log(log_, resume_);
  std::vector<QuantizeResult> done;
  // What an earlier run finished is not lost to an error in this one.
  for (const auto& out : outputs) out->keep_partial(out->resuming());
  bool together = std::ranges::none_of(
      wanted, [](const Result& r) { return transform::wanted(r.plan); });
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
    tool.say(whose + std::to_string(plan.quantized) + " of " +
                 std::to_string(plan.entries.size()) + " tensors quantized, " +
                 human_bytes(static_cast<double>(plan.input_bytes)) + " -> " +
                 human_bytes(static_cast<double>(plan.output_bytes)),
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
      all.push_back(wanted.size() == 1 ? plan : Json{{"scheme", r.scheme}, {"output", r.path}, {"plan", plan}});
    } else {
      print_heading(r, wanted);
      print_plan(r.plan);
    }
  }
  if (!tool.options.json) return;
  std::cout << (wanted.size() == 1 ? all[0] : all)
                   .dump(1, ' ', false, Json::error_handler_t::replace)
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
