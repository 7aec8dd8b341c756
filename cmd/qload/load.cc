#include "cmd/qload/load.h"

#include <algorithm>
#include <iostream>

#include "cmd/tool/input.h"
#include "cmd/tool/table.h"
#include "formats/hf/kv_cache.h"
#include "formats/input_kinds.h"
#include "formats/modelopt/state.h"
#include "lib/base/file.h"
#include "lib/base/interrupt.h"
#include "lib/base/parallel.h"
#include "lib/base/regex.h"
#include "lib/model/modules.h"
#include "lib/plan/read_back.h"
#include "lib/qmap/copy.h"
#include "lib/qmap/decode.h"
#include "lib/qmap/latents.h"
#include "lib/qmap/row_jobs.h"
#include "lib/qmap/writer.h"

namespace qp {
namespace {

std::optional<DType> dtype_named(const std::string& name) {
  auto dtype = dtype_from_name(name);
  return dtype ? dtype : dtype_from_torch(name);
}

void dequantize(Tensor& t, const std::string& dtype) {
  if (t.scheme < 0 && t.ggml.empty()) return;
  t.dequantize = true;
  if (!dtype.empty() || !is_float(t.dtype)) t.dtype = dtype_named(dtype).value_or(DType::bf16);
  if (t.name.find(kLatentKeys) != t.name.npos && t.shape.rank() == 3) {
    throw limit_error("is half of a kv_b_proj in blocks, which --dequantize puts together from a GGUF only")
        .tensor(t.name)
        .hint("qexport -f gguf -o m.gguf, then qload m.gguf --dequantize");
  }
}

}  // namespace

void LoadCommand::declare(CLI::App& app) {
  app.add_option("MODEL", input_, "Directory, file, qmap or handle; '-' or nothing: standard input");
  auto in = "Input";
  app.add_flag("--dequantize", dequantize_, "Read quantized tensors as their float values")->group(in);
  app.add_option("--dtype", dtype_, "Read float tensors as F32, F16 or BF16 (dequantized ones default to BF16)")
      ->type_name("DTYPE")->group(in);
  app.add_option("--include", include_, "Only tensors whose name matches; repeatable")->type_name("REGEX")->group(in);
  app.add_option("--exclude", exclude_, "Leave out tensors whose name matches; repeatable")->type_name("REGEX")->group(in);
  app.add_option("--modelopt-state", modelopt_state_, "Take activation ranges from a file that ModelOpt's mto.save wrote")
      ->type_name("FILE")->group(in);
  app.add_flag("--no-check", no_check_, "Do not compare checksums while reading")->group(in);
  output_.declare(app);
  auto out = "Output";
  app.add_flag("--pack", pack_, "Copy the tensors: the result needs no other file")->group(out);
  app.add_flag("--zstd", zstd_, "Compress what --pack copies (slower than most disks)")->group(out);
  app.add_flag("--hash", hash_, "Store a checksum of every tensor (reads all of them)")->group(out);
  app.add_flag("--list", list_, "Print the tensors instead of writing anything")->group(out);
  app.add_flag("--recipe", recipe_, "With --list: print the schemes of quantized tensors as a recipe for qquantize")->group(out);
  app.add_flag("--list-inputs", list_inputs_, "Print the kinds of input that are known")->group(out);
}

int LoadCommand::run(Tool& tool) {
  if (list_inputs_) {
    list_inputs(tool);
    return 0;
  }
  LoadOptions options;
  options.dequantize = dequantize_;
  if (recipe_ && !list_) throw usage_error("--recipe says how --list prints").hint("give both");
  options.list_only = list_;
  options.warn = [&](const std::string& text) { tool.warn(text); };
  if (!dtype_.empty()) {
    options.dtype = dtype_named(dtype_);
    if (!options.dtype || !is_float(*options.dtype) || *options.dtype == DType::f64) {
      throw usage_error("--dtype '" + printable(dtype_) + "' (expected F32, F16 or BF16)");
    }
  }
  if (zstd_ && !pack_) throw usage_error("--zstd compresses what --pack copies").hint("add --pack");
  // Refuse before reading: a result without a place is the commonest mistake.
  if (!list_ && output_.path.empty() && stdout_kind() == StdoutKind::nowhere) {
    throw usage_error("nowhere to write the result").hint("give -o FILE or a pipe, or --list");
  }
  OpenedInput in = open_input(input_, options);
  in.store->set_check(!no_check_);
  if (recipe_) {
    std::cout << recipe_of(in.store->model()).dump(1, ' ', false, Json::error_handler_t::replace) << "\n";
    return 0;
  }
  if (list_) {
    list(*in.store, tool);
  } else {
    save(*in.store, tool);
  }
  return 0;
}

// Applies --include/--exclude, and --dequantize/--dtype to what a qmap holds.
void LoadCommand::select(std::vector<Tensor>& tensors, Model& model) const {
  std::vector<Regex> include(include_.begin(), include_.end()), exclude(exclude_.begin(), exclude_.end());
  auto any = [](const std::vector<Regex>& list, const std::string& name) {
    return std::ranges::any_of(list, [&](const Regex& r) { return r.found_in(name); });
  };
  size_t before = tensors.size();
  std::erase_if(tensors, [&](Tensor& t) {
    const char* why = any(exclude, t.name)                        ? "left out by --exclude"
                      : !include.empty() && !any(include, t.name) ? "left out by --include"
                      : dequantize_ && model.kv_cache && is_kv_scale(t) ? "a scale of the KV cache"
                                                                  : nullptr;
    if (why != nullptr) model.dropped.emplace_back(t.name, why);
    if (dequantize_ && why == nullptr) dequantize(t, dtype_);
    return why != nullptr;
  });
  if (dequantize_) model.kv_cache.reset();
  if (before > 0 && tensors.empty()) {
    throw usage_error("--include and --exclude leave no tensor").hint("see qload --list");
  }
}

void LoadCommand::hash(const Store& store, std::vector<Tensor>& tensors, Tool& tool) const {
  uint64_t total = 0;
  for (const Tensor& t : tensors) total += t.stored_bytes();
  tool.progress().begin("hashing", total);
  parallel_for(tensors.size(), [&](size_t i, int) {
    for (Part& p : tensors[i].parts) {
      throw_if_interrupted();
      if (p.extent.file == 0) continue;
      p.extent.xxh3 = xxh3_64(store.stored(p.extent));
      store.drop(p, 0, p.shape.rows());
    }
    tool.progress().add(tensors[i].stored_bytes());
  });
  tool.progress().end();
}

namespace {

// --pack --zstd: every part as a zstd extent.
Tensor compress_tensor(const Store& store, const Tensor& from, QmapWriter& writer, Progress& progress) {
  Tensor to = from;
  if (from.dequantize) {
    to.scheme = -1;
    to.dequantize = false;
    to.ggml.clear();
    to.parts = {Part{Role::data, from.dtype, from.shape, {}, nullptr}};
  }
  for (size_t k = 0; k < to.parts.size(); ++k) {
    RowSource source = from.dequantize ? RowSource(store, from) : RowSource(store, from.parts[k]);
    ZstdExtentWriter zstd(writer);
    for_row_chunks(
        source, 4 << 20, [](const RowChunk&) {},
        [&](const RowChunk& c) {
          zstd.append(c.rows);
          progress.add(c.rows.size());
        });
    to.parts[k].decode = nullptr;
    to.parts[k].extent = zstd.finish();
  }
  return to;
}

}  // namespace

void LoadCommand::save(Store& store, Tool& tool) const {
  Json options = Json::object();
  if (dequantize_) options["dequantize"] = true;
  if (!dtype_.empty()) options["dtype"] = dtype_;
  if (!modelopt_state_.empty()) options["modelopt_state"] = true;
  if (!include_.empty()) options["include"] = include_;
  if (!exclude_.empty()) options["exclude"] = exclude_;
  Json provenance = provenance_entry("qload", std::move(options), store.model());
  // A table of 92,000 tensors is moved, not copied.
  std::vector<Tensor> tensors = store.take_tensors();
  Model model = store.model();
  model.provenance.push_back(std::move(provenance));
  select(tensors, model);
  std::vector<std::string> inputs;
  for (const FileRef& f : model.files) inputs.push_back(f.path);
  if (store.self() != nullptr) inputs.push_back(store.self()->path());
  if (hash_ && !pack_) hash(store, tensors, tool);
  QmapOutput out(output_.options(std::move(inputs)));
  QmapWriter writer(out.fd(), out.label());
  uint64_t total = 0;
  for (const Tensor& t : tensors) total += t.stored_bytes();
  // What is copied: everything with --pack, else what lies in a qmap without a name.
  std::vector<std::pair<size_t, Tensor>> copied;
  for (size_t i = 0; i < tensors.size(); ++i) {
    Tensor& t = tensors[i];
    bool copy = pack_;
    Tensor original = pack_ || store.self() != nullptr ? t : Tensor{};
    for (Part& p : t.parts) {  // computed parts are written with the manifest
      copy = copy || (p.extent.file != kBlob && refer_extent(store, model, p.extent));
    }
    if (!copy) continue;
    if (!zstd_) t = place_copy(original, writer);
    copied.emplace_back(i, std::move(original));
  }
  for (Companion& c : model.companions) {
    Companion from = c;
    if (from.extent.file == kBlob) continue;
    if (pack_ || refer_extent(store, model, c.extent)) copy_companion(store, from, c, writer);
  }
  carry_calibration(store, model, writer, pack_);
  if (!modelopt_state_.empty()) {
    if (model.calibration) throw usage_error("the model is calibrated already").hint("leave out --modelopt-state");
    Calibration c = modelopt::read_state(modelopt_state_, tensors, writer.append({}));
    model.calibration = std::make_shared<const Calibration>(std::move(c));
  }
  if (!copied.empty()) writer.reserve();
  if (pack_) tool.progress().begin("copying", total);
  for (auto& [i, from] : copied) {
    tool.progress().item(from.name);
    try {
      for (const Part& p : from.parts) store.verify(from, p);
      if (zstd_) {
        tensors[i] = compress_tensor(store, from, writer, tool.progress());
      } else {
        copy_tensor(store, from, tensors[i], writer, [&](uint64_t n) { tool.progress().add(n); });
      }
      store.throw_if_changed(from);
    } catch (Error& e) {
      store.throw_if_changed(from);  // the cause behind whatever was noticed first
      throw std::move(e).file(store.where(from)).tensor(from.name);
    }
  }
  tool.progress().end();
  if (pack_) model.files.clear();
  store.throw_if_changed();
  model.tensors = std::move(tensors);
  Hash128 id = writer.finish(model, out.base(), out.unnamed(), out.sync());
  tool.say(std::to_string(model.tensors.size()) + " tensors, " + human_bytes(static_cast<double>(total)) +
               (pack_ ? " copied" : " referred to"), 1);
  out.commit(id);
}

void LoadCommand::list(Store& store, Tool& tool) const {
  std::vector<Tensor> tensors = store.take_tensors();
  Model model = store.model();
  select(tensors, model);
  model.tensors = std::move(tensors);
  if (tool.options.json) {
    Json out = {{"format", model.format}, {"architecture", model.architecture},
                {"parameters", model.parameters()}, {"tensors", Json::array()},
                {"companions", Json::array()}, {"dropped", Json::array()}};
    for (const Tensor& t : model.tensors) {
      ModuleInfo info = classify(t.name, t.quantized() ? DType::bf16 : t.dtype, t.shape, model.config);
      Json row = {{"name", t.name}, {"kind", name_of(info.kind)}, {"dtype", dtype_name(t.dtype)},
                  {"shape", t.shape.dims()}, {"bytes", t.stored_bytes()}};
      if (t.scheme >= 0) row["scheme"] = model.schemes[static_cast<size_t>(t.scheme)].name;
      if (!t.ggml.empty()) row["ggml"] = t.ggml;
      if (!t.source.empty()) row["source"] = t.source;
      out["tensors"].push_back(std::move(row));
    }
    for (const Companion& c : model.companions) out["companions"].push_back({{"name", c.name}, {"bytes", c.extent.length}});
    for (const auto& [name, why] : model.dropped) out["dropped"].push_back({{"name", name}, {"reason", why}});
    std::cout << out.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
    return;
  }
  Table table({"name", "kind", "dtype", "shape", "bytes"}, {false, false, false, false, true});
  uint64_t bytes = 0;
  for (const Tensor& t : model.tensors) {
    ModuleInfo info = classify(t.name, t.quantized() ? DType::bf16 : t.dtype, t.shape, model.config);
    std::string dtype = !t.ggml.empty() ? t.ggml
                        : t.scheme >= 0 ? model.schemes[static_cast<size_t>(t.scheme)].name
                                        : std::string(dtype_name(t.dtype));
    bytes += t.stored_bytes();
    table.add({printable(t.name), std::string(name_of(info.kind)), dtype, t.shape.str(), std::to_string(t.stored_bytes())});
  }
  table.print(std::cout);
  std::cout << model.tensors.size() << " tensors, " << model.parameters() << " parameters, "
            << human_bytes(static_cast<double>(bytes)) << " (" << model.format
            << (model.architecture.empty() ? "" : ", " + model.architecture) << ", "
            << model.companions.size() << " companion files)\n";
  for (const auto& [name, why] : model.dropped) std::cout << "left out: " << printable(name) << ": " << why << "\n";
}

void LoadCommand::list_inputs(Tool& tool) const {
  if (tool.options.json) {
    Json out = Json::array();
    for (const InputKind& k : input_kinds()) out.push_back({{"kind", k.name}, {"verdict", k.verdict}, {"note", k.note}});
    std::cout << out.dump(2) << "\n";
    return;
  }
  Table table({"kind", "", "note"}, {false, false, false});
  for (const InputKind& k : input_kinds()) table.add({std::string(k.name), std::string(k.verdict), std::string(k.note)});
  table.print(std::cout);
}

}  // namespace qp
