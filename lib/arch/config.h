// config.json as an architecture reads it: the language model's part, with defaults.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lib/base/error.h"
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
  // Said to be null, which is not the same as not said for every key.
  bool is_null(const char* key) const { return !has(key) && text_.contains(key); }
  std::vector<size_t> counts(const char* key) const;  // a list; empty when absent
  // Which of `layers` layers layer_types calls sliding; by `otherwise` where there is no such list.
  std::vector<bool> sliding(size_t layers, const std::function<bool(size_t)>& otherwise) const;

  // The rotation of the model over `dim` components: rope_scaling or rope_parameters, in the old
  // spelling or the new. With a layer type ("sliding_attention"), that of its layers: what is said
  // for the type; else what is said for all is full_attention's, and others are not scaled.
  std::shared_ptr<const engine::Rotary> rotary(size_t dim, double default_theta,
                                               const std::string& layer_type = "") const;
  // The object rotary() takes for a model with one rotation, or an empty one.
  const Json& rope() const;

  const Json& json() const { return text_; }

  Error wrong(const char* key, const std::string& what) const;

 private:
  Json text_, top_;
};

}  // namespace qp::arch
