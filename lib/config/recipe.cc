#include "lib/config/recipe.h"

#include <array>

#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/config/presets.h"

namespace qp {
namespace {

constexpr uint64_t kMaxRecipeBytes = 256 << 20;  // a plan names every tensor of a big model

template <size_t N>
void check_keys(const Json& object, const std::array<std::string_view, N>& known,
                const std::string& where) {
  if (!object.is_object()) throw usage_error(where + " is no JSON object");
  for (const auto& [key, value] : object.items()) {
    bool ok = false;
    for (std::string_view k : known) ok = ok || k == key;
    if (!ok) {
      throw usage_error(where + " has an unknown key '" + printable(key) + "'")
          .hint(did_you_mean(key, known));
    }
  }
}

std::vector<Match> read_matches(const Json& value, const std::string& where) {
  std::vector<Match> out;
  if (value.is_string()) {
    out.emplace_back(value.get<std::string>());
  } else if (value.is_array()) {
    for (const Json& v : value) {
      if (!v.is_string()) throw usage_error(where + ": a match is no string");
      out.emplace_back(v.get<std::string>());
    }
  } else {
    throw usage_error(where + ": a match is no string");
  }
  return out;
}

std::optional<Scheme> read_scheme(const Json& rule, const std::string& where) {
  auto it = rule.find("scheme");
  if (it == rule.end()) throw usage_error(where + " has no 'scheme'");
  if (it->is_null()) return std::nullopt;
  if (it->is_object()) return scheme_from_json(*it);
  if (!it->is_string()) throw usage_error(where + ": 'scheme' is neither a name nor an object");
  SchemeOverrides o;
  if (auto opt = rule.find("options"); opt != rule.end()) {
    constexpr std::array<std::string_view, 4> known = {"num_bits", "group_size", "symmetric", "numerics"};
    check_keys(*opt, known, where + " options");
    o.num_bits = static_cast<int>(json_int(*opt, "num_bits", 0));
    if (auto g = opt->find("group_size"); g != opt->end()) {
      o.group_size = g->is_string() ? g->get<std::string>() : g->dump();
    }
    o.numerics = json_string(*opt, "numerics", "");
    if (opt->contains("symmetric")) o.symmetric = json_bool(*opt, "symmetric", true) ? "true" : "false";
  }
  return compose_scheme(it->get<std::string>(), o);
}

// "q4_k_m", or an object with `name`, `pure`, `output` and `embedding`.
MixRule read_mix(const Json& json, const std::string& where) {
  Json object = json.is_string() ? Json{{"name", json}} : json;
  constexpr std::array<std::string_view, 4> known = {"name", "pure", "output", "embedding"};
  check_keys(object, known, where + " mix");
  MixRule m;
  std::string name = json_string(object, "name", "");
  m.mix = find_mix(name);
  if (m.mix == nullptr) throw usage_error(where + ": unknown mix '" + printable(name) + "'");
  m.pure = json_bool(object, "pure", false);
  m.output = block_type(json_string(object, "output", ""), where + ": 'output'");
  m.embedding = block_type(json_string(object, "embedding", ""), where + ": 'embedding'");
  return m;
}

Rule read_rule(const Json& json, const std::string& where) {
  constexpr std::array<std::string_view, 9> known = {
      "match", "targets", "scheme", "experts", "mix", "algorithm", "options", "reason", "kind"};
  check_keys(json, known, where);
  Rule rule;
  rule.algorithm = json_string(json, "algorithm", "rtn");
  rule.source = where;
  if (json.contains("mix")) {
    rule.mix = read_mix(json.at("mix"), where);
    if (json.contains("match")) rule.match = read_matches(json.at("match"), where);
    return rule;
  }
  const char* key = json.contains("match") ? "match" : "targets";
  if (!json.contains(key)) throw usage_error(where + " has no 'match'");
  rule.match = read_matches(json.at(key), where);
  rule.scheme = read_scheme(json, where);
  if (json.at("scheme").is_string()) rule.experts = expert_scheme(json.at("scheme").get<std::string>());
  if (auto experts = json.find("experts"); experts != json.end()) rule.experts = scheme_from_json(*experts);
  return rule;
}

}  // namespace

Match::Match(std::string text) : text_(std::move(text)) {
  if (text_.starts_with("re:")) {
    regex_.emplace(std::string_view(text_).substr(3));
  } else {
    kind_ = kind_from_name(text_);
  }
}

bool Match::operator()(std::string_view name, const ModuleInfo& info) const {
  if (regex_) return regex_->matches_start(info.module) || regex_->matches_start(name);
  if (kind_) return info.kind == *kind_;
  return text_ == info.module || text_ == name;
}

Recipe recipe_from_json(const Json& json) {
  constexpr std::array<std::string_view, 10> known = {
      "rules", "ignore", "plan", "source", "output_bytes", "peak_memory_bytes",
      "seconds_estimate", "name", "warnings", "allocation"};
  check_keys(json, known, "the recipe");
  Recipe recipe;
  if (auto it = json.find("rules"); it != json.end()) {
    if (!it->is_array()) throw usage_error("'rules' is no list");
    for (size_t i = 0; i < it->size(); ++i) {
      recipe.rules.push_back(read_rule((*it)[i], "rule " + std::to_string(i + 1)));
    }
  }
  if (auto it = json.find("ignore"); it != json.end()) {
    recipe.ignore = read_matches(*it, "'ignore'");
  }
  return recipe;
}

Recipe read_recipe(const std::string& path) {
  try {
    return recipe_from_json(parse_json(read_text_file(path, kMaxRecipeBytes), path, true));
  } catch (const Error& e) {
    // Whatever is wrong inside, a recipe is an argument: exit 2. A missing file stays what it is.
    ErrorKind kind = e.kind() == ErrorKind::system ? e.kind() : ErrorKind::usage;
    throw Error(kind, e.reason()).file(path).hint(e.hint());
  } catch (const nlohmann::json::exception& e) {
    throw usage_error(std::string("is no recipe: ") + e.what()).file(path);
  }
}

Rule scheme_rule(std::optional<Scheme> scheme, const std::string& source) {
  Rule rule;
  rule.match = {Match("Linear"), Match("Expert")};
  rule.scheme = std::move(scheme);
  rule.source = source;
  return rule;
}

Rule mix_rule(MixRule mix, const std::string& source) {
  Rule rule;
  rule.mix = std::move(mix);
  rule.source = source;
  return rule;
}

Json to_json(const MixRule& m) {
  Json json = {{"name", m.mix->name}};
  if (m.pure) json["pure"] = true;
  if (!m.output.empty()) json["output"] = m.output;
  if (!m.embedding.empty()) json["embedding"] = m.embedding;
  return json;
}

Json Recipe::to_json() const {
  Json out = {{"rules", Json::array()}, {"ignore", Json::array()}};
  for (const Rule& rule : rules) {
    Json match = Json::array();
    for (const Match& m : rule.match) match.push_back(m.text());
    if (rule.mix) {
      out["rules"].push_back({{"mix", qp::to_json(*rule.mix)}, {"algorithm", rule.algorithm}});
      if (!match.empty()) out["rules"].back()["match"] = match;
      continue;
    }
    out["rules"].push_back({{"match", match},
                            {"scheme", rule.scheme ? qp::to_json(*rule.scheme) : Json()},
                            {"algorithm", rule.algorithm}});
    if (rule.experts) out["rules"].back()["experts"] = qp::to_json(*rule.experts);
  }
  for (const Match& m : ignore) out["ignore"].push_back(m.text());
  return out;
}

}  // namespace qp
