#include <algorithm>

#include "lib/target/methods/methods.h"

namespace qp::target {
namespace {

const Json* member(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

std::string label(const std::optional<Scheme>& s) {
  return s ? std::string(s->support) + " of " + std::to_string(s->bits) + " bits" +
                 (s->group > 0 ? ", groups of " + std::to_string(s->group) : "")
           : "unquantized";
}

}  // namespace

std::optional<int64_t> int_at(const Json& object, std::initializer_list<const char*> keys) {
  for (const char* key : keys) {
    const Json* v = member(object, key);
    if (v != nullptr && v->is_number_integer()) return v->get<int64_t>();
  }
  return std::nullopt;
}

std::optional<bool> bool_at(const Json& object, std::initializer_list<const char*> keys) {
  for (const char* key : keys) {
    const Json* v = member(object, key);
    if (v != nullptr && v->is_boolean()) return v->get<bool>();
  }
  return std::nullopt;
}

std::string text_at(const Json& object, std::initializer_list<const char*> keys) {
  for (const char* key : keys) {
    const Json* v = member(object, key);
    if (v == nullptr || !v->is_string()) continue;
    std::string out = v->get<std::string>();
    std::ranges::transform(out, out.begin(), [](char c) {
      return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
    });
    return out;
  }
  return {};
}

const Json* list_at(const Json& object, std::initializer_list<const char*> keys) {
  for (const char* key : keys) {
    const Json* v = member(object, key);
    if (v != nullptr && v->is_array() && !v->empty()) return v;
  }
  return nullptr;
}

std::vector<std::string> asked_names(const Layer& layer) {
  if (layer.part == Part::experts) {
    std::string first = layer.name + ".0.";
    return {first + "gate_proj", first + "up_proj", first + "down_proj"};
  }
  std::vector<std::string> out;
  for (const Shard& s : layer.shards) out.push_back(s.name);
  return out;
}

std::optional<Scheme> agreed(const Layer& layer, Findings& findings,
                             const std::function<std::optional<Scheme>(const std::string&)>& of,
                             std::string_view topic) {
  std::vector<std::string> names = asked_names(layer);
  std::optional<Scheme> first = of(names.front());
  for (const std::string& name : names) {
    std::optional<Scheme> other = of(name);
    if (other == first) continue;
    bool experts = layer.part == Part::experts;
    findings.add(experts                 ? "experts-disagree"
                 : findings.knows(topic) ? topic
                                         : "fused-disagree",
                 layer.name,
                 "is one parameter, but " + names.front() + " is " + label(first) + " and " + name +
                     " is " + label(other),
                 layer.name);
    break;
  }
  return first;
}

}  // namespace qp::target
