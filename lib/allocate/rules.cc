#include "lib/allocate/rules.h"

#include <cstdio>
#include <set>

#include "lib/base/error.h"
#include "lib/config/algorithms.h"

namespace qp {
namespace {

Json with_match(const Json& rule, Json match) {
  Json out = {{"match", std::move(match)}};
  for (const auto& [key, value] : rule.items()) out[key] = value;
  return out;
}

std::string escaped(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (std::string_view(".[](){}*+?^$|\\").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

// "a.experts.7.gate_proj": where the number begins and ends; npos: it has none.
std::pair<size_t, size_t> expert_number(std::string_view module) {
  constexpr std::string_view kWord = "experts.";
  size_t at = module.find(kWord);
  if (at == std::string_view::npos) return {at, at};
  size_t begin = at + kWord.size(), end = module.find_first_not_of("0123456789", begin);
  if (end == begin || end == std::string_view::npos || module[end] != '.')
    return {std::string_view::npos, 0};
  return {begin, end};
}

// Exact names; experts, of which there are hundreds, by one expression.
Json match_of(const SchemeGroup& group) {
  std::set<std::string> prefixes, rests;
  for (const std::string& module : group.modules) {
    auto [begin, end] = expert_number(module);
    if (begin == std::string::npos) return group.modules;
    prefixes.insert(module.substr(0, begin));
    rests.insert(module.substr(end + 1));
  }
  if (!group.experts || prefixes.size() != 1) return group.modules;
  std::string all;
  for (const std::string& r : rests) all += (all.empty() ? "" : "|") + escaped(r);
  return "re:" + escaped(*prefixes.begin()) + "[0-9]+\\.(" + all + ")$";
}

std::string reason_of(const Allocation& a, size_t group) {
  std::string text = "sensitivity, nats a token:";
  for (size_t j = 0; j < a.candidates.size(); ++j) {
    char number[48];
    std::snprintf(number, sizeof number, " %.3g", a.costs[group][j]);
    text += (j == 0 ? " " : ", ") + a.candidates[j].name + number;
  }
  return text;
}

}  // namespace

Recipe everywhere(const Recipe& first, const CandidateRule& candidate, bool steps) {
  Json json = first.to_json();
  Json rule = with_match(candidate.rule, {"Linear", "Expert"});
  if (!steps) {
    AlgorithmStep last = parse_algorithm(json_string(rule, "algorithm", "rtn")).back();
    std::string algorithm(last.algorithm->name);
    for (const auto& [key, value] : last.options) algorithm += ":" + key + "=" + value;
    rule["algorithm"] = algorithm;
  }
  json["rules"].push_back(std::move(rule));
  Recipe recipe = recipe_from_json(json);
  recipe.rules.back().source = "-s " + candidate.name;
  return recipe;
}

Json mixed_recipe(const Recipe& first, const std::vector<CandidateRule>& rules,
                  const Allocation& a) {
  Json json = first.to_json();
  for (size_t g = 0; g < a.groups.groups.size(); ++g) {
    Json rule = with_match(rules[a.option()[g]].rule, match_of(a.groups.groups[g]));
    rule["reason"] = reason_of(a, g);
    json["rules"].push_back(std::move(rule));
  }
  return json;
}

}  // namespace qp
