// config.json as the GGUF map reads it: the language model's part first, then the top.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

#include "lib/base/error.h"
#include "lib/base/json.h"

namespace qp::ggml {

// A member that is null counts as absent. Errors: input, naming config.json and the key.
class Config {
 public:
  explicit Config(const Json& config);

  const Json* find(std::string_view key) const;  // null when absent
  // The first of the names that is there.
  std::optional<uint64_t> count(std::initializer_list<const char*> keys) const;
  std::optional<double> number(std::initializer_list<const char*> keys) const;
  bool flag(const char* key, bool otherwise) const;
  std::string text(const char* key, std::string_view otherwise) const;
  uint64_t need(const char* key) const;  // a count that has to be there and is not 0

  // How positions turn: rope_parameters or rope_scaling, with rope_theta in it; by layer type
  // (members full_attention and sliding_attention) where the model has two rotations.
  const Json& rope() const { return rope_; }
  // What holds for layers with full attention, or for all.
  const Json& rope_full() const;

  Error wrong(std::string_view key, const std::string& what) const;

 private:
  void read_rope();

  Json text_, top_, rope_;
};

std::optional<double> number_in(const Json& object, const char* key);  // absent when no number

}  // namespace qp::ggml
