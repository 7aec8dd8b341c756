// What the readers of quantized checkpoints share about configs: files beside config.json, keys
// with several spellings.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

#include "formats/format.h"

namespace qp {

// A companion file of the model as JSON, or null when it is not there. Errors: input, system.
Json companion_json(const Model& model, std::string_view name);

// The number under the first of these keys that is there. Errors: input, when it is no integer.
std::optional<int64_t> int_of(const Json& object, std::initializer_list<const char*> keys);
std::optional<bool> bool_of(const Json& object, std::initializer_list<const char*> keys);
// Lower case; "" when none is there.
std::string string_of(const Json& object, std::initializer_list<const char*> keys);

// Two places that give one value. Errors: input, "contradicts ..".
template <class T>
void require_same(const std::optional<T>& here, const std::optional<T>& there, std::string_view key,
                  std::string_view file);
[[noreturn]] void contradiction(std::string_view key, std::string_view file);

template <class T>
void require_same(const std::optional<T>& here, const std::optional<T>& there, std::string_view key,
                  std::string_view file) {
  if (here && there && *here != *there) contradiction(key, file);
}

}  // namespace qp
