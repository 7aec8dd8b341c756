// Which config group a module belongs to, and which modules are left alone.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "lib/base/json.h"
#include "lib/base/regex.h"
#include "lib/model/modules.h"
#include "lib/scheme/scheme.h"

namespace qp::ct {

// How codes lie in the file (section 3.2): words: weight_packed I32, a bit stream per row; bytes:
// weight I8, one code of up to 8 bits a byte; nibbles: weight_packed U8; floats: weight F8_E4M3.
enum class Stored : uint8_t { words, bytes, nibbles, floats };

struct ConfigGroup {
  Scheme scheme;
  std::string format;
  Stored stored = Stored::words;
  std::vector<std::string> targets;

  bool packed() const { return stored == Stored::words || stored == Stored::nibbles; }
  DType dtype() const;  // of the stored codes
};

// The tensors a quantized module may have beside its weight and bias.
std::span<const std::string_view> part_suffixes();

// The groups of a quantization_config that quantize weights. Errors: input; limit (sparse formats,
// quantized outputs).
std::vector<ConfigGroup> read_groups(const Json& config);

// Which group a module belongs to, matched as the library does: names and "re:" before classes.
class Targets {
 public:
  explicit Targets(const std::vector<ConfigGroup>& groups);
  std::optional<size_t> find(const std::string& module, const ModuleInfo& info) const;

 private:
  std::unordered_map<std::string, size_t> names_;
  std::vector<std::pair<Regex, size_t>> patterns_;
};

// The 'ignore' list: exact names and "re:" patterns (and the class names "Linear", "Embedding").
class Ignore {
 public:
  explicit Ignore(const Json& config);
  bool operator()(const std::string& module, const ModuleInfo& info) const;

 private:
  std::unordered_set<std::string> names_;
  std::vector<Regex> patterns_;
};

}  // namespace qp::ct
