// The loader factory: what a path can be, in order of precedence. First row that fits decides.
// Among weights of one directory the order is SGLang's (model_loader/loader.py,
// _prepare_weights: safetensors, filtered by their index, then bin, then pt; a GGUF file alone);
// the quantization method is looked for where its model_config.py looks, in the same order.
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "formats/diffusers.h"
#include "formats/format.h"
#include "formats/gguf.h"
#include "formats/hf/directory.h"
#include "formats/hf/partial_dir.h"
#include "formats/hf/quant_method.h"
#include "formats/hf/weights.h"
#include "formats/input_kinds.h"
#include "lib/base/error.h"
#include "lib/base/file.h"

namespace qp {
namespace {

namespace fs = std::filesystem;
using Options = LoadOptions;

// What is known before anything is parsed.
struct Probe {
  std::string path;
  bool exists = false, is_directory = false;
  bool unfinished = false;  // holds the marker of PartialDirectory
  std::string head;  // first bytes of a file
  Directory dir;

  bool file_ends(std::string_view suffix) const {
    return exists && !is_directory && path.ends_with(suffix);
  }
  bool file_starts(std::string_view magic) const {
    return exists && !is_directory && std::string_view(head).starts_with(magic);
  }
  bool has(std::string_view pattern) const { return is_directory && !dir.glob(pattern).empty(); }
};

struct Row {
  InputKind kind;
  bool (*fits)(const Probe&);
  Model (*load)(const Probe&, const Options&);
};

// ---- what rows do

Model start(const Probe& p, std::string_view format) {
  Model m;
  m.format = format;
  (void)p;
  return m;
}

Model finish_directory(const Probe& p, Model m, const Options& options) {
  add_companions(p.dir, m);
  finish_model(m, p.path, options);
  return m;
}

Model load_files(const Probe& p, const std::vector<std::string>& names, AddFile add,
                 std::string_view format, const Options& options) {
  Model m = start(p, format);
  for (const std::string& name : names) add(p.dir.full(name), nullptr, options, m);
  return finish_directory(p, std::move(m), options);
}

// Files of a pattern without those that are no model weights, as SGLang filters them.
std::vector<std::string> model_files(const Probe& p, std::string_view pattern) {
  static constexpr std::array<std::string_view, 6> kNotWeights = {
      "training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*"};
  std::vector<std::string> files = p.is_directory ? p.dir.glob(pattern) : std::vector<std::string>();
  std::erase_if(files, [](const std::string& f) {
    return std::ranges::any_of(kNotWeights, [&](std::string_view n) { return glob_match(n, f); });
  });
  return files;
}

std::vector<std::string> safetensors_files(const Probe& p) {
  return p.is_directory ? unindexed_safetensors(p.dir) : std::vector<std::string>();
}

Model load_single(const Probe& p, AddFile add, std::string_view format, const Options& options) {
  Model m = start(p, format);
  add(fs::canonical(p.path), nullptr, options, m);
  finish_model(m, p.path, options);
  return m;
}

Model load_gguf(const std::string& path, const Options& options) {
  return read_gguf(fs::canonical(path), options);
}

std::string first_gguf(const Probe& p) {
  auto files = p.dir.glob("*.gguf");
  // A split model is given by its first part; vision projectors are not the model.
  std::erase_if(files, [](const std::string& f) { return f.find("mmproj") != std::string::npos; });
  std::erase_if(files, [](const std::string& f) {
    return glob_match("*-of-*.gguf", f) && !glob_match("*-00001-of-*.gguf", f);
  });
  if (files.size() != 1) {
    throw input_error("holds " + std::to_string(files.size()) + " GGUF models (expected one)")
        .file(p.path)
        .hint("name the file to load");
  }
  return p.dir.full(files.front());
}

[[noreturn]] void refuse(const Probe& p, const std::string& what, const std::string& hint) {
  throw input_error(what).file(p.path).hint(hint);
}

bool looks_like_hub_name(const std::string& path) {
  auto slash = path.find('/');
  return slash != std::string::npos && slash > 0 && path.find('/', slash + 1) == std::string::npos &&
         path.front() != '.' && path.front() != '~' && !path.ends_with('/') &&
         !fs::exists(path.substr(0, slash));  // a mistyped file of a directory that is here
}

// ---- the table

// clang-format off
const Row kRows[] = {
  {{"hub name", "refused", "organisation/model that is no local path: there is no network"},
   [](const Probe& p) { return !p.exists && looks_like_hub_name(p.path); },
   [](const Probe& p, const Options&) -> Model {
     throw Error(ErrorKind::system, "does not exist here; it looks like a hub name").file(p.path)
         .hint("qpipe has no network: download the model and give its directory"); }},
  {{"nothing", "refused", "no such file or directory"},
   [](const Probe& p) { return !p.exists; },
   [](const Probe& p, const Options&) -> Model { throw system_error("cannot open", ENOENT).file(p.path); }},

  // Single files, by content before name.
  {{"GGUF file", "read", "one .gguf"},
   [](const Probe& p) { return p.file_starts("GGUF") && !glob_match("*-of-*.gguf", p.path); },
   [](const Probe& p, const Options& o) { return load_gguf(p.path, o); }},
  {{"split GGUF", "read", "the first of PREFIX-00001-of-0000N.gguf; the others are found"},
   [](const Probe& p) { return p.file_starts("GGUF"); },
   [](const Probe& p, const Options& o) { return load_gguf(p.path, o); }},
  {{"GGML file before GGUF", "refused", "ggml, ggmf, ggjt: llama.cpp itself no longer reads them"},
   [](const Probe& p) { return p.file_starts("lmgg") || p.file_starts("fmgg") || p.file_starts("tjgg"); },
   [](const Probe& p, const Options&) -> Model { refuse(p, "is a GGML file from before GGUF", "convert it with an old llama.cpp, or fetch a GGUF"); }},
  {{"TorchScript or zip without data.pkl", "refused", "a zip file that torch.save did not write"},
   [](const Probe& p) { return p.file_starts("PK") && (p.file_ends(".zip") || p.file_ends(".npz") || p.file_ends(".nemo")); },
   [](const Probe& p, const Options&) -> Model { refuse(p, "is a zip archive, not a checkpoint", "unpack it and give the directory"); }},
  {{"PyTorch file", "read", "one .bin, .pt or .pth; zip or legacy; allow-list pickle, no code runs"},
   [](const Probe& p) { return p.file_starts("PK") || p.file_starts("\x80\x02") || p.file_ends(".bin") || p.file_ends(".pt") || p.file_ends(".pth") || p.file_ends(".ckpt"); },
   [](const Probe& p, const Options& o) { return load_single(p, add_pytorch, "pytorch", o); }},
  {{"HDF5 / Keras file", "refused", "TensorFlow weights (.h5)"},
   [](const Probe& p) { return p.file_starts("\x89HDF"); },
   [](const Probe& p, const Options&) -> Model { refuse(p, "is an HDF5 file (TensorFlow weights)", "fetch the safetensors version of the model"); }},
  {{"ONNX file", "refused", "a graph, not a checkpoint"},
   [](const Probe& p) { return p.file_ends(".onnx"); },
   [](const Probe& p, const Options&) -> Model { refuse(p, "is an ONNX graph, not a checkpoint", "give the checkpoint it was made from"); }},
  {{"archive", "refused", "tar, gzip, zstd, xz, 7z"},
   [](const Probe& p) { return p.file_starts("\x1f\x8b") || p.file_starts("\x28\xb5\x2f\xfd") || p.file_starts("\xfd" "7zXZ") || p.file_starts("7z") || p.file_ends(".tar"); },
   [](const Probe& p, const Options&) -> Model { refuse(p, "is an archive or a compressed file", "unpack it first"); }},
  {{"JSON file", "refused", "config.json or an index instead of the directory"},
   [](const Probe& p) { return p.file_ends(".json"); },
   [](const Probe& p, const Options&) -> Model { refuse(p, "is a JSON file", "give the directory it is in"); }},
  {{"safetensors file", "read", "one .safetensors (or Git LFS pointer, refused with its remedy)"},
   [](const Probe& p) { return p.exists && !p.is_directory; },
   [](const Probe& p, const Options& o) { return load_single(p, add_safetensors, "safetensors", o); }},

  // Directories that are something else than one model.
  {{"LoRA adapter", "refused", "adapter_config.json without base weights"},
   [](const Probe& p) { return p.dir.has("adapter_config.json") && !p.dir.has("config.json"); },
   [](const Probe& p, const Options&) -> Model { refuse(p, "is a LoRA adapter, not a model", "merge it into its base model first"); }},
  {{"unfinished output", "refused", "DIR.partial of an interrupted qexport"},
   [](const Probe& p) { return p.unfinished; },
   [](const Probe& p, const Options&) -> Model { refuse(p, "is the unfinished output of qexport", "run qexport again"); }},
  {{"diffusers pipeline", "read", "model_index.json: its transformers, and everything else as it is"},
   [](const Probe& p) { return p.dir.has("model_index.json"); },
   [](const Probe& p, const Options& o) { return load_pipeline(p.dir, o); }},
  {{"distributed checkpoint", "refused", ".metadata with *.distcp"},
   [](const Probe& p) { return p.has("*.distcp"); },
   [](const Probe& p, const Options&) -> Model { refuse(p, "is a PyTorch distributed checkpoint", "consolidate it first (torch.distributed.checkpoint.format_utils)"); }},

  // Weights of a directory, in SGLang's order.
  {{"ModelSlim directory", "read", "quant_model_weights*.safetensors with quant_model_description.json, over model.safetensors beside them"},
   [](const Probe& p) { return p.dir.has("quant_model_description.json") && p.has("quant_model_weight*.safetensors"); },
   [](const Probe& p, const Options& o) {
     auto index = p.dir.glob("quant_model_weight*.safetensors.index.json");
     if (index.empty()) return load_files(p, p.dir.glob("quant_model_weight*.safetensors"), add_safetensors, "safetensors", o);
     Model m = start(p, "safetensors");
     add_indexed(p.dir, index.front(), add_safetensors, o, m);
     return finish_directory(p, std::move(m), o); }},
  {{"sharded safetensors", "read", "model.safetensors.index.json decides which files and tensors count"},
   [](const Probe& p) { return !weights_index(p.dir).empty(); },
   [](const Probe& p, const Options& o) {
     Model m = start(p, "safetensors");
     add_indexed(p.dir, weights_index(p.dir), add_safetensors, o, m);
     return finish_directory(p, std::move(m), o); }},
  {{"safetensors directory", "read", "model.safetensors, or shards without an index; over .bin, .pt and .gguf beside them"},
   [](const Probe& p) { return !safetensors_files(p).empty(); },
   [](const Probe& p, const Options& o) { return load_files(p, safetensors_files(p), add_safetensors, "safetensors", o); }},
  {{"sharded PyTorch", "read", "pytorch_model.bin.index.json"},
   [](const Probe& p) { return p.dir.has("pytorch_model.bin.index.json"); },
   [](const Probe& p, const Options& o) {
     Model m = start(p, "pytorch");
     add_indexed(p.dir, "pytorch_model.bin.index.json", add_pytorch, o, m);
     return finish_directory(p, std::move(m), o); }},
  {{"PyTorch .bin directory", "read", "*.bin but training_args.bin and optimizer state"},
   [](const Probe& p) { return !model_files(p, "*.bin").empty(); },
   [](const Probe& p, const Options& o) { return load_files(p, model_files(p, "*.bin"), add_pytorch, "pytorch", o); }},
  {{"PyTorch .pt directory", "read", "*.pt but optimizer state"},
   [](const Probe& p) { return !model_files(p, "*.pt").empty(); },
   [](const Probe& p, const Options& o) { return load_files(p, model_files(p, "*.pt"), add_pytorch, "pytorch", o); }},
  {{"original .pth directory, several parts", "refused", "consolidated.00.pth, .01.pth: tensor-parallel slices"},
   [](const Probe& p) { return p.has("consolidated.01.pth"); },
   [](const Probe& p, const Options&) -> Model { refuse(p, "holds tensor-parallel slices (consolidated.NN.pth)", "fetch the HF version of the model"); }},
  {{"PyTorch .pth directory", "read", "one consolidated.00.pth or other *.pth"},
   [](const Probe& p) { return !model_files(p, "*.pth").empty(); },
   [](const Probe& p, const Options& o) { return load_files(p, model_files(p, "*.pth"), add_pytorch, "pytorch", o); }},
  {{"GGUF directory", "read", "one GGUF model, split or not, and nothing of the above"},
   [](const Probe& p) { return p.has("*.gguf"); },
   [](const Probe& p, const Options& o) { return load_gguf(first_gguf(p), o); }},
  {{"TensorFlow, Flax or ONNX directory", "refused", "tf_model.h5, flax_model.msgpack, *.onnx alone"},
   [](const Probe& p) { return p.has("*.h5") || p.has("*.msgpack") || p.has("*.onnx"); },
   [](const Probe& p, const Options&) -> Model { refuse(p, "holds only TensorFlow, Flax or ONNX weights", "fetch the safetensors version of the model"); }},
  {{"saved qmap in a directory", "refused", "*.qmap: name the file"},
   [](const Probe& p) { return p.has("*.qmap"); },
   [](const Probe& p, const Options&) -> Model { refuse(p, "is a directory of qmaps", "name the file to load"); }},
  {{"config without weights", "refused", "config.json alone"},
   [](const Probe& p) { return p.dir.has("config.json"); },
   [](const Probe& p, const Options&) -> Model { refuse(p, "has a config.json but no weights", "the download is incomplete; fetch it again"); }},
  {{"anything else", "refused", "no known checkpoint"},
   [](const Probe&) { return true; },
   [](const Probe& p, const Options&) -> Model { refuse(p, "holds no checkpoint that qpipe knows", "expected safetensors, PyTorch .bin/.pt/.pth, GGUF or a qmap"); }},
};
// clang-format on

Probe probe(const std::string& path, const LoadOptions& options) {
  Probe p;
  p.path = path;
  struct stat st {};
  p.exists = stat(path.c_str(), &st) == 0;
  if (!p.exists && errno != ENOENT && errno != ENOTDIR) throw system_error("cannot open", errno).file(path);
  p.is_directory = p.exists && S_ISDIR(st.st_mode);
  if (p.is_directory) {
    p.dir = read_directory(path);
    p.unfinished = !options.unfinished && fs::exists(path + "/" + kPartialMarker);
  } else if (p.exists) {
    auto file = MappedFile::open(path);
    auto bytes = file->bytes().subspan(0, std::min<size_t>(file->size(), 16));
    p.head.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return p;
}

}  // namespace

std::vector<InputKind> input_kinds() {
  std::vector<InputKind> out = {
      {"qmap", "read", "a file that qpipe wrote"},
      {"qmap handle", "read", "a line qmap:PATH ID in a pipe, FIFO or file"},
      {"qmap stream", "read", "a qmap's own bytes through a pipe (--stream)"}};
  for (const Row& row : kRows) out.push_back(row.kind);
  for (const InputKind& kind : quantized_kinds()) out.push_back(kind);
  return out;
}

Model load_checkpoint(const std::string& path, const LoadOptions& options) {
  Probe p = probe(path, options);
  for (const Row& row : kRows) {
    if (row.fits(p)) return row.load(p, options);
  }
  throw defect_error("the loader table has no last row");
}

}  // namespace qp
