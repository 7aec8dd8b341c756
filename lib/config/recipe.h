// What the user asked for: ordered rules and an ignore list. JSON with comments on disk
// (DESIGN.md, "Plan"); a preset on the command line is a recipe of one rule.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/regex.h"
#include "lib/config/mixes.h"
#include "lib/model/modules.h"
#include "lib/scheme/scheme.h"

namespace qp {

// Names a set of tensors: an exact name ("model.layers.0.mlp.up_proj", with or without ".weight"),
// "re:" and a regular expression anchored at the start (on the module's name), or a module kind
// ("Linear", "Expert", "Head" ..).
class Match {
 public:
  explicit Match(std::string text);  // errors: usage (bad regex)
  bool operator()(std::string_view tensor_name, const ModuleInfo& info) const;
  const std::string& text() const { return text_; }
  bool is_kind() const { return kind_.has_value(); }
  bool is_regex() const { return regex_.has_value(); }

 private:
  std::string text_;
  std::optional<Regex> regex_;
  std::optional<ModuleKind> kind_;
};

struct Rule {
  std::vector<Match> match;
  std::optional<Scheme> scheme;  // none: keep unquantized
  std::optional<Scheme> experts;  // what experts get instead (quark_int4fp8_moe)
  // Instead of a scheme: llama-quantize's choice for each tensor. No match: all that it quantizes.
  std::optional<MixRule> mix;
  std::string algorithm = "rtn";
  std::string source;            // for messages: "--scheme w4a16", "recipe.json rule 2"
};

struct Recipe {
  std::vector<Rule> rules;  // the first that matches decides
  std::vector<Match> ignore;
  Json to_json() const;
};

// Reads a recipe or a plan (qquantize --dry-run --json). Errors: usage, naming the file, rule and
// key, with "did you mean" for unknown keys.
Recipe read_recipe(const std::string& path);
// The same of JSON that is read already. Errors: usage, input, without a file.
Recipe recipe_from_json(const Json& json);
// The rule of `-s NAME`: every linear and expert.
Rule scheme_rule(std::optional<Scheme> scheme, const std::string& source);
// The same of a file type.
Rule mix_rule(MixRule mix, const std::string& source);

}  // namespace qp
