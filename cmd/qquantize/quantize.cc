#include "cmd/qquantize/quantize.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <iostream>

#include "cmd/tool/input.h"
#include "cmd/tool/table.h"
#include "lib/algorithm/activations.h"
#include "lib/algorithm/quantize.h"
#include "lib/base/file.h"
#include "lib/base/interrupt.h"
#include "lib/base/parallel.h"
#include "lib/config/algorithms.h"
#include "lib/qmap/identity.h"
#include "lib/transform/transform.h"

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
      if (s.weights.strategy == Strategy::block) chunk = std::max(chunk, row * static_cast<uint64_t>(s.weights.block_rows));
      small = scale_shape(s.weights, e.source->shape).elements().value_or(0) * (s.weights.symmetric ? 6 : 12);
    }
    worst = std::max(worst, static_cast<uint64_t>(ordered_slots(threads)) * 4 * chunk + small);
  }
  return kBase + worst + plan.entries.size() * 1024;
}

// What --log FILE asks for: a line of JSON at a time, on disk before the work goes on. A resumed run
// goes on with the file.
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
  app.add_option("-s,--scheme", scheme_, "Scheme of every linear; --list-schemes shows all; none: only what -a does before it; several with commas: see Bit allocation")->type_name("NAME")->group(what);
  app.add_option("-a,--algorithm", algorithm_, "How codes are chosen: steps that edit the model, then one that rounds, such as gptq or awq,gptq; options follow as :KEY=VALUE; --list-algorithms shows all")->type_name("NAME")->capture_default_str()->group(what);
  app.add_option("--compute", compute_, "Inputs of products where the model is run: bf16, or f32 for exactness")->check(CLI::IsMember({"bf16", "f32"}))->capture_default_str()->group(what);
  app.add_flag("--list-algorithms", list_algorithms_, "Print the algorithms and their options")->group(what);
  app.add_option("--log", log_, "Write a line of JSON for each tensor quantized by running the model: error before and after, time")->type_name("FILE")->group(what);
  app.add_option("--num-bits", overrides_.num_bits, "Bits of integer weights, 2 to 8")->type_name("N")->group(what);
  app.add_option("--group-size", overrides_.group_size, "Columns per scale: 32, 64, 128, 256, channel or tensor")->type_name("N")->group(what);
  app.add_option("--symmetric", overrides_.symmetric, "true: no zero points; false: with zero points")->type_name("BOOL")->check(CLI::IsMember({"true", "false"}))->group(what);
  app.add_option("--numerics", overrides_.numerics, "Whose arithmetic makes the numbers: compressed-tensors (default), modelopt, deepgemm, transformers, sglang, quark, modelslim")->type_name("NAME")->group(what);
  app.add_option("--kv-cache", kv_cache_, "Scales of keys and values too, from the calibration: fp8")->type_name("TYPE")->check(CLI::IsMember({"fp8"}))->group(what);
  app.add_option("--recipe", recipe_, "Rules from a recipe or a plan (JSON with comments)")->type_name("FILE")->group(what);
  app.add_option("--ignore", ignore_, "Keep these as they are: a name, re:REGEX or a kind (Linear, Expert ..); repeatable")->type_name("PATTERN")->group(what);
  app.add_flag("--list-schemes", list_schemes_, "Print the schemes and what peers call them")->group(what);
  auto_.declare(app);
  auto plan = "Plan";
  app.add_flag("--dry-run", dry_run_, "Print what would happen to every tensor, and why; with --json a plan --recipe takes")->group(plan);
  app.add_option("--explain", explain_, "Print what happens to one tensor")->type_name("TENSOR")->group(plan);
  output_.declare(app);
  auto out = "Output";
  app.add_flag("--resume", resume_, "Continue FILE.partial of an interrupted run")->group(out);
  app.add_flag("--refer", refer_, "Refer to the source's files for kept tensors instead of copying them")->group(out);
  app.add_flag("--no-check", no_check_, "Do not compare checksums while reading")->group("Input");
}

