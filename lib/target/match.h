// How readers match a list of module names or patterns. Every format and engine has its own way.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "lib/base/json.h"
#include "lib/base/regex.h"

namespace qp::target {

enum class Dialect : uint8_t {
  name_or_regex,     // equal, or "re:" from the start: vLLM's compressed-tensors; Quark in SGLang
  path_suffix,       // the same, or the dotted end of the path: SGLang's compressed-tensors
  exact,             // equal: vLLM's fp8
  sub_path,          // whole components anywhere, "model." in front or not: SGLang's fp8
  substring,         // contained anywhere: AWQ, GPTQ's modules_in_block_to_quantize
  components,        // whole components anywhere: torchao in vLLM
  regex_start,       // a regular expression from the start: mxfp4 in transformers
  prefix,            // the name begins with it: auto-round's block_name_to_quantize
  modelopt_vllm,     // equal, contained, or a glob: modelopt.py of vLLM
  modelopt_sglang,   // whole components, or a glob over the whole name or one component
  substring_nocase,  // contained, whatever the case, or "re:": SGLang's w8a8_int8
};
std::string_view name_of(Dialect dialect);

class NameList {
 public:
  NameList() = default;
  // Entries that are no strings or no sound patterns are left out, and listed in bad().
  NameList(Dialect dialect, std::vector<std::string> entries);

  bool covers(std::string_view module) const;
  bool empty() const { return entries_.empty(); }
  const std::vector<std::string>& entries() const { return entries_; }
  const std::vector<std::string>& bad() const { return bad_; }

 private:
  bool covers_plain(std::string_view module) const;

  Dialect dialect_ = Dialect::exact;
  std::vector<std::string> entries_, bad_;
  std::unordered_set<std::string> names_;  // without "re:"
  std::vector<std::string> texts_;         // what is searched for, one after the other
  std::vector<Regex> patterns_;
};

// The strings of a JSON list; anything else gives none.
std::vector<std::string> strings_of(const Json& list);

}  // namespace qp::target
