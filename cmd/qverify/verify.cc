#include "cmd/qverify/verify.h"

#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "formats/hf/fit.h"
#include "formats/verify/gguf.h"
#include "formats/verify/structure.h"
#include "formats/verify/sums.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/base/interrupt.h"
#include "lib/base/parallel.h"
#include "lib/qmap/latents.h"
#include "lib/qmap/stacks.h"
#include "lib/tensor/ggml_type.h"

namespace qp {
namespace {

// Tensors from this size on are checked one after the other, each by all threads; smaller ones
// side by side, each by one thread.
constexpr uint64_t kBig = 64 << 20;

bool is_directory(const std::string& path) {
  struct stat st {};
  return stat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode);
}

int64_t layer_of(std::string_view name) {
  auto at = name.find("layers.");
  int64_t n = -1;
  if (at != std::string_view::npos) std::from_chars(name.data() + at + 7, name.data() + name.size(), n);
  return n;
}

std::string module_of(std::string name) {
  if (name.ends_with(".weight")) name.resize(name.size() - 7);
  return name.substr(name.rfind('.') + 1);
}

bool tied(const Model& m) {
  for (const Json* place : {&m.config}) {
    if (!place->is_object()) continue;
    auto text = place->find("text_config");
    for (const Json* c : {place, text != place->end() && text->is_object() ? &*text : place}) {
      auto it = c->find("tie_word_embeddings");
      if (it != c->end() && it->is_boolean() && it->get<bool>()) return true;
    }
  }
  return false;
}

// Bits of a stored code; 0 for floats.
uint64_t stored_bits(const Model& m, const Tensor& t) {
  if (t.scheme >= 0) return static_cast<uint64_t>(m.schemes[static_cast<size_t>(t.scheme)].weights.num_bits);
  const GgmlType* type = ggml_type(t.ggml);
  return type == nullptr ? 0 : type->bytes * 8 / type->block;
}

// Buffers that models compute and some checkpoints store all the same.
bool is_buffer(std::string_view name) {
  return name.ends_with("rotary_emb.inv_freq") || name.ends_with(".position_ids") ||
         name.ends_with(".attn.masked_bias") || name == "rope_freqs.weight";
}

}  // namespace

std::string scheme_label(const Scheme& s) {
  const QuantArgs& w = s.weights;
  std::string out = std::string(name_of(w.type)) + std::to_string(w.num_bits) + " " + std::string(name_of(w.strategy));
  if (w.group_size > 0) out += " " + std::to_string(w.group_size);
  if (w.strategy == Strategy::block) out += " " + std::to_string(w.block_rows) + "x" + std::to_string(w.block_cols);
  return out + (w.symmetric ? "" : " asymmetric");
}

void VerifyCommand::declare(CLI::App& app) {
  app.add_option("CHECKPOINT", checkpoint_, "Directory, file, qmap or handle; '-' or nothing: standard input");
  app.add_option("BASE", base_argument_, "What it was made from, in any format (the same as --against)");
  auto compare = "Comparison";
  app.add_option("--against", against_, "Compare every tensor with this checkpoint's")->type_name("BASE")->group(compare);
  app.add_option("--min-sqnr", thresholds_.min_sqnr, "Fail tensors with less SQNR, in dB")->type_name("DB")->group(compare);
  app.add_option("--min-cosine", thresholds_.min_cosine, "Fail tensors with a lower cosine")->type_name("X")->group(compare);
  app.add_option("--max-mse", thresholds_.max_mse, "Fail tensors with a larger mean squared error")->type_name("X")->group(compare);
  app.add_option("--max-abs", thresholds_.max_abs, "Fail tensors with a larger difference")->type_name("X")->group(compare);
  app.add_option("--ignore", ignore_, "Tensors that the bounds leave out: name, re:REGEX or module kind; repeatable")
      ->type_name("PATTERN")->group(compare);
  eval_.declare(app);
  target_.declare(app);
  auto out = "Output";
  app.add_option("--report", reports_, "Write a report: .json, .xml (JUnit) or .html; repeatable")->type_name("FILE")->group(out);
  app.add_option("--top", top_, "Rows of the table to print, worst first")->type_name("N")->capture_default_str()->group(out);
  auto sums = "Manifest";
  app.add_option("--manifest", manifest_, "SHA-256 sums of all files, in sha256sum's form: check them, or write them if the checkpoint is sound")
      ->check(CLI::IsMember({"check", "write"}))->type_name("ACTION")->group(sums);
  app.add_option("--manifest-file", manifest_file_, "Where they are (default: SHA256SUMS in the directory, FILE.sha256 beside a file)")
      ->type_name("FILE")->group(sums);
  app.add_flag("--no-check", no_check_, "Do not compare checksums while reading")->group("Input");
  app.add_option("--sample", sample_, "Read only this share of each matrix's rows (scales are all read): 5%, 0.05; --seed draws others")
      ->type_name("P%")->group("Input");
}

