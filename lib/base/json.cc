#include "lib/base/json.h"

#include <set>
#include <vector>

#include "lib/base/error.h"

namespace qp {

Json parse_json(std::string_view text, std::string_view path, bool comments) {
  std::vector<std::set<std::string>> keys;  // of each open object
  std::string problem;
  auto watch = [&](int depth, Json::parse_event_t event, Json& value) {
    if (static_cast<size_t>(depth) > kMaxJsonDepth) {
      throw input_error("JSON is nested deeper than " + std::to_string(kMaxJsonDepth)).file(path);
    }
    switch (event) {
      case Json::parse_event_t::object_start: keys.emplace_back(); break;
      case Json::parse_event_t::object_end: keys.pop_back(); break;
      case Json::parse_event_t::key:
        if (!keys.back().insert(value.get<std::string>()).second) {
          throw input_error("JSON key '" + printable(value.get<std::string>()) + "' appears twice")
              .file(path);
        }
        break;
      default: break;
    }
    return true;
  };
  try {
    return Json::parse(text, watch, true, comments);
  } catch (const nlohmann::json::exception& e) {
    std::string what = e.what();
    if (auto at = what.find("] "); at != std::string::npos) what = what.substr(at + 2);
    throw input_error("is not valid JSON (" + printable(what) + ")").file(path);
  }
}

namespace {
[[noreturn]] void wrong_type(const char* key, const char* expected, const Json& found) {
  throw input_error("JSON key '" + std::string(key) + "' (expected " + expected + ", found " +
                    found.type_name() + ")");
}
const Json* member(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}
}  // namespace

std::string json_string(const Json& object, const char* key, std::string_view fallback) {
  const Json* m = member(object, key);
  if (m == nullptr) return std::string(fallback);
  if (!m->is_string()) wrong_type(key, "a string", *m);
  return m->get<std::string>();
}
bool json_bool(const Json& object, const char* key, bool fallback) {
  const Json* m = member(object, key);
  if (m == nullptr) return fallback;
  if (!m->is_boolean()) wrong_type(key, "true or false", *m);
  return m->get<bool>();
}
int64_t json_int(const Json& object, const char* key, int64_t fallback) {
  const Json* m = member(object, key);
  if (m == nullptr) return fallback;
  if (!m->is_number_integer()) wrong_type(key, "an integer", *m);
  return m->get<int64_t>();
}

void append_json_string(std::string& out, std::string_view text) {
  bool plain = true;
  for (char c : text) {
    auto u = static_cast<unsigned char>(c);
    if (u < 0x20 || u >= 0x80 || c == '"' || c == '\\') plain = false;
  }
  if (plain) {
    out += '"';
    out += text;
    out += '"';
  } else {
    out += nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  }
}

bool parse_json_sax(std::span<const std::byte> text, JsonSax& sax) {
  const auto* begin = reinterpret_cast<const char*>(text.data());
  return nlohmann::json::sax_parse(begin, begin + text.size(), &sax);
}

}  // namespace qp