Recipe QuantizeCommand::recipe() const {
  Recipe r;
  if (!recipe_.empty()) r = read_recipe(recipe_);
  if (!auto_.asked() && (!scheme_.empty() || overrides_.any())) {
    Rule rule = scheme_rule({}, "--scheme " + (scheme_.empty() ? "(composed)" : scheme_));
    bool none = scheme_ == "none" && !overrides_.any();  // edits alone
    if (!none) rule.scheme = compose_scheme(scheme_, overrides_);
    parse_algorithm(algorithm_);
    rule.algorithm = algorithm_;
    if (!scheme_.empty() && !none && !overrides_.any()) rule.experts = expert_scheme(scheme_);
    r.rules.push_back(std::move(rule));
  }
  if (r.rules.empty() && kv_cache_.empty() && !auto_.asked()) {
    throw usage_error("nothing says how to quantize").hint("give -s SCHEME (see --list-schemes) or --recipe FILE");
  }
  for (const std::string& pattern : ignore_) r.ignore.emplace_back(pattern);
  return r;
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
  auto_.check(scheme_, overrides_, algorithm_);
  Recipe rules = recipe();  // before the input: the cheapest mistakes first
  bool looking = dry_run_ || !explain_.empty();
  if (!looking && output_.path.empty() && stdout_kind() == StdoutKind::nowhere) {
    throw usage_error("nowhere to write the result").hint("give -o FILE or a pipe, or --dry-run");
  }
  LoadOptions load;
  load.warn = [&](const std::string& text) { tool.warn(text); };
  OpenedInput in = open_input(input_, load);
  Store& given = *in.store;
  given.set_check(!no_check_);
  gemm::Precision precision = compute_ == "f32" ? gemm::Precision::f32 : gemm::Precision::bf16;
  if (auto_.asked()) {
    if (!looking) check_new();
    rules = auto_.choose(given, rules, precision, tool);
  }
  Plan plan = make_plan(given.model(), rules, given.label());
  check_algorithms(given, plan);
  bool edits = transform::wanted(plan);
  if (!edits) ActivationScales(given, plan);  // refuses what lacks statistics, before anything is printed
  for (const std::string& w : plan.warnings) tool.warn(w);
  if (tool.options.strict && tool.warnings() > 0) return 0;  // run_tool turns it into exit 2
  bool changed = std::ranges::any_of(plan.entries, [](const PlanEntry& e) { return e.retag >= 0; });
  if (plan.quantized == 0 && !edits && !changed && kv_cache_.empty()) tool.warn("nothing is quantized");
  if (!explain_.empty()) {
    explain(given, plan);
    return 0;
  }
  if (dry_run_) {
    print_plan(given, plan, tool);
    return 0;
  }
  check_memory(plan, tool);
  transform::JournalScope journal(output_.path.empty() ? "" : output_.path + ".partial");
  OutputOptions options = output_.options(in.paths);
  options.resume = resume_;
  options.resumable = true;
  QmapOutput out(std::move(options));
  uint64_t have = free_space(output_.path.empty() ? "/var/tmp" : output_.path);
  if (!output_.path.empty() && !out.resuming() && have < plan.output_bytes) {
    throw Error(ErrorKind::system, "needs " + human_bytes(static_cast<double>(plan.output_bytes)) + ", " +
                                       human_bytes(static_cast<double>(have)) + " are free")
        .file(output_.path)
        .hint("free some space or choose another place");
  }
  Log log(log_, resume_);
  QuantizeOptions q;
  std::unique_ptr<Store> edited;
  if (edits) {
    transform::Options t;
    t.memory = tool.max_memory();
    t.precision = precision;
    t.journal = journal.partial();
    t.resume = out.resuming();
    t.log = [&](const Json& line) { log.add(line); };
    t.warn = [&](const std::string& text) { tool.warn(text); };
    try {
      edited = transform::transform(given, plan, t, tool.progress(), q.edits);
    } catch (const Interrupted&) {
      out.keep_partial(!t.journal.empty());
      throw;
    }
    plan = make_plan(edited->model(), rules, given.label());
    ActivationScales(*edited, plan);
  }
  const Store& store = edited ? *edited : given;
  q.refer = refer_;
  q.refer_big_companions = out.unnamed() && !output_.stream;
  q.kv_cache = !kv_cache_.empty();
  Json asked = rules.to_json();
  if (q.kv_cache) asked["kv_cache"] = kv_cache_;
  q.memory = tool.max_memory();
  q.precision = precision;
  q.warn = [&](const std::string& text) { tool.warn(text); };
  q.log = [&](const LayerLog& line) { log.add(to_json(line)); };
  q.provenance = provenance_entry("qquantize", asked, given.model());
  QuantizeResult result = run_plan(store, plan, q, out, tool.progress());
  if (result.resumed > 0) tool.say(std::to_string(result.resumed) + " tensors taken over from the unfinished run");
  tool.say(std::to_string(plan.quantized) + " of " + std::to_string(plan.entries.size()) + " tensors quantized, " +
           human_bytes(static_cast<double>(plan.input_bytes)) + " -> " + human_bytes(static_cast<double>(plan.output_bytes)), 1);
  log.close();
  out.commit(result.id);
  if (tool.options.json && stdout_kind() != StdoutKind::pipe && !output_.path.empty()) {
    std::cout << Json{{"output", output_.path}, {"id", result.id.hex()}, {"tensors", plan.entries.size()},
                      {"quantized", plan.quantized}, {"input_bytes", plan.input_bytes},
                      {"output_bytes", plan.output_bytes}, {"resumed", result.resumed}}.dump(2)
              << "\n";
  }
  return 0;
}