void VerifyCommand::add(Severity severity, const char* rule, std::string tensor, std::string what, std::string hint) {
  report_.findings.push_back({severity, rule, std::move(tensor), std::move(what), std::move(hint)});
}

void VerifyCommand::check_arguments() {
  if (!base_argument_.empty() && !against_.empty()) {
    throw usage_error("two bases: '" + printable(base_argument_) + "' and --against '" + printable(against_) + "'");
  }
  if (against_.empty()) against_ = base_argument_;
  bool from_stdin = checkpoint_.empty() || checkpoint_ == "-";
  if (from_stdin && against_ == "-") throw usage_error("checkpoint and base cannot both be standard input");
  if (against_.empty() && thresholds_.any()) {
    throw usage_error("bounds need something to compare with").hint("give --against BASE");
  }
  for (const auto& bound : {thresholds_.min_sqnr, thresholds_.min_cosine, thresholds_.max_mse, thresholds_.max_abs}) {
    if (bound && std::isnan(*bound)) throw usage_error("a bound is NaN").hint("give a number");
  }
  target_.check_arguments();
  if (!manifest_file_.empty() && manifest_.empty()) throw usage_error("--manifest-file without --manifest").hint("give --manifest check or --manifest write");
  if (!sample_.empty()) sampling_ = {parse_share(sample_, "--sample"), eval_.seed()};
  eval_.check_arguments(!against_.empty(), from_stdin || against_ == "-");
  for (const std::string& path : reports_) check_report_path(path);
  for (const std::string& text : ignore_) ignored_.emplace_back(text);
}

// Nothing but headers is read: no store is opened.
int VerifyCommand::check_target_alone(const ResolvedInput& input, Tool& tool) {
  target_.check(input.path, report_, tool);
  report_.sort();
  for (const std::string& path : reports_) write_report(report_, path);
  print(tool);
  return report_.sound() ? 0 : static_cast<int>(ErrorKind::check);
}

