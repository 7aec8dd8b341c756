#include "cmd/qexport/export.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "cmd/tool/input.h"
#include "cmd/tool/table.h"
#include "formats/hf/folders.h"
#include "formats/hf/prepare.h"
#include "formats/hf/writer.h"
#include "lib/base/file.h"
#include "lib/pipe/handover.h"

namespace qp {
namespace fs = std::filesystem;
namespace {

Json ledger_json(const ExportPlan& plan) {
  Json out = Json::array();
  for (const LedgerEntry& e : plan.ledger) {
    out.push_back({{"source", e.source}, {"fate", e.fate}, {"detail", e.detail}});
  }
  return out;
}

std::string text_of(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

// `path` itself, or where it is when `directory` still has another name.
std::string moved_into(const std::string& path, const std::string& directory,
                       const std::string& unfinished) {
  std::error_code ec;
  fs::path inner =
      fs::weakly_canonical(path, ec).lexically_relative(fs::weakly_canonical(directory, ec));
  return inner.empty() || *inner.begin() == ".." || inner == "."
             ? path
             : (fs::path(unfinished) / inner).string();
}

}  // namespace

void ExportCommand::declare(CLI::App& app) {
  app.add_option("INPUT", input_, "qmap, handle or checkpoint; '-' or nothing: standard input");
  auto out = "Output";
  app.add_option("-f,--format", format_, "Checkpoint format; --list-formats shows all")
      ->type_name("NAME")
      ->group(out);
  app.add_option("-o,--output", output_, "Directory to write; for gguf and mmproj a file")
      ->type_name("DIR")
      ->group(out);
  app.add_option("--shard-size", shard_size_, "Largest size of one file (gguf, mmproj: one file)")
      ->type_name("SIZE")
      ->default_str("5GB")
      ->group(out);
  app.add_option("--group-size", group_size_, "Repeat scales to groups of N, exact (integer codes)")
      ->type_name("N")
      ->check(CLI::Range(1, 1 << 20))
      ->group(out);
  app.add_option("--num-bits", num_bits_,
                 "Widen integer codes to N bits, exact (gptq, awq, auto-round)")
      ->type_name("N")
      ->check(CLI::Range(2, 8))
      ->group(out);
  app.add_option("--pre", pre_tokenizer_, "llama.cpp's pre-tokenizer, where it is not known (gguf)")
      ->type_name("NAME")
      ->group(out);
  app.add_option("--name", model_name_, "The model's name, in the metadata (gguf, mmproj)")
      ->type_name("TEXT")
      ->group(out);
  app.add_option("--ledger", ledger_, "Write what became of every tensor and file, as JSON")
      ->type_name("FILE")
      ->group(out);
  app.add_flag("--force", force_, "Replace an existing output")->group(out);
  app.add_flag("--dry-run", dry_run_, "Print what would be written")->group(out);
  app.add_flag("--no-verify", no_verify_, "Do not read the result back before it gets its name")
      ->group(out);
  app.add_flag("--no-sync", no_sync_, "Do not wait for the disk (fsync)")->group(out);
  app.add_flag("--list-formats", list_formats_, "Print the formats")->group(out);
  app.add_flag("--no-check", no_check_, "Do not compare checksums while reading")->group("Input");
  target_.declare(app);
}

void ExportCommand::list_formats(Tool& tool) const {
  if (tool.options.json) {
    Json out = Json::array();
    for (const Format& f : formats()) out.push_back({{"name", f.name}, {"summary", f.summary}});
    std::cout << out.dump(2) << "\n";
    return;
  }
  for (const Format& f : formats()) {
    if (f.plan == nullptr) continue;
    std::cout << f.name;
    if (!tool.options.quiet)
      std::cout << std::string(f.name.size() < 22 ? 22 - f.name.size() : 1, ' ') << f.summary;
    std::cout << "\n";
  }
}

int ExportCommand::run(Tool& tool) {
  if (list_formats_) {
    list_formats(tool);
    return 0;
  }
  target_.check_arguments();
  std::vector<std::string_view> known;
  for (const Format& f : formats()) {
    if (f.plan != nullptr) known.push_back(f.name);
  }
  if (format_.empty())
    throw usage_error("no format").hint("give -f NAME; --list-formats shows all");
  const Format* format = find_format(format_);
  if (format == nullptr || format->plan == nullptr) {
    std::string mean = did_you_mean(format_, known);
    throw usage_error("unknown format '" + printable(format_) + "'")
        .hint(mean + (mean.empty() ? "" : " ") + "qexport --list-formats shows all");
  }
  if (group_size_ != 0 && !format->groups)
    throw usage_error("--group-size does nothing for -f " + format_)
        .hint("it is for compressed-tensors, gptq, awq and auto-round");
  if (num_bits_ != 0 && !format->widens)
    throw usage_error("--num-bits does nothing for -f " + format_)
        .hint("it is for gptq, awq and auto-round");
  bool to_stdout = format->to_stdout && stdout_kind() != StdoutKind::nowhere;
  if (output_.empty() && !dry_run_ && !to_stdout) {
    throw usage_error("nowhere to write the result")
        .hint(format->to_stdout ? "give -o FILE, or direct standard output into a file"
                                : "give -o DIR");
  }
  uint64_t shard = shard_size_.empty() ? 0 : parse_size(shard_size_, "--shard-size");
  if (!shard_size_.empty() && shard < 1000)
    throw usage_error("--shard-size " + shard_size_ + " is too small");

  LoadOptions load;
  load.warn = [&](const std::string& text) { tool.warn(text); };
  OpenedInput in = open_input(input_, load);
  in.store->set_check(!no_check_);
  ExportOptions options;
  options.target = target_.name();
  options.num_bits = num_bits_;
  options.pre_tokenizer = pre_tokenizer_;
  options.model_name = model_name_;
  options.warn = load.warn;
  ExportPlan plan;
  try {
    auto other = prepared(*in.store, *format);
    const Store& store = other ? *other : *in.store;
    FittedPlan fitted = target_.fit(store, *format, options, {.group_size = group_size_}, tool);
    plan = std::move(fitted.plan);
    if (other) {
      auto there = other->model().index();
      for (const Tensor& t : in.store->model().tensors) {
        if (!there.contains(t.name)) plan.ledger.push_back({t.name, "split", "experts apart"});
      }
    }
    if (fitted.store) other = std::move(fitted.store);
    if (other) in.store = std::move(other);
  } catch (Error& e) {
    throw std::move(e).file(in.store->label());
  }
  if (dry_run_) {
    if (tool.options.json) {
      Json out = {{"tensors", Json::array()}, {"ledger", ledger_json(plan)}};
      for (const OutTensor& t : plan.tensors) {
        out["tensors"].push_back(
            {{"name", t.name}, {"dtype", dtype_name(t.dtype)}, {"shape", t.shape.dims()}});
      }
      std::cout << text_of(out);
      return 0;
    }
    Table table({"tensor", "dtype", "shape", "bytes"}, {false, false, false, true});
    for (const OutTensor& t : plan.tensors) {
      table.add({printable(t.name), std::string(dtype_name(t.dtype)), t.shape.str(),
                 std::to_string(byte_size(t.dtype, t.shape).value_or(0))});
    }
    table.print(std::cout);
    return 0;
  }
  WriteOptions write;
  write.directory = output_;
  if (shard != 0 || plan.write) write.shard_bytes = shard;
  write.force = force_;
  write.sync = !no_sync_;
  write.verify = !no_verify_;
  write.inputs = in.paths;
  write.before_commit = [&](const std::string& unfinished) {
    if (!ledger_.empty()) {
      write_file_atomically(moved_into(ledger_, output_, unfinished), text_of(ledger_json(plan)));
    }
  };
  WriteResult result = plan.write ? plan.write(write, tool.progress())
                                  : write_checkpoint(*in.store, plan, write, tool.progress());
  tool.say(human_bytes(static_cast<double>(result.bytes)) + " in " + std::to_string(result.shards) +
               (result.shards == 1 ? " file" : " shards"),
           1);
  if (output_.empty()) return 0;
  if (stdout_kind() == StdoutKind::pipe && !tool.options.json) {
    hand_over_directory(result.first.empty() ? output_ : result.first);
  } else if (tool.options.json) {
    std::cout << text_of({{"output", output_},
                          {"bytes", result.bytes},
                          {"shards", result.shards},
                          {"write_seconds", result.write_seconds},
                          {"verify_seconds", result.verify_seconds},
                          {"ledger", ledger_json(plan)}});
  }
  return 0;
}

}  // namespace qp
