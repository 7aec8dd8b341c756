// Which config group a module belongs to, and which modules are left alone.
#pragma once

#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "lib/base/json.h"
#include "lib/base/regex.h"
#include "lib/model/modules.h"
#include "lib/scheme/scheme.h"

namespace qp::ct {

struct ConfigGroup {
  Scheme scheme;
  std::string format;
  std::vector<std::string> targets;
};

// The groups of a quantization_config that quantize weights. Errors: input.
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
