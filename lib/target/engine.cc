#include "lib/target/engine.h"

#include <algorithm>
#include <array>

#include "lib/base/error.h"

namespace qp::target {
namespace {

constexpr std::array<const Engine*, 4> kEngines = {&kVllm, &kSglang, &kTransformers, &kLlamaCpp};

}  // namespace

std::span<const Engine* const> engines() { return kEngines; }

const Engine& engine_from_name(std::string_view text) {
  std::string name(text.substr(0, text.find('@')));
  for (char& c : name) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  std::string known;
  for (const Engine* e : kEngines) {
    if (e->name == name) return *e;
    known += (known.empty() ? "" : ", ") + std::string(e->name);
  }
  throw usage_error("--target '" + printable(text) + "' is no engine that is known")
      .hint("known: " + known);
}

std::string_view name_of(const Engine& engine) { return engine.name; }
std::string_view version_of(const Engine& engine) { return engine.version; }
std::span<const Rule> rules_of(const Engine& engine) { return engine.rules; }
std::string rule_id(const Engine& engine, const Rule& rule) {
  return std::string(engine.name) + "." + std::string(rule.topic);
}

const Support* support_of(const Engine& engine, std::string_view scheme, Where where) {
  for (const Support& row : engine.support) {
    if (row.scheme == scheme && (row.where == Where::any || row.where == where)) return &row;
  }
  return nullptr;
}

const Loader* loader_of(const Engine& engine, std::string_view architecture) {
  for (const Loader& row : engine.loaders) {
    if (architecture.starts_with(row.architecture)) return &row;
  }
  return nullptr;
}

bool by_member(const Engine& engine, std::string_view architecture, std::string_view whole) {
  const Loader* row = loader_of(engine, architecture);
  if (row == nullptr) return true;
  std::string_view words = row->by_member;
  for (size_t at = 0; at < words.size();) {
    size_t end = std::min(words.find(' ', at), words.size());
    if (whole.ends_with(words.substr(at, end - at))) return true;
    at = end + 1;
  }
  return false;
}

std::string_view name_of(Effect effect) {
  switch (effect) {
    case Effect::refuses: return "refuses";
    case Effect::lies: return "lies";
    case Effect::warns: return "warns";
    case Effect::notes: return "not known";
  }
  return "";
}

std::string_view name_of(Verdict verdict) {
  switch (verdict) {
    case Verdict::used: return "used";
    case Verdict::ignored: return "ignored by design";
    case Verdict::dropped: return "dropped silently";
    case Verdict::defaulted: return "missing, default";
    case Verdict::uninitialised: return "missing, uninitialised";
    case Verdict::wrong_shape: return "wrong shape";
    case Verdict::wrong_dtype: return "wrong dtype";
  }
  return "";
}

std::string_view name_of(Outcome outcome) {
  switch (outcome) {
    case Outcome::loads: return "loads and uses everything";
    case Outcome::lies: return "loads but lies";
    case Outcome::refuses: return "refuses";
  }
  return "";
}

namespace {

const Rule* find(const Engine& engine, std::string_view topic) {
  for (const Rule& r : engine.rules) {
    if (r.topic == topic) return &r;
  }
  return nullptr;
}

}  // namespace

bool Findings::knows(std::string_view topic) const { return find(engine_, topic) != nullptr; }

bool Findings::add(std::string_view topic, std::string_view subject, std::string what,
                   std::string_view slot, std::string_view second) {
  const Rule* rule = find(engine_, topic);
  if (rule == nullptr) return false;
  std::string error(rule->error);
  auto fill = [&](std::string_view place, std::string_view text) {
    if (auto at = error.find(place); at != error.npos) error.replace(at, place.size(), text);
  };
  fill("{}", slot);
  fill("{2}", second);
  // "model.layers.0.x" is "layers.0.x" to LlamaModel, "visual.merger.x" "merger.x" to the tower.
  std::string_view inner = slot;
  if (auto at = slot.find("layers."); at != slot.npos) inner = slot.substr(at);
  if (auto at = slot.find("visual."); at != slot.npos) inner = slot.substr(at + 7);
  fill("{inner}", inner);
  all_.push_back(
      {rule, rule_id(engine_, *rule), std::string(subject), std::move(what), std::move(error)});
  return true;
}

bool Findings::any(Effect effect) const {
  for (const Finding& f : all_) {
    if (f.rule->effect == effect) return true;
  }
  return false;
}

}  // namespace qp::target
