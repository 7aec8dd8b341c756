#include "formats/hf/quant_config.h"

#include <algorithm>

#include "lib/base/error.h"
#include "lib/base/file.h"

namespace qp {
namespace {

constexpr uint64_t kMaxConfig = uint64_t{64} << 20;

const Json* first_of(const Json& object, std::initializer_list<const char*> keys,
                     const char*& found) {
  for (const char* key : keys) {
    auto it = object.find(key);
    if (it == object.end() || it->is_null()) continue;
    found = key;
    return &*it;
  }
  return nullptr;
}

[[noreturn]] void wrong(const char* key, const char* expected) {
  throw input_error("'" + std::string(key) + "' of the quantization config is no " + expected);
}

}  // namespace

Json companion_json(const Model& model, std::string_view name) {
  const Companion* c = model.companion(name);
  if (c == nullptr || c->extent.file == 0) return {};
  std::string text = c->extent.file == kBlob
                         ? model.blobs.at(c->extent.offset)
                         : read_text_file(model.files.at(c->extent.file - 1).path, kMaxConfig);
  Json json = parse_json(text, name);
  if (!json.is_object()) throw input_error("is no JSON object").file(name);
  return json;
}

std::optional<int64_t> int_of(const Json& object, std::initializer_list<const char*> keys) {
  const char* key = nullptr;
  const Json* value = first_of(object, keys, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number_integer()) wrong(key, "integer");
  return value->get<int64_t>();
}

std::optional<bool> bool_of(const Json& object, std::initializer_list<const char*> keys) {
  const char* key = nullptr;
  const Json* value = first_of(object, keys, key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) wrong(key, "boolean");
  return value->get<bool>();
}

std::string string_of(const Json& object, std::initializer_list<const char*> keys) {
  const char* key = nullptr;
  const Json* value = first_of(object, keys, key);
  if (value == nullptr) return "";
  if (!value->is_string()) wrong(key, "string");
  std::string text = value->get<std::string>();
  std::ranges::transform(text, text.begin(),
                         [](char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; });
  return text;
}

void contradiction(std::string_view key, std::string_view file) {
  throw input_error("config.json and " + std::string(file) + " give different values of '" +
                    std::string(key) + "'")
      .hint("one of the two belongs to another version of the model; fetch it again");
}

}  // namespace qp
