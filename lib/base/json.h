// JSON through nlohmann-json, the only door to it outside formats and cmd.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>

namespace qp {

// Key order is the order of writing: what we write is reproducible, what we read is kept.
using Json = nlohmann::ordered_json;

// Deeper nesting than this is refused in any file (configs nest about 6 deep).
constexpr size_t kMaxJsonDepth = 64;

// Parses a whole document. `comments` allows // and /* */ (recipes). Errors: input, naming `path`,
// with the byte where it went wrong; nesting deeper than kMaxJsonDepth; duplicate keys.
Json parse_json(std::string_view text, std::string_view path, bool comments = false);

// Members with a fallback; a member of another type is an input error naming the key.
std::string json_string(const Json& object, const char* key, std::string_view fallback);
bool json_bool(const Json& object, const char* key, bool fallback);
int64_t json_int(const Json& object, const char* key, int64_t fallback);

// Appends `text` as a JSON string, quotes included. Bytes that are no UTF-8 become U+FFFD.
void append_json_string(std::string& out, std::string_view text);

// A tokenizer's view for big documents: derive and pass to parse_json_sax. Every method returns
// false to stop; see nlohmann::json_sax.
using JsonSax = nlohmann::json_sax<nlohmann::json>;
bool parse_json_sax(std::span<const std::byte> text, JsonSax& sax);

}  // namespace qp
