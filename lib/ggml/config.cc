#include "lib/ggml/config.h"

#include <cmath>

namespace qp::ggml {
namespace {

constexpr double kMaxCount = 1 << 30;  // larger than anything a config counts

}  // namespace

std::optional<double> number_in(const Json& object, const char* key) {
  if (!object.is_object()) return std::nullopt;
  auto it = object.find(key);
  if (it == object.end() || !it->is_number()) return std::nullopt;
  return it->get<double>();
}

Config::Config(const Json& config) : text_(config), top_(config) {
  if (!config.is_object()) top_ = text_ = Json::object();
  auto text = top_.find("text_config");
  if (text != top_.end() && text->is_object()) text_ = *text;
  read_rope();
}

const Json* Config::find(std::string_view key) const {
  for (const Json* object : {&text_, &top_}) {
    auto it = object->find(key);
    if (it != object->end() && !it->is_null()) return &*it;
  }
  return nullptr;
}

std::optional<uint64_t> Config::count(std::initializer_list<const char*> keys) const {
  for (const char* key : keys) {
    const Json* value = find(key);
    if (value == nullptr) continue;
    double n = value->is_number() ? value->get<double>() : -1;
    if (!(n >= 0 && n <= kMaxCount) || n != std::floor(n)) throw wrong(key, "is no sane count");
    return static_cast<uint64_t>(n);
  }
  return std::nullopt;
}

std::optional<double> Config::number(std::initializer_list<const char*> keys) const {
  for (const char* key : keys) {
    const Json* value = find(key);
    if (value == nullptr) continue;
    if (!value->is_number() || !std::isfinite(value->get<double>())) {
      throw wrong(key, "is no number");
    }
    return value->get<double>();
  }
  return std::nullopt;
}

bool Config::flag(const char* key, bool otherwise) const {
  const Json* value = find(key);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) throw wrong(key, "is neither true nor false");
  return value->get<bool>();
}

std::string Config::text(const char* key, std::string_view otherwise) const {
  const Json* value = find(key);
  if (value == nullptr) return std::string(otherwise);
  if (!value->is_string()) throw wrong(key, "is no string");
  return value->get<std::string>();
}

uint64_t Config::need(const char* key) const {
  auto value = count({key});
  if (!value) throw wrong(key, "is missing");
  if (*value == 0) throw wrong(key, "is 0");
  return *value;
}

Error Config::wrong(std::string_view key, const std::string& what) const {
  return input_error("'" + std::string(key) + "' " + what).file("config.json");
}

const Json& Config::rope_full() const {
  auto full = rope_.find("full_attention");
  return full != rope_.end() && full->is_object() ? *full : rope_;
}

// Old configs have rope_theta and rope_local_base_freq beside rope_scaling, new ones within
// rope_parameters.
void Config::read_rope() {
  rope_ = Json::object();
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const Json* value = find(key);
    if (value == nullptr || !value->is_object()) continue;
    rope_ = *value;
    break;
  }
  if (rope_.contains("full_attention") || rope_.contains("sliding_attention")) return;
  if (auto theta = number({"rope_theta", "rotary_emb_base"});
      theta && !rope_.contains("rope_theta")) {
    rope_["rope_theta"] = *theta;
  }
  if (!rope_.contains("rope_type") && rope_.contains("type")) rope_["rope_type"] = rope_["type"];
  if (auto local = number({"rope_local_base_freq"})) {
    rope_["sliding_attention"] = Json{{"rope_theta", *local}};
  }
}

}  // namespace qp::ggml
