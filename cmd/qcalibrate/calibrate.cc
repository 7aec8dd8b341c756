#include "cmd/qcalibrate/calibrate.h"

#include <algorithm>
#include <iostream>

#include "cmd/tool/table.h"
#include "formats/gguf/imatrix.h"
#include "lib/base/error.h"
#include "lib/calibration/imported.h"
#include "lib/calibration/merge.h"

namespace qp {

void CalibrateCommand::declare(CLI::App& app) {
  app.add_option("MODEL", inputs_, "Directory, file, qmap or handle; '-' or nothing: standard input. Several with --merge");
  text_.declare(app, 128);
  auto run = "Calibration";
  app.add_option("--observer", observer_, "How ranges follow from what was seen: max, percentile, mse or delayed")
      ->type_name("NAME")->capture_default_str()->group(run);
  app.add_option("--percentile", percentile_, "Share of |x| that --observer percentile keeps, in percent")
      ->type_name("P")->check(CLI::Range(50.0, 100.0))->capture_default_str()->group(run);
  app.add_option("--observer-dtype", observer_dtype_, "What --observer mse rounds to: int8 or fp8")
      ->check(CLI::IsMember({"int8", "fp8"}))->capture_default_str()->group(run);
  app.add_option("--amax-history", history_, "Windows that --observer delayed looks back")
      ->type_name("N")->check(CLI::Range(1, 1 << 20))->capture_default_str()->group(run);
  app.add_option("--margin", margin_, "Powers of two that --observer delayed adds")
      ->type_name("N")->check(CLI::Range(-16, 16))->capture_default_str()->group(run);
  app.add_flag("--moe-all-experts", all_experts_, "Show every token to every expert (statistics only)")->group(run);
  app.add_option("--compute", compute_, "Inputs of products: bf16, or f32 for exactness")
      ->check(CLI::IsMember({"bf16", "f32"}))->capture_default_str()->group(run);
  app.add_option("--batch-size", batch_size_, "Windows at a time (0: what fills 2048 tokens)")
      ->type_name("N")->capture_default_str()->group(run);
  app.add_flag("--merge", merge_, "Put the statistics of several calibrated qmaps together instead")->group(run);
  app.add_option("--imatrix", imatrices_, "Take the statistics of llama.cpp's importance matrices (GGUF or .dat) instead; repeatable: their sums are added")
      ->type_name("FILE")->expected(1)->group(run);
  app.add_option("--save-imatrix", save_imatrix_, "Write the statistics in MODEL as an importance matrix for llama.cpp (GGUF; NAME.dat: the older form) and stop")
      ->type_name("FILE")->group(run);
  app.add_flag("--list", list_, "Print the statistics in MODEL and stop")->group(run);
  output_.declare(app);
  app.add_flag("--resume", resume_, "Continue the unfinished run that left FILE.partial")->group("Output");
  app.add_flag("--no-check", no_check_, "Do not compare checksums while reading")->group("Input");
}

void CalibrateCommand::check_arguments() const {
  observer_from_name(observer_);
  bool stops = list_ || !save_imatrix_.empty();
  bool reads = stops || merge_ || !imatrices_.empty();
  if (int{list_} + int{merge_} + int{!imatrices_.empty()} + int{!save_imatrix_.empty()} > 1) {
    throw usage_error("--list, --merge, --imatrix and --save-imatrix exclude each other");
  }
  if (merge_ && inputs_.size() < 2) {
    throw usage_error("--merge needs two files or more").hint("qcalibrate --merge A B -o OUT");
  }
  if (!merge_ && inputs_.size() > 1) {
    throw usage_error("more than one model: '" + printable(inputs_[1]) + "'").hint("--merge puts statistics together");
  }
  if (reads && text_.any()) throw usage_error("no text is read with --list, --merge, --imatrix or --save-imatrix");
  if (!reads && !text_.any()) {
    throw usage_error("no text to run through the model").hint("give --text FILE or --tokens FILE");
  }
  bool stdin_model = input().empty() || input() == "-";
  if (!reads && stdin_model && text_.from_stdin()) {
    throw usage_error("model and text cannot both be standard input").hint("name the model: qload MODEL -o base.qmap");
  }
  if (!stops && output_.path.empty() && stdout_kind() == StdoutKind::nowhere) {
    throw usage_error("nowhere to write the result").hint("give -o FILE or a pipe");
  }
}

const std::string& CalibrateCommand::input() const {
  static const std::string none;
  return inputs_.empty() ? none : inputs_.front();
}

int CalibrateCommand::run(Tool& tool) {
  check_arguments();
  if (merge_) return merge(tool);
  if (!imatrices_.empty()) return import(tool);
  if (!list_ && save_imatrix_.empty()) return calibrate_model(tool);
  LoadOptions load;
  load.warn = [&](const std::string& text) { tool.warn(text); };
  OpenedInput in = open_input(input(), load);
  in.store->set_check(!no_check_);
  list_ ? list(*in.store, tool) : save_imatrix(*in.store);
  return 0;
}

void CalibrateCommand::save_imatrix(const Store& store) const {
  Imatrix m = imatrix_of(store);
  write_imatrix(save_imatrix_, m);
}

int CalibrateCommand::import(Tool& tool) {
  LoadOptions load;
  load.warn = [&](const std::string& text) { tool.warn(text); };
  OpenedInput in = open_input(input(), load);
  in.store->set_check(!no_check_);
  Imatrix all = read_imatrix(imatrices_.front());
  for (size_t i = 1; i < imatrices_.size(); ++i) add(all, read_imatrix(imatrices_[i]), imatrices_[i]);
  std::vector<std::string> unknown, paths = in.paths;
  std::vector<InputSums> sums = statistics_of(all, *in.store, unknown);
  if (!unknown.empty()) {
    tool.warn(std::to_string(unknown.size()) + " entries are of tensors that the model does not have (" +
              printable(unknown.front()) + (unknown.size() > 1 ? ", .." : "") + ")");
  }
  Json described = {{"imatrix", Json{{"datasets", all.datasets}, {"chunk_count", all.chunk_count}, {"chunk_size", all.chunk_size}}}};
  paths.insert(paths.end(), imatrices_.begin(), imatrices_.end());
  QmapOutput out(output_.options(paths));
  Hash128 id = import_statistics(*in.store, sums, described,
                                 provenance_entry("qcalibrate", described, in.store->model()), out);
  tool.say(std::to_string(sums.size()) + " inputs of " + std::to_string(all.entries.size()) + " entries", 1);
  out.commit(id);
  return 0;
}

int CalibrateCommand::merge(Tool& tool) {
  LoadOptions load;
  load.warn = [&](const std::string& text) { tool.warn(text); };
  std::vector<OpenedInput> inputs;
  std::vector<const Store*> stores;
  std::vector<std::string> paths;
  for (const std::string& path : inputs_) {
    inputs.push_back(open_input(path, load));
    inputs.back().store->set_check(!no_check_);
    paths.insert(paths.end(), inputs.back().paths.begin(), inputs.back().paths.end());
  }
  Json merged = Json::array();
  for (const OpenedInput& in : inputs) {
    stores.push_back(in.store.get());
    merged.push_back(in.store->model().id.hex());
  }
  QmapOutput out(output_.options(paths));
  Hash128 id = merge_calibrations(
      stores, provenance_entry("qcalibrate", {{"merge", merged}}, stores.front()->model()), out);
  out.commit(id);
  return 0;
}

int CalibrateCommand::calibrate_model(Tool& tool) {
  LoadOptions load;
  load.warn = [&](const std::string& text) { tool.warn(text); };
  OpenedInput in = open_input(input(), load);
  Store& store = *in.store;
  store.set_check(!no_check_);
  engine::WeightSource weights(store);
  auto model = arch::make_architecture(store.model(), weights);
  CalibrateOptions options;
  Windows windows = text_.windows(store, *model, tool);
  options.observer = {observer_from_name(observer_), percentile_, observer_dtype_, history_, margin_};
  options.stream.precision = compute_ == "f32" ? gemm::Precision::f32 : gemm::Precision::bf16;
  options.stream.memory = tool.max_memory();
  options.stream.batch_windows = batch_size_;
  options.stream.all_experts = all_experts_;
  options.described = text_.described();
  options.described["compute"] = compute_;
  options.described["observer"] = to_json(options.observer);
  if (all_experts_) options.described["moe_all_experts"] = true;
  options.provenance = provenance_entry("qcalibrate", options.described, store.model());
  OutputOptions to = output_.options(in.paths);
  to.resume = resume_;
  to.resumable = true;
  QmapOutput out(std::move(to));
  CalibrateResult result = calibrate(store, *model, weights, windows, options, out, tool.progress());
  summary(result, windows, tool);
  out.commit(result.id);
  return 0;
}

void CalibrateCommand::summary(const CalibrateResult& result, const Windows& windows, Tool& tool) const {
  if (result.resumed > 0) tool.say(std::to_string(result.resumed) + " layers taken over from the unfinished run");
  tool.say(std::to_string(windows.size()) + " windows, " + std::to_string(windows.tokens()) + " tokens", 1);
  if (result.unreached.empty()) return;
  std::string some;
  for (size_t i = 0; i < std::min<size_t>(3, result.unreached.size()); ++i) some += (i ? ", " : "") + result.unreached[i];
  tool.warn(std::to_string(result.unreached.size()) + " inputs of experts were reached by no token (" + some +
            (result.unreached.size() > 3 ? ", .." : "") + "); more text, or --moe-all-experts, reaches them");
}

void CalibrateCommand::list(const Store& store, Tool& tool) const {
  if (!store.model().calibration) {
    throw usage_error("holds no statistics").file(store.label()).hint("make them with qcalibrate --text");
  }
  const Calibration& c = *store.model().calibration;
  if (tool.options.json) {
    std::cout << to_json(c).dump(2) << "\n";
    return;
  }
  Table table({"input of", "readers", "channels", "tokens", "range"}, {false, true, true, true, true});
  for (const InputStatistics& s : c.inputs) {
    table.add({printable(s.module), std::to_string(s.readers.size()), std::to_string(s.cols),
               std::to_string(s.rows), std::to_string(s.observed)});
  }
  table.print(std::cout);
  std::cout << c.windows << " windows, " << c.token_count << " tokens, " << c.inputs.size() << " inputs ("
            << c.options.dump() << ")\n";
}

}  // namespace qp
