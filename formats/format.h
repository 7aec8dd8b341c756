// Checkpoint families: how a directory or file becomes a Model, and a Model becomes one again.
// One family = one file formats/NAME.cc (a folder when it is big) and one line in formats.def.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <regex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lib/qmap/model.h"

namespace qp {

class Store;
class MappedFile;
class Progress;
struct WriteOptions;
struct WriteResult;
struct RawCheckpoint;
struct Finding;

struct LoadOptions {
  bool dequantize = false;          // mark quantized tensors decode-on-read
  std::optional<DType> dtype;       // for kept float tensors, and what dequantized ones become
  bool unfinished = false;          // open DIR.partial: the self-check's own reading
  bool list_only = false;           // name and shapes only: unreadable quantization is a warning
  std::function<void(std::string)> warn = [](std::string) {};
};

// What qexport will write, decided before any byte of a weight is read.
struct OutTensor {
  std::string name;
  DType dtype;
  Shape shape;
  const Part* part = nullptr;       // source: a part's rows
  const Tensor* values = nullptr;   // or a tensor's values; neither when `value` has the bytes
  std::vector<std::byte> value;     // small computed tensors (weight_shape ..)
  // The same made when it is written: many of them need no memory (g_idx of every expert).
  std::function<std::vector<std::byte>()> make_value;
  // Steps from the part's rows to the output, each optional, in this order:
  // 1. floats of another dtype become `dtype`; a value it cannot hold exactly stops the export
  //    (unless `round`: then to nearest even, where the family's own writer rounds too);
  bool round = false;
  // 2. rows become other rows, relaid_row_bytes each (codes widened, scales repeated ..);
  std::function<void(const std::byte* rows, uint64_t first, uint64_t count, std::byte* out)> relay;
  uint64_t relaid_row_bytes = 0;
  // 3. rows are arranged. Null: they are written one after the other.
  const Layout* layout = nullptr;
  LayoutArgs layout_args;
};

struct LedgerEntry {
  std::string source;    // tensor or companion file of the input
  std::string fate;      // "quantized", "kept", "renamed", "merged", "padded", "dropped"
  std::string detail;    // names in the output, or the reason
};

// A file that the exporter wrote itself, beside config.json.
struct OutFile {
  std::string name, text;
};

// A part of the checkpoint in a folder of its own: the tensors FOLDER/NAME, stored there as NAME.
struct OutFolder {
  std::string name, weights_name;
  std::vector<std::pair<std::string, std::string>> metadata;
};

struct ExportPlan {
  std::vector<OutTensor> tensors;             // in the order of writing
  std::string config;                         // text of config.json ("" when there is none)
  std::vector<OutFile> files;                 // hf_quant_config.json, quantize_config.json ..
  std::string weights_name = "model";         // NAME.safetensors, NAME-00001-of-00002.safetensors
  // Of every shard's header, beside "format": "pt".
  std::vector<std::pair<std::string, std::string>> metadata;
  std::vector<const Companion*> companions;   // copied byte for byte
  std::vector<LedgerEntry> ledger;
  std::vector<OutFolder> folders;             // none: all tensors are in the directory itself
  std::vector<std::shared_ptr<const Store>> views;  // whose parts the tensors of folders point at
  // Not null: the result is a file, written by this instead; `tensors` are then for people.
  // WriteOptions::directory is its name, "" standard output.
  std::function<WriteResult(const WriteOptions&, Progress&)> write;
};

struct ExportOptions {
  std::string target;               // engine whose rules hold ("" = none)
  int num_bits = 0;                 // integer codes widened to this many bits, exact; 0: as they are
  // Of a GGUF: llama.cpp's name of the pre-tokenizer, and the model's name; "": found out.
  std::string pre_tokenizer, model_name;
  std::function<void(std::string)> warn = [](std::string) {};
};

struct Format {
  std::string_view name;      // as -f spells it
  std::string_view summary;   // for --list-formats
  // The saved checkpoint in this family's names and layouts. Null: cannot be written.
  ExportPlan (*plan)(const Store&, const ExportOptions&);
  // config.json quant_method values this family reads, separated by spaces ("" = unquantized).
  std::string_view quant_method;
  // Regroups raw tensors, as stored, into the canonical form. Null: cannot be read.
  void (*adopt)(Model&, const Json& quantization_config, const LoadOptions&);
  // Holds the stored layout against the quantization config (qverify). Null: nothing to check.
  void (*check)(const RawCheckpoint&, const Json& quantization_config, std::vector<Finding>&) = nullptr;
  bool groups = false;  // holds integer codes in groups of any size (qexport --group-size)
  bool widens = false;  // the writer honours ExportOptions::num_bits
  bool stacks = false;      // quantized stacks of experts are written as they are
  // Engines that load this family know GPT-2's Conv1D, quantized as any linear, [out, in].
  bool conv1d = false;
  std::string_view target = {};  // the engine that the writer has rules of its own for
  bool to_stdout = false;  // one file, which may go to standard output
};

std::span<const Format> formats();
const Format* find_format(std::string_view name);
// The family that reads a quant_method (lower case); null: none.
const Format* format_reading(std::string_view quant_method);

// Opens whatever `path` is; the table of kinds is in loader.cc. Errors: input, system.
Model load_checkpoint(const std::string& path, const LoadOptions& options);

}  // namespace qp
