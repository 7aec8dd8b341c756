#include "lib/arch/config.h"

#include <cmath>

namespace qp::arch {
namespace {

constexpr double kMaxCount = 1 << 24;  // of anything a config counts: larger is an attack

bool is_count(const Json& value) {
  if (!value.is_number()) return false;
  auto n = value.get<double>();
  return n >= 0 && n <= kMaxCount && n == std::floor(n);
}

}  // namespace

Error ModelConfig::wrong(const char* key, const std::string& what) const {
  return input_error("'" + std::string(key) + "' " + what).file("config.json");
}

ModelConfig::ModelConfig(const Json& config) : top_(config) {
  text_ = config.is_object() && config.contains("text_config") && config["text_config"].is_object()
              ? config["text_config"]
              : config;
}

const Json* ModelConfig::find(const char* key) const {
  for (const Json* object : {&text_, &top_}) {
    if (!object->is_object()) continue;
    auto it = object->find(key);
    if (it != object->end() && !it->is_null()) return &*it;
  }
  return nullptr;
}

size_t ModelConfig::count(const char* key, size_t fallback) const {
  const Json* value = find(key);
  if (value == nullptr) return fallback;
  if (!is_count(*value)) throw wrong(key, "is no sane count");
  return static_cast<size_t>(value->get<double>());
}

size_t ModelConfig::count(const char* key) const {
  if (find(key) == nullptr) throw wrong(key, "is missing");
  size_t value = count(key, 0);
  if (value == 0) throw wrong(key, "is 0");
  return value;
}

double ModelConfig::number(const char* key, double fallback) const {
  const Json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_number() || !std::isfinite(value->get<double>())) throw wrong(key, "is no number");
  return value->get<double>();
}

bool ModelConfig::flag(const char* key, bool fallback) const {
  const Json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) throw wrong(key, "is neither true nor false");
  return value->get<bool>();
}

std::string ModelConfig::text(const char* key, const std::string& fallback) const {
  const Json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_string()) throw wrong(key, "is no string");
  return value->get<std::string>();
}

std::vector<size_t> ModelConfig::counts(const char* key) const {
  std::vector<size_t> result;
  const Json* list = find(key);
  if (list == nullptr) return result;
  if (!list->is_array()) throw wrong(key, "is no list");
  for (const Json& item : *list) {
    if (!is_count(item)) throw wrong(key, "holds something that is no sane count");
    result.push_back(static_cast<size_t>(item.get<double>()));
  }
  return result;
}

std::vector<bool> ModelConfig::sliding(size_t layers,
                                       const std::function<bool(size_t)>& otherwise) const {
  std::vector<bool> result;
  const Json* list = find("layer_types");
  for (size_t i = 0; list == nullptr && i < layers; ++i) result.push_back(otherwise(i));
  if (list == nullptr) return result;
  if (!list->is_array() || list->size() != layers) {
    throw wrong("layer_types", "is no list of " + std::to_string(layers) + " layers");
  }
  for (const Json& type : *list) {
    if (type != "sliding_attention" && type != "full_attention") {
      throw wrong("layer_types", "holds something other than full_attention and sliding_attention");
    }
    result.push_back(type == "sliding_attention");
  }
  return result;
}

const Json& ModelConfig::rope() const {
  static const Json none = Json::object();
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const Json* value = find(key);
    if (value == nullptr) continue;
    if (!value->is_object()) throw wrong(key, "is no object");
    return *value;
  }
  return none;
}

std::shared_ptr<const engine::Rotary> ModelConfig::rotary(size_t dim, double default_theta,
                                                          const std::string& layer_type) const {
  static const Json none = Json::object();
  const Json* own = &rope();
  bool per_type = own->contains("full_attention") || own->contains("sliding_attention");
  bool shared = layer_type.empty() || layer_type == "full_attention";
  double theta = shared ? number("rope_theta", default_theta) : default_theta;
  if (per_type) {
    std::string type = layer_type.empty() ? "full_attention" : layer_type;
    own = own->contains(type) && (*own)[type].is_object() ? &(*own)[type] : &none;
  } else if (!shared) {
    own = &none;
  }
  return std::make_shared<engine::Rotary>(*own, theta, dim, text_);
}

}  // namespace qp::arch