int VerifyCommand::run(Tool& tool) {
  if (target_.informs()) return target_.inform();
  check_arguments();
  report_.strict = tool.options.strict;
  report_.thresholds = thresholds_;
  report_.base = against_;
  if (!sampling_.whole()) report_.sampling = sampling_;
  LoadOptions options;
  options.warn = [&](const std::string& text) { tool.say(text, 1); };
  ResolvedInput input = resolve_input(checkpoint_);
  if (eval_.generates()) {
    OpenedInput in = open_resolved(input, options);
    in.store->set_check(!no_check_);
    eval_.generate(*in.store, tool);
    return 0;
  }
  report_.checkpoint = input.path;
  struct stat there {};
  if (!manifest_.empty() && input.qmap && stat(input.path.c_str(), &there) != 0) {
    throw usage_error("--manifest needs a checkpoint with a name").hint("give the directory or the file");
  }
  if (manifest_file_.empty()) manifest_file_ = default_manifest(input.path);
  if (target_.given() && input.qmap) {
    throw usage_error("--target looks at a checkpoint that is written, not at a qmap").hint("qexport it first");
  }
  bool alone = against_.empty() && !eval_.evaluates() && manifest_.empty() && sample_.empty();
  if (target_.given() && alone) return check_target_alone(input, tool);
  if (target_.given()) target_.check(input.path, report_, tool);
  std::optional<OpenedInput> base;
  if (!against_.empty()) {
    base = open_input(against_, options);
    base->store->set_check(!no_check_);
  }
  DirectoryCheck directory;
  bool is_dir = !input.qmap && is_directory(input.path);
  if (is_dir) {
    directory = check_directory(input.path);
    for (Finding& f : directory.findings) {  // some of them --target has found already
      bool known = std::ranges::any_of(report_.findings, [&](const Finding& o) {
        return o.rule == f.rule && o.tensor == f.tensor && o.what == f.what;
      });
      if (!known) report_.findings.push_back(std::move(f));
    }
  }
  std::optional<OpenedInput> in = open_checkpoint(input, tool);
  if (manifest_ == "check") check_sums(input, tool);
  bool gguf = !input.qmap && !is_dir && is_gguf(input.path);
  if (gguf) std::ranges::move(check_gguf(input.path, in ? &in->store->model() : nullptr), std::back_inserter(report_.findings));
  check_rules(in.has_value(), is_dir, directory.stored, gguf);
  if (in) {
    const Model& model = in->store->model();
    in->store->set_check(!no_check_);
    report_.format = model.format;
    report_.architecture = model.architecture;
    std::ranges::move(check_promises(model), std::back_inserter(report_.findings));
    if (base) take_experts_apart(model, *base);
    if (base) pad_like(model, *base);
    if (base) check_names(model, base->store->model());
    check_tensors(*in->store, base ? base->store.get() : nullptr, tool);
    check_tied_head(*in->store);
    if (eval_.evaluates()) evaluate(*in->store, base ? base->store.get() : nullptr, tool);
    try {
      in->store->throw_if_changed();
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::input) throw;
      add(Severity::error, "load", "", e.reason(), "let no other program write it meanwhile");
    }
    if (base) base->store->throw_if_changed();
  }
  report_.sort();
  if (manifest_ == "write" && report_.sound()) write_sums(input, tool);
  for (const std::string& path : reports_) write_report(report_, path);
  print(tool);
  return report_.sound() ? 0 : static_cast<int>(ErrorKind::check);
}

void VerifyCommand::evaluate(const Store& store, const Store* base, Tool& tool) {
  report_.eval = eval_.evaluate(store, base, tool);
  report_.eval_bounds = eval_.bounds();
  std::ranges::move(check_eval(eval_.bounds(), *report_.eval), std::back_inserter(report_.findings));
  std::ranges::move(eval_.check_baseline(*report_.eval), std::back_inserter(report_.findings));
}

void VerifyCommand::check_sums(const ResolvedInput& input, Tool& tool) {
  for (const auto& [id, what] : manifest_rules()) report_.rules.emplace_back(id, what);
  std::ranges::move(check_manifest(input.path, manifest_file_, tool.progress()), std::back_inserter(report_.findings));
}

void VerifyCommand::write_sums(const ResolvedInput& input, Tool& tool) {
  std::vector<FileSum> sums = sum_files(input.path, manifest_file_, tool.progress());
  write_file_atomically(manifest_file_, manifest_text(sums));
  tool.say("wrote " + printable(manifest_file_) + ": " + std::to_string(sums.size()) + " sums");
}

// A checkpoint that cannot be opened has failed; one that is not there is an error of the call.
std::optional<OpenedInput> VerifyCommand::open_checkpoint(const ResolvedInput& input, Tool& tool) {
  LoadOptions options;
  options.warn = [&](const std::string& text) { tool.say(text, 1); };
  try {
    return open_resolved(input, options);
  } catch (const Error& e) {
    if (e.kind() == ErrorKind::defect) throw;
    if (e.kind() == ErrorKind::system && report_.count(Severity::error) == 0) throw;
    add(Severity::error, "load", e.tensor(), (e.file().empty() ? "" : e.file() + ": ") + e.reason(), e.hint());
    return std::nullopt;
  }
}

