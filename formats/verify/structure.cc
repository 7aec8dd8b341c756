#include "formats/verify/structure.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <set>

#include "formats/diffusers.h"
#include "formats/format.h"
#include "formats/hf/directory.h"
#include "formats/hf/quant_method.h"
#include "formats/verify/raw.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/model/modules.h"

namespace qp {
namespace {

constexpr uint64_t kMaxJson = uint64_t{1} << 30;

constexpr auto kRules = std::to_array<StructureRule>({
    {"load", Stage::load, "the checkpoint can be opened"},
    {"pipeline", Stage::stored, "model_index.json parses and its components are there"},
    {"config", Stage::stored, "config.json is there and parses"},
    {"index", Stage::stored, "the index parses and names files of its directory"},
    {"missing-shard", Stage::stored, "every shard is there"},
    {"shard", Stage::stored, "every shard's header is sound"},
    {"missing-tensor", Stage::stored, "every tensor of the index is in its shard"},
    {"stray-tensor", Stage::stored, "every tensor of a shard is in the index"},
    {"duplicate-tensor", Stage::stored, "no tensor is stored twice"},
    {"stray-shard", Stage::stored, "every shard is in the index"},
    {"total-size", Stage::stored, "the index knows the size of the tensors"},
    {"metadata-format", Stage::stored, "shards carry the metadata that readers ask for"},
    {"quantization-config", Stage::stored, "the quantization config parses and matches modules"},
    {"not-quantized", Stage::stored, "every targeted module is quantized"},
    {"ignored-quantized", Stage::stored, "no ignored module is quantized"},
    {"untargeted-quantized", Stage::stored, "every quantized module is targeted"},
    {"undeclared-quantization", Stage::stored, "quantized tensors are declared in the config"},
    {"orphan-scale", Stage::stored, "every scale has its weight"},
    {"leftover-weight", Stage::stored, "no weight is stored beside its packed form"},
    {"weight-layout", Stage::stored, "weights have the dtype of their scheme"},
    {"scale-layout", Stage::stored, "scales have the dtype and shape of their scheme"},
    {"zero-point-layout", Stage::stored, "zero points are stored exactly where the scheme has them"},
    {"global-scale-layout", Stage::stored, "second-stage scales are there"},
    {"input-scale-layout", Stage::stored, "activation scales are there where they are static"},
    {"vocab-size", Stage::promises, "embedding and head fit vocab_size and hidden_size"},
    {"layer-count", Stage::promises, "the layers that num_hidden_layers promises are there"},
    {"missing-module", Stage::promises, "every layer has the modules of its like"},
    {"module-shape", Stage::promises, "projections fit the config, and each other"},
    {"expert-count", Stage::promises, "every expert is there"},
    {"dtype", Stage::promises, "the config's dtype is that of the weights"},
    {"tied-head", Stage::promises, "there is a head, or the embedding is tied to it"},
    {"companion", Stage::companions, "companion files parse"},
    {"tokenizer", Stage::companions, "the tokenizer is there"},
    {"generation-config", Stage::companions, "generation_config.json is there"},
    {"architecture", Stage::gguf, "the architecture is one whose keys and tensors are known"},
    {"missing-key", Stage::gguf, "the metadata keys that llama.cpp reads are there"},
    {"key-type", Stage::gguf, "metadata keys have the types that llama.cpp insists on"},
    {"key-value", Stage::gguf, "metadata values are in range and fit each other"},
    {"alignment", Stage::gguf, "the alignment is a multiple of 8"},
    {"file-type", Stage::gguf, "a quantized file says its file type and quantization version"},
    {"tokenizer-kind", Stage::gguf, "llama.cpp knows the tokenizer's kind"},
    {"token-list", Stage::gguf, "tokens, their scores, types and merges fit each other"},
    {"token-id", Stage::gguf, "special tokens are in the vocabulary"},
    {"vocabulary", Stage::gguf, "embedding and head have a row for each token"},
    {"block-count", Stage::gguf, "the layers that block_count promises are there"},
    {"absent-tensor", Stage::gguf, "every tensor that llama.cpp asks for is there"},
    {"unknown-tensor", Stage::gguf, "there is no tensor that llama.cpp does not expect"},
    {"tensor-shape", Stage::gguf, "tensors have the shapes of the metadata"},
    {"tensor-type", Stage::gguf, "norms and biases are F32"},
});

void check_json_files(const Directory& d, std::vector<Finding>& out) {
  for (const std::string& name : d.glob("*.json")) {
    if (name == "config.json" || name.ends_with(".index.json")) continue;  // read on their own
    std::string text = read_text_file(d.full(name), kMaxJson);
    if (!Json::accept(text)) {
      out.push_back({Severity::error, "companion", "", printable(name) + " is no valid JSON",
                     text.starts_with("version https://git-lfs") ? "it is a Git LFS pointer: run git lfs pull"
                                                                 : "copy it again from the base model"});
    }
  }
}

void check_companions(const Directory& d, std::vector<Finding>& out) {
  auto any = [&](std::initializer_list<const char*> names) {
    return std::ranges::any_of(names, [&](const char* n) { return d.has(n); });
  };
  if (!any({"tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json", "vocab.txt", "spiece.model",
            "sentencepiece.bpe.model", "tiktoken.model", "qwen.tiktoken"})) {
    out.push_back({Severity::note, "tokenizer", "", "there is no tokenizer (tokenizer.json, tokenizer.model ..)",
                   "copy it from the base model; engines need it to serve text"});
  }
  if (!d.has("generation_config.json")) {
    out.push_back({Severity::note, "generation-config", "", "there is no generation_config.json",
                   "engines fall back to greedy defaults; copy it from the base model if it has one"});
  }
  check_json_files(d, out);
}

// Tensors that only a quantized checkpoint has, in one that declares no quantization.
void check_undeclared(const RawCheckpoint& raw, std::vector<Finding>& out) {
  for (const RawTensor& t : raw.tensors) {
    auto dot = t.name.rfind('.');
    std::string_view suffix = std::string_view(t.name).substr(dot == std::string::npos ? 0 : dot + 1);
    static constexpr std::array<std::string_view, 8> kOnlyQuantized = {
        "weight_scale", "weight_scale_inv", "weight_packed", "qweight", "qzeros", "weight_zero_point", "_weight_qdata",
        "_weight_scale"};
    bool small = t.dtype == DType::f8_e4m3 || t.dtype == DType::i8 || t.dtype == DType::f8_e5m2;
    bool codes = suffix == "weight" && t.shape.rank() >= 2 && small;
    if (!codes && std::ranges::find(kOnlyQuantized, suffix) == kOnlyQuantized.end()) continue;
    out.push_back({Severity::error, "undeclared-quantization", t.name,
                   "is " + std::string(dtype_name(t.dtype)) + " of a quantized model, but config.json declares no quantization",
                   "restore quantization_config"});
  }
}

// Parts of a quantized module whose codes are not there, in any family's names. Readers that look for
// codes first pass over them, and the module is silently gone.
void check_orphans(const RawCheckpoint& raw, std::vector<Finding>& out) {
  static constexpr std::array<std::string_view, 14> kParts = {
      "weight_scale", "weight_scale_inv", "weight_scale_2", "weight_global_scale", "weight_zero_point", "weight_offset",
      "weight_shape", "scales", "qzeros", "g_idx", "SCB", "_weight_scale", "_weight_zero_point", "absmax"};
  std::set<std::string_view> names, reported;
  for (const RawTensor& t : raw.tensors) names.insert(t.name);
  for (const Finding& f : out) {
    if (f.rule == "orphan-scale") reported.insert(f.tensor);
  }
  std::vector<Finding> found;
  for (const RawTensor& t : raw.tensors) {
    auto dot = t.name.rfind('.');
    if (dot == std::string::npos || reported.contains(t.name)) continue;
    if (std::ranges::find(kParts, std::string_view(t.name).substr(dot + 1)) == kParts.end()) continue;
    std::string module = t.name.substr(0, dot);
    bool has = names.contains(module);  // bitsandbytes: NAME.weight and NAME.weight.absmax
    for (const char* codes : {".weight", ".weight_packed", ".qweight", "._weight_qdata"}) has = has || names.contains(module + codes);
    if (has) continue;
    found.push_back({Severity::error, "orphan-scale", t.name, "there is no weight of this module", "the checkpoint is incomplete; fetch it again"});
  }
  std::ranges::move(found, std::back_inserter(out));
}

void check_quantization(const Directory& d, const RawCheckpoint& raw, std::vector<Finding>& out) {
  Model probe;
  probe.config = raw.config;
  DeclaredQuantization q = declared_quantization(probe, [](const Companion&) { return std::string("{}"); });
  bool elsewhere = d.has("hf_quant_config.json") || d.has("quant_model_description.json");
  if (q.method.empty() && elsewhere) return;
  if (q.method.empty()) {
    check_undeclared(raw, out);
    return;
  }
  const Format* f = format_reading(q.method);
  if (f != nullptr && f->check != nullptr) f->check(raw, q.config, out);
}

}  // namespace

std::span<const StructureRule> structure_rules() { return kRules; }

namespace {

// config.json, or null: what is wrong with it is found elsewhere.
Json config_of(const Directory& d) { return Json::parse(read_text_file(d.full("config.json"), kMaxJson), nullptr, false); }

bool has_safetensors(const Directory& d) {
  return !d.glob("*.safetensors").empty() || !weights_index(d).empty();
}

void check_stored(const Directory& d, std::vector<Finding>& out) {
  RawCheckpoint raw = read_raw(d.path, out);
  try {
    check_quantization(d, raw, out);
    check_orphans(raw, out);
  } catch (const Error& e) {
    if (e.kind() == ErrorKind::system || e.kind() == ErrorKind::defect) throw;
    out.push_back({Severity::error, "quantization-config", e.tensor(), e.reason(), e.hint()});
  }
}

// Every component as a directory of its own; the tokenizers of a pipeline are components, too.
void check_pipeline(const Directory& d, std::vector<Finding>& out) {
  Pipeline pipeline;
  try {
    pipeline = read_pipeline(d);
  } catch (const Error& e) {
    if (e.kind() == ErrorKind::system) throw;
    out.push_back({Severity::error, "pipeline", "", std::string(kModelIndex) + ": " + e.reason(), "copy it again from the base model"});
    return;
  }
  for (const PipelineComponent& c : pipeline.components) {
    if (!has_component(d, c)) {
      out.push_back({Severity::error, "pipeline", "", "model_index.json names " + c.folder + " (" + printable(c.type) + "), which is not there",
                     "copy the folder from the base pipeline"});
      continue;
    }
    Directory folder = read_directory(d.full(c.folder));
    std::vector<Finding> found;
    check_json_files(folder, found);
    if (has_safetensors(folder)) {
      check_stored(folder, found);
    } else if (c.transformer()) {
      found.push_back({Severity::error, "pipeline", "", "there are no safetensors", "copy them from the base pipeline"});
    }
    for (Finding& f : found) {
      f.what = c.folder + ": " + f.what;
      if (!f.tensor.empty()) f.tensor = c.folder + "/" + f.tensor;
      out.push_back(std::move(f));
    }
  }
}

}  // namespace

DirectoryCheck check_directory(const std::string& path) {
  DirectoryCheck result;
  Directory d = read_directory(path);
  if (d.has(kModelIndex)) {
    result.stored = true;
    check_pipeline(d, result.findings);
    return result;
  }
  bool component = d.has("config.json") && is_diffusion_model(config_of(d));
  component ? check_json_files(d, result.findings) : check_companions(d, result.findings);
  result.stored = has_safetensors(d);
  if (result.stored) check_stored(d, result.findings);
  return result;
}

}  // namespace qp
