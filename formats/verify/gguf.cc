#include "formats/verify/gguf.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <memory>

#include "formats/container/gguf_shards.h"
#include "formats/verify/gguf_checks.h"
#include "lib/base/error.h"
#include "lib/base/file.h"

namespace qp {
namespace {

constexpr size_t kMaxLayers = 4096;  // of lists; llama.cpp takes 512

// llama.cpp maps the file: its tensors must begin where a vector may.
void check_alignment(GgufChecks& checks) {
  constexpr uint64_t kVector = 32;
  uint64_t start = 0;
  for (const GgufFile& shard : checks.shards)
    if (!shard.tensors.empty()) start = std::max(start, shard.tensors[0].offset % kVector);
  if (checks.meta.alignment % 8 == 0 && start == 0) return;
  checks
      .add(Severity::warning, "alignment", "",
           "general.alignment is " + std::to_string(checks.meta.alignment) +
               (start > 0 ? " (expected 32: tensors begin elsewhere than at a multiple of it)"
                          : " (expected a multiple of 8)"),
           "write it again with the alignment of 32 that all have")
      .loader(start > 0 ? "alignment" : "odd-alignment");
}

// "" where the checks of models do not apply.
std::string why_other(const GgufChecks& checks, bool as_model) {
  const GgufValue* type = checks.meta.find("general.type");
  if (!as_model && type != nullptr && type->type == GgufType::string) {
    std::string text(*checks.meta.string_at("general.type"));
    if (text != "model") return "is of type '" + printable(text) + "'";
  }
  size_t tensors = 0;
  for (const GgufFile& shard : checks.shards) tensors += shard.tensors.size();
  if (!as_model && tensors == 0) return "has no tensors";
  if (checks.rules == nullptr && !checks.arch.empty()) {
    return "is of architecture '" + printable(checks.arch) + "'";
  }
  return "";
}

void check_kind(GgufChecks& checks, bool as_model) {
  std::string other = why_other(checks, as_model);
  bool named = checks.meta.find("general.architecture") != nullptr;
  bool known = ggml::knows_architecture(checks.arch), tower = checks.arch == "clip";
  checks.loads_keys = checks.rules != nullptr || (as_model && known && !tower);
  if (!other.empty()) {
    GgufFinding& f = checks.add(Severity::note, "architecture", "",
                                other + ": only what all GGUFs share was checked");
    if (tower) f.loader("projector");
    if (!known) f.loader("unknown-architecture", printable(checks.arch));
    checks.rules = nullptr;
    checks.loads_keys = checks.loads_keys && as_model;
  } else if (!named) {
    checks.add_missing(Severity::error, "general.architecture",
                       "llama.cpp does not load the file without it (string)",
                       "unknown-architecture", "");
  }
}

}  // namespace

std::optional<uint64_t> GgufNumbers::find(const std::string& key, uint64_t layer) const {
  auto [it, fresh] = seen_.try_emplace(key);
  if (fresh) {
    const GgufValue* v = meta_->find(arch_ + "." + key);
    try {
      if (v != nullptr && v->count <= kMaxLayers) it->second = *meta_->ints_at(arch_ + "." + key);
    } catch (const Error&) {  // another type
    }
  }
  const std::vector<int64_t>& list = it->second;
  if (list.empty() || (list.size() > 1 && layer >= list.size())) return std::nullopt;
  int64_t n = list.size() == 1 ? list[0] : list[layer];
  return n < 0 ? std::nullopt : std::optional(static_cast<uint64_t>(n));
}

GgufChecks::GgufChecks(std::span<const GgufFile> files)
    : shards(files), meta(files.front()), numbers(files.front(), "") {
  const GgufValue* value = meta.find("general.architecture");
  if (value != nullptr && value->type == GgufType::string)
    arch = *meta.string_at("general.architecture");
  rules = ggml::find_loader_rules(arch);
  numbers = GgufNumbers(meta, arch);
}

GgufFinding& GgufChecks::add(Severity severity, const char* rule, std::string tensor,
                             std::string what, std::string hint) {
  GgufFinding f;
  static_cast<Finding&>(f) = {severity, rule, std::move(tensor), std::move(what), std::move(hint)};
  f.about = f.tensor;
  return findings.emplace_back(std::move(f));
}

void GgufChecks::add_missing(Severity severity, const std::string& key, const std::string& hint,
                             const char* topic, std::optional<std::string> about) {
  if (!missing.insert(key).second) return;
  if (topic == nullptr) topic = severity == Severity::error ? "missing-key" : "default-key";
  add(severity, "missing-key", "", "metadata key '" + printable(key) + "' is missing", hint)
      .loader(topic, about ? *about : printable(key));
}

bool is_gguf(const std::string& path) {
  char magic[4] = {};
  std::ifstream in(path, std::ios::binary);
  return in.read(magic, sizeof magic) && looks_like_gguf(std::as_bytes(std::span(magic)));
}

std::vector<GgufFinding> check_gguf(const std::string& path, const Model* model) {
  try {
    GgufShards files = open_gguf(path);
    open_other_shards(path, files);
    return check_gguf(files.shards, model);
  } catch (const Error& e) {  // the loader has said what
    if (e.kind() == ErrorKind::defect) throw;
    return {};
  }
}

std::vector<GgufFinding> check_gguf(std::span<const GgufFile> shards, const Model* model,
                                    bool as_model) {
  GgufChecks checks(shards);
  check_alignment(checks);
  check_kind(checks, as_model);
  check_gguf_keys(checks, model);
  check_gguf_tokens(checks);
  if (checks.rules != nullptr) check_gguf_tensors(checks);
  return std::move(checks.findings);
}

}  // namespace qp