// Before long work: an output that is there already, whole or begun.
void QuantizeCommand::check_new() const {
  struct stat st {};
  if (output_.path.empty() || output_.force) return;
  if (stat(output_.path.c_str(), &st) == 0) {
    throw system_error("exists", EEXIST).file(output_.path).hint("use --force to replace it");
  }
  std::string partial = output_.path + ".partial";
  if (resume_ || stat(partial.c_str(), &st) != 0) return;
  throw system_error("an unfinished run left it", EEXIST)
      .file(partial)
      .hint("use --resume to continue it or --force to start again");
}

void QuantizeCommand::check_memory(const Plan& plan, Tool& tool) const {
  uint64_t cap = tool.max_memory();
  int n = threads();
  while (n > 1 && memory_need(plan, n) > cap) --n;
  uint64_t need = memory_need(plan, n);
  if (need > cap) {
    auto worst = std::ranges::max_element(plan.entries, {}, [](const PlanEntry& e) { return e.tensor->shape.cols(); });
    throw limit_error("needs " + human_bytes(static_cast<double>(need)) + " of memory, --max-memory allows " +
                      human_bytes(static_cast<double>(cap)))
        .tensor(worst->tensor->name)
        .hint("use --max-memory " + std::to_string(need / 1'000'000 + 1) + "MB or more");
  }
  if (n < threads()) {
    tool.say("using " + std::to_string(n) + " threads to stay under --max-memory", 1);
    set_threads(n);
  }
}

void QuantizeCommand::list_schemes(Tool& tool) const {
  if (tool.options.json) {
    Json out = Json::array();
    for (const Preset& p : presets()) {
      Json row = {{"name", p.name}, {"summary", p.summary}, {"aliases", p.aliases}};
      if (p.refusal.empty()) {
        row["scheme"] = to_json(p.scheme);
        if (p.experts) row["experts"] = to_json(*p.experts);
      } else {
        row["refusal"] = p.refusal;
      }
      out.push_back(std::move(row));
    }
    std::cout << out.dump(2) << "\n";
    return;
  }
  if (tool.options.quiet) {  // completions ask this way
    for (const Preset& p : presets()) {
      if (p.refusal.empty()) std::cout << p.name << "\n";
    }
    return;
  }
  Table table({"scheme", "what it is", "also called"}, {false, false, false});
  for (const Preset& p : presets()) {
    std::string aliases;
    for (std::string_view a : p.aliases) aliases += (aliases.empty() ? "" : " ") + std::string(a);
    std::string summary = p.refusal.empty() ? std::string(p.summary) : "not available: " + std::string(p.refusal);
    table.add({std::string(p.name), summary, aliases});
  }
  table.print(std::cout);
}

