// The parts of check_gguf().
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/container/gguf.h"
#include "formats/verify/gguf.h"
#include "lib/ggml/loader.h"
#include "lib/qmap/model.h"
#include "lib/verify/numbers.h"

namespace qp {

// "ARCH." keys as numbers. Those of another type, or negative, count as absent: they are reported
// once, where types are checked.
class GgufNumbers {
 public:
  GgufNumbers(const GgufFile& meta, std::string arch) : meta_(&meta), arch_(std::move(arch)) {}
  // Of a key with one number for each layer, that of `layer`.
  std::optional<uint64_t> find(const std::string& key, uint64_t layer = 0) const;

 private:
  const GgufFile* meta_;
  std::string arch_;
  mutable std::map<std::string, std::vector<int64_t>> seen_;
};

struct GgufChecks {
  explicit GgufChecks(std::span<const GgufFile> files);

  std::span<const GgufFile> shards;
  const GgufFile& meta;                      // the first
  std::string arch;                          // general.architecture, or ""
  const ggml::LoaderRules* rules = nullptr;  // null: an architecture that is not known here
  bool loads_keys = false;                   // llama.cpp reads the keys that all models have
  GgufNumbers numbers;
  std::vector<GgufFinding> findings;
  std::set<std::string> missing;  // whole keys that have been reported

  GgufFinding& add(Severity severity, const char* rule, std::string tensor, std::string what,
                   std::string hint = "");
  // Reports a key once; a warning: the loader takes a default.
  void add_missing(Severity severity, const std::string& key, const std::string& hint,
                   const char* topic = nullptr, std::optional<std::string> about = {});
};

// Rules missing-key, key-type, key-value, file-type.
void check_gguf_keys(GgufChecks& checks, const Model* model);
// Rules missing-key, tokenizer-kind, token-list, token-id.
void check_gguf_tokens(GgufChecks& checks);
// Rules block-count, absent-tensor, unknown-tensor, tensor-shape, tensor-type, vocabulary,
// missing-key.
void check_gguf_tensors(GgufChecks& checks);

}  // namespace qp