void VerifyCommand::check_rules(bool loaded, bool directory, bool stored, bool gguf) {
  for (const StructureRule& r : structure_rules()) {
    bool made = r.stage == Stage::load || (r.stage == Stage::companions && directory) ||
                (r.stage == Stage::stored && stored) || (r.stage == Stage::promises && loaded) || (r.stage == Stage::gguf && gguf);
    if (made) report_.rules.emplace_back(r.id, r.what);
  }
}

bool VerifyCommand::ignored(const Tensor& t, const Model& m) const {
  if (ignored_.empty()) return false;
  // Kinds are those of the float tensor, whatever dtype its codes have.
  ModuleInfo info = classify(t.name, is_float(t.dtype) ? t.dtype : DType::bf16, t.shape, m.config);
  return std::ranges::any_of(ignored_, [&](const Match& match) { return match(t.name, info); });
}

// Experts that the base stacks and the checkpoint has apart are compared one by one, and so are
// the halves of DeepSeek's kv_b_proj.
void VerifyCommand::take_experts_apart(const Model& model, OpenedInput& base) {
  auto here = model.index();
  auto apart = [&](const ExpertStack& s) { return !here.contains(s.gate_up->name); };
  auto stacks = find_stacks(base.store->model());
  bool any = std::ranges::any_of(stacks, [&](const auto& s) { return apart(s.second); });
  if (any) base.store = base.store->with(with_experts_apart(base.store->model(), apart));
  auto latents = with_latents_apart(base.store->model(),
                                    [&](const std::string& name) { return !here.contains(name); });
  if (latents) base.store = base.store->with(std::move(*latents));
}

// qexport --target pads MLPs with zeros: so is the base, then, to be compared.
void VerifyCommand::pad_like(const Model& model, OpenedInput& base) {
  Changes changes{.sizes = larger_sizes(model, base.store->model())};
  if (changes.empty()) return;
  std::vector<LedgerEntry> done;
  auto padded = fitted(*base.store, changes, done);
  if (!padded) return;
  base.store = std::move(padded);
  for (const LedgerEntry& e : done) {
    if (e.source == "config.json")
      add(Severity::note, "padded", "", "is compared with the base padded with zeros: " + e.detail);
  }
}

void VerifyCommand::check_names(const Model& model, const Model& base) {
  auto here = model.index(), there = base.index();
  bool common = std::ranges::any_of(there, [&](const auto& e) { return here.contains(e.first); });
  if (!common) {
    add(Severity::error, "no-common-name", "", "checkpoint and base have no tensor name in common (" +
        printable(here.empty() ? "" : here.begin()->first) + ", " + printable(there.empty() ? "" : there.begin()->first) + " ..)",
        "names are compared as they are: give a base of the same family and layout");
    return;
  }
  for (const Tensor& t : base.tensors) {
    if (here.contains(t.name)) continue;
    bool head = t.name.ends_with("lm_head.weight") && tied(model);
    // A GGUF of a model that sees has its vision part in a file of its own.
    bool vision = model.format == "gguf" && classify(t.name, DType::bf16, t.shape, base.config).kind == ModuleKind::vision;
    bool excused = head || vision || is_buffer(t.name) || ignored(t, base);
    add(excused ? Severity::note : Severity::error, "missing-in-checkpoint", t.name,
        std::string("is in the base and not in the checkpoint") +
            (head ? ": the embedding is tied to it" : is_buffer(t.name) ? ": models compute it" : vision ? ": llama.cpp has it in another file" : ""),
        excused ? "" : "names are compared as they are; --ignore it if it was left out on purpose");
  }
  for (const Tensor& t : model.tensors) {
    if (!there.contains(t.name)) add(Severity::note, "not-in-base", t.name, "is not in the base, and so not compared");
  }
}

