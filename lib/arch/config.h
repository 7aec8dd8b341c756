// config.json as an architecture reads it: the language model's part, with defaults.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "lib/base/json.h"
#include "lib/engine/ops/rope.h"

namespace qp::arch {

// Members are looked up in text_config first (multimodal wrappers), then at the top.
// Errors: input, naming config.json and the key.
class ModelConfig {
 public:
  explicit ModelConfig(const Json& config);

  bool has(const char* key) const { return find(key) != nullptr; }
  size_t count(const char* key) const;                    // required, > 0 and sane
  size_t count(const char* key, size_t fallback) const;   // 0 allowed
  double number(const char* key, double fallback) const;
  bool flag(const char* key, bool fallback) const;
  std::string text(const char* key, const std::string& fallback) const;
  const Json* find(const char* key) const;  // null when absent or null
  // layer_types, or empty.
  std::vector<std::string> layer_types() const;

  // The rotation of the model, or of its layers of one type ("sliding_attention"), over `dim`
  // components: rope_scaling or rope_parameters, in the old spelling or the new.
  std::shared_ptr<const engine::Rotary> rotary(size_t dim, double default_theta,
                                               const std::string& layer_type = "") const;
  const Json& json() const { return text_; }

 private:
  Json text_, top_;
};

}  // namespace qp::arch