void QuantizeCommand::list_algorithms(Tool& tool) const {
  Json out = Json::array();
  Table table({"algorithm", "what it does", "runs the model", "options"}, {false, false, false, false});
  for (const Algorithm& a : algorithms()) {
    std::string options;
    for (std::string_view o : a.options) options += (options.empty() ? "" : " ") + std::string(o);
    out.push_back({{"name", a.name}, {"summary", a.summary}, {"runs_model", a.runs_model}, {"edits", a.edits}, {"options", a.options}});
    table.add({std::string(a.name), std::string(a.summary), a.runs_model ? "yes" : "no", options});
    if (tool.options.quiet && !tool.options.json) std::cout << a.name << "\n";
  }
  if (tool.options.json) std::cout << out.dump(2) << "\n";
  else if (!tool.options.quiet) table.print(std::cout);
}

void QuantizeCommand::print_plan(const Store& store, const Plan& plan, Tool& tool) const {
  uint64_t memory = memory_need(plan, threads());
  if (tool.options.json) {
    Json out = to_json(plan, identity(store.model()));
    out["peak_memory_bytes"] = memory;
    if (auto_.asked()) out["allocation"] = auto_.to_json();
    std::cout << out.dump(1, ' ', false, Json::error_handler_t::replace) << "\n";
    return;
  }
  if (auto_.asked()) {
    auto_.print();
    std::cout << "\n";
  }
  Table table({"tensor", "kind", "shape", "scheme", "bytes", "why"}, {false, false, false, false, true, false});
  for (const PlanEntry& e : plan.entries) {
    table.add({printable(e.tensor->name), std::string(name_of(e.info.kind)), e.tensor->shape.str(),
               e.scheme < 0 ? "keep" : plan.schemes[static_cast<size_t>(e.scheme)].name,
               std::to_string(e.output_bytes), e.reason});
  }
  table.print(std::cout);
  std::cout << plan.quantized << " of " << plan.entries.size() << " tensors quantized; "
            << human_bytes(static_cast<double>(plan.input_bytes)) << " -> "
            << human_bytes(static_cast<double>(plan.output_bytes)) << "; peak memory about "
            << human_bytes(static_cast<double>(memory)) << "; about "
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
    throw usage_error("--explain: no such tensor").file(store.label()).tensor(explain_).hint(did_you_mean(explain_, names));
  }
  const PlanEntry& e = *found;
  const Tensor& t = *e.tensor;
  std::cout << "tensor   " << printable(t.name) << "\nshape    " << t.shape.str() << " " << dtype_name(t.dtype) << "\nkind     "
            << name_of(e.info.kind) << "\n";
  if (!t.source.empty()) std::cout << "source   " << printable(t.source) << "\n";
  if (!e.info.fused.empty()) std::cout << "fused as " << e.info.fused << "\n";
  if (e.scheme < 0) {
    std::cout << "kept     " << e.reason << "\n";
    return;
  }
  const Scheme& s = plan.schemes[static_cast<size_t>(e.scheme)];
  std::cout << "scheme   " << s.name << " by " << e.reason << ", algorithm " << e.algorithm << ", numerics " << s.numerics
            << "\nargs     " << to_json(s.weights).dump() << "\n";
  if (s.input_activations) std::cout << "inputs   " << to_json(*s.input_activations).dump() << "\n";
  for (const PartSpec& p : part_specs(s, e.source->shape, t.dtype)) {
    std::cout << "part     " << name_of(p.role) << " " << dtype_name(p.dtype) << " " << p.shape.str() << "\n";
  }
  std::cout << "bytes    " << t.stored_bytes() << " -> " << e.output_bytes << " (" << s.bits_per_weight(e.source->shape, t.dtype)
            << " bits per weight)\n";
}

}  // namespace qp