void VerifyCommand::check_tensors(const Store& store, const Store* base, Tool& tool) {
  const std::vector<Tensor>& tensors = store.model().tensors;
  std::map<std::string_view, const Tensor*> others;
  if (base != nullptr) others = base->model().index();
  auto other_of = [&](const Tensor& t) -> const Tensor* {
    auto it = others.find(t.name);
    return it == others.end() ? nullptr : it->second;
  };
  auto cost = [&](const Tensor& t) {
    const Tensor* o = other_of(t);
    return t.stored_bytes() + (o ? o->stored_bytes() : 0);
  };
  std::vector<size_t> big, small;
  uint64_t total = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    total += cost(tensors[i]);
    (cost(tensors[i]) >= kBig ? big : small).push_back(i);
  }
  tool.progress().begin("checking", total);
  std::vector<Result> results(tensors.size());
  auto check = [&](size_t i) {
    throw_if_interrupted();
    results[i] = check_tensor(store, tensors[i], base, other_of(tensors[i]));
    tool.progress().item(tensors[i].name);
    tool.progress().add(cost(tensors[i]));
  };
  for (size_t i : big) check(i);
  parallel_for(small.size(), [&](size_t k, int) { check(small[k]); });
  tool.progress().end();
  for (size_t i = 0; i < results.size(); ++i) {
    Result& r = results[i];
    std::ranges::move(r.findings, std::back_inserter(report_.findings));
    report_.bytes += r.row.bytes;
    report_.bytes_read += r.row.bytes_read;
    if (r.row.errors) {
      report_.overall.add(*r.row.errors, r.weight);
      if (r.row.quantized) report_.overall_quantized.add(*r.row.errors, r.weight);
    }
    report_.tensors.push_back(std::move(r.row));
  }
  std::ranges::move(check_related(report_.tensors), std::back_inserter(report_.findings));
  report_.parameters = store.model().parameters();
  if (base == nullptr) return;
  for (const Tensor& t : base->model().tensors) report_.base_bytes += t.stored_bytes();
  report_.base_parameters = base->model().parameters();
}

// Codes and elements are sampled, in tensors that are big enough.
bool VerifyCommand::is_sampled(const Tensor& t, const Part& p) const {
  bool main = p.role == Role::codes || p.role == Role::data || p.role == Role::blocks;
  return main && !RowSample(sampling_, t.name, t.shape.rows(), t.shape.cols()).whole();
}

// Runs on any thread; everything but histograms goes into the result.
VerifyCommand::Result VerifyCommand::check_tensor(const Store& store, const Tensor& t, const Store* base,
                                                  const Tensor* other) {
  Result r;
  const Model& m = store.model();
  const Scheme* scheme = t.scheme >= 0 ? &m.schemes[static_cast<size_t>(t.scheme)] : nullptr;
  r.row.name = t.name;
  r.row.module = module_of(t.name);
  r.row.layer = layer_of(t.name);
  r.row.shape = t.shape;
  r.row.bytes = t.stored_bytes();
  r.row.elements = t.shape.elements().value_or(0);
  r.row.quantized = t.quantized();
  r.row.stored = scheme != nullptr ? scheme_label(*scheme) : !t.ggml.empty() ? t.ggml : std::string(dtype_name(t.dtype));
  r.row.bits = stored_bits(m, t);
  r.row.ignored = ignored(t, m);
  RowSample sample(sampling_, t.name, t.shape.rows(), t.shape.cols());
  r.weight = sample.weight();
  double all = 0, read = 0;
  for (const Part& p : t.parts) {
    auto length = static_cast<double>(p.extent.length);
    all += length;
    read += is_sampled(t, p) ? length / r.weight : length;
  }
  r.row.bytes_read = read == all ? r.row.bytes : static_cast<uint64_t>(static_cast<double>(r.row.bytes) * read / all);
  if (!t.ggml.empty() && !has_values(t)) {
    r.findings.push_back({Severity::note, "not-decoded", t.name, "is " + t.ggml + ", whose numbers this version cannot read"});
    return r;
  }
  NumberStats stats;
  try {
    // A checksum is of a whole part.
    for (const Part& p : t.parts) {
      if (!is_sampled(t, p)) store.verify(t, p);
    }
    r.findings = check_numbers(store, t, &stats, sampling_);
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::input) throw;
    r.findings.push_back({Severity::error, "data", t.name, e.reason(), e.hint()});
    return r;
  }
  r.row.saturated = stats.saturated;
  if (scheme != nullptr && !stats.histogram.empty()) count_codes(*scheme, stats.histogram);
  if (base != nullptr && other != nullptr) compare(store, t, *base, *other, r);
  return r;
}

