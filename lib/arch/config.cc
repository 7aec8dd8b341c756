#include "lib/arch/config.h"

#include "lib/base/error.h"

namespace qp::arch {
namespace {

constexpr double kMaxCount = 1 << 24;  // of anything a config counts: larger is an attack

Error wrong(const char* key, const std::string& what) {
  return input_error("'" + std::string(key) + "' " + what).file("config.json");
}

}  // namespace

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
  if (!value->is_number() || !(value->get<double>() >= 0) || value->get<double>() > kMaxCount) {
    throw wrong(key, "is no sane count");
  }
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
  if (!value->is_number()) throw wrong(key, "is no number");
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

std::vector<std::string> ModelConfig::layer_types() const {
  std::vector<std::string> types;
  const Json* list = find("layer_types");
  if (list == nullptr) return types;
  if (!list->is_array()) throw wrong("layer_types", "is no list");
  for (const Json& type : *list) {
    if (!type.is_string()) throw wrong("layer_types", "holds something that is no string");
    types.push_back(type.get<std::string>());
  }
  return types;
}

std::shared_ptr<const engine::Rotary> ModelConfig::rotary(size_t dim, double default_theta,
                                                          const std::string& layer_type) const {
  static const Json none;
  const Json* scaling = find("rope_scaling");
  if (scaling == nullptr) scaling = find("rope_parameters");
  if (scaling != nullptr && !layer_type.empty() && scaling->is_object() &&
      scaling->contains(layer_type)) {
    scaling = &(*scaling)[layer_type];
  }
  double theta = number("rope_theta", default_theta);
  if (scaling != nullptr && scaling->is_object() && scaling->contains("rope_theta")) {
    const Json& inside = (*scaling)["rope_theta"];
    if (!inside.is_number()) throw wrong("rope_theta", "is no number");
    theta = inside.get<double>();
  }
  return std::make_shared<engine::Rotary>(scaling == nullptr ? none : *scaling, theta, dim, text_);
}

}  // namespace qp::arch