void VerifyCommand::compare(const Store& store, const Tensor& t, const Store& base, const Tensor& other, Result& r) const {
  auto find = [&](Severity severity, const char* rule, std::string what, std::string hint) {
    r.findings.push_back({severity, rule, t.name, std::move(what), std::move(hint)});
  };
  if (!(t.shape == other.shape)) {
    find(Severity::error, "shape", "has another shape than in the base (expected " + other.shape.str() + ", found " + t.shape.str() + ")",
         "is it made from this base?");
    return;
  }
  bool kept = !t.quantized() && !other.quantized();
  if (!has_values(t) || !has_values(other)) {
    if (kept && t.dtype == other.dtype && !equal_bytes(store, t, base, other, sampling_)) {
      find(Severity::warning, "kept-differs", "is not quantized and yet differs from the base", "is it made from this base?");
    }
    return;
  }
  for (const Part& p : other.parts) {
    if (!is_sampled(other, p)) base.verify(other, p);
  }
  r.row.errors = compare_tensors(store, t, base, other, sampling_);
  const TensorErrors& e = *r.row.errors;
  bool bad_numbers = std::ranges::any_of(r.findings, [](const Finding& f) { return f.severity == Severity::error; });
  if (e.nonfinite > 0 && !bad_numbers) {
    find(Severity::warning, "base-nan", std::to_string(e.nonfinite) + " values of the base are NaN or infinite", "is the base sound?");
  }
  // Rounding to another float dtype keeps more than 40 dB.
  bool differs = t.dtype == other.dtype ? !e.identical() : !(e.sqnr_db() >= 40);
  if (kept && differs) {
    find(Severity::warning, "kept-differs", "is not quantized and yet differs from the base (SQNR " + db_text(e.sqnr_db()) + " dB)",
         "fine if scales were folded into it (AWQ, SmoothQuant); else it is not made from this base");
  }
  if (!r.row.ignored) std::ranges::move(check_thresholds(thresholds_, t.name, e), std::back_inserter(r.findings));
}

void VerifyCommand::count_codes(const Scheme& scheme, const std::vector<uint64_t>& codes) {
  std::lock_guard lock(mutex_);
  std::string label = scheme_label(scheme);
  auto [it, fresh] = histogram_of_.emplace(label, report_.histograms.size());
  if (fresh) report_.histograms.push_back({label, scheme, std::vector<uint64_t>(codes.size(), 0)});
  auto& counts = report_.histograms[it->second].counts;
  for (size_t k = 0; k < std::min(codes.size(), counts.size()); ++k) counts[k] += codes[k];
}

void VerifyCommand::check_tied_head(const Store& store) {
  if (!tied(store.model())) return;
  const Tensor *head = nullptr, *embedding = nullptr;
  for (const Tensor& t : store.model().tensors) {
    if (t.name.ends_with("lm_head.weight")) head = &t;
    if (t.name.ends_with("embed_tokens.weight") && layer_of(t.name) < 0) embedding = &t;
  }
  if (head == nullptr || embedding == nullptr || equal_bytes(store, *head, store, *embedding, sampling_)) return;
  add(Severity::warning, "tied-head", head->name, "differs from the embedding, but tie_word_embeddings is true",
      "engines drop one of them; set tie_word_embeddings to false, or remove the head");
}

}  // namespace qp
