#include "formats/container/safetensors.h"

#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/base/json.h"

namespace qp {
namespace {

constexpr uint64_t kMaxHeader = 100'000'000;  // as the reference reader

// {"name": {"dtype": "..", "shape": [..], "data_offsets": [b, e]}, "__metadata__": {"k": "v"}}
class HeaderSax final : public JsonSax {
 public:
  explicit HeaderSax(SafetensorsHeader& header) : h_(header) {}
  std::string problem, tensor;

  bool null() override { return fail("an unexpected null"); }
  bool boolean(bool) override { return fail("an unexpected true or false"); }
  bool number_integer(number_integer_t) override { return fail("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { return fail("a fraction"); }
  bool binary(binary_t&) override { return fail("binary data"); }

  bool number_unsigned(number_unsigned_t v) override {
    if (list_ == List::shape) {
      return entry().shape.push(v) ||
             fail("more than " + std::to_string(Shape::kMaxRank) + " dimensions");
    }
    if (list_ == List::offsets) {
      if (count_ == 0) entry().begin = v;
      if (count_ == 1) entry().end = v;
      return ++count_ <= 2 || fail("data_offsets of more than two numbers");
    }
    return fail("an unexpected number");
  }
  bool string(string_t& v) override {
    if (in_metadata_ && depth_ == 2) {
      h_.metadata[key_] = v;
      return true;
    }
    if (depth_ != 2 || key_ != "dtype") return fail("an unexpected string");
    auto dtype = dtype_from_name(v);
    if (!dtype) return fail("unknown dtype '" + printable(v) + "'");
    entry().dtype = *dtype;
    seen_ |= 1;
    return true;
  }
  bool start_object(std::size_t) override {
    if (++depth_ > 2 || list_ != List::none) return fail("nesting that does not belong there");
    if (depth_ == 2 && !in_metadata_) {
      h_.entries.emplace_back();
      entry().name = key_;
      seen_ = 0;
    }
    return true;
  }
  bool end_object() override {
    if (depth_ == 2 && !in_metadata_ && seen_ != 7) {
      return fail("missing dtype, shape or data_offsets");
    }
    if (depth_-- == 2) in_metadata_ = false;
    return true;
  }
  bool start_array(std::size_t) override {
    if (depth_ != 2 || in_metadata_ || list_ != List::none) return fail("an unexpected list");
    if (key_ == "shape") {
      list_ = List::shape;
      entry().shape = Shape();
      seen_ |= 2;
    } else if (key_ == "data_offsets") {
      list_ = List::offsets;
      count_ = 0;
    } else {
      return fail("an unexpected list '" + printable(key_) + "'");
    }
    return true;
  }
  bool end_array() override {
    if (list_ == List::offsets) {
      if (count_ != 2) return fail("data_offsets of fewer than two numbers");
      seen_ |= 4;
    }
    list_ = List::none;
    return true;
  }
  bool key(string_t& v) override {
    key_ = v;
    if (depth_ == 1) {
      in_metadata_ = v == "__metadata__";
      tensor = in_metadata_ ? "" : v;
    }
    return true;
  }
  bool parse_error(std::size_t at, const std::string&, const nlohmann::json::exception&) override {
    return fail("header is no valid JSON at byte " + std::to_string(at));
  }

 private:
  enum class List { none, shape, offsets };
  SafetensorsEntry& entry() { return h_.entries.back(); }
  bool fail(std::string what) {
    if (problem.empty()) problem = std::move(what);
    return false;
  }
  SafetensorsHeader& h_;
  std::string key_;
  int depth_ = 0, count_ = 0;
  unsigned seen_ = 0;
  bool in_metadata_ = false;
  List list_ = List::none;
};

// Offsets must tile the data section: no hole, no overlap, nothing left over.
void check_layout(SafetensorsHeader& h, uint64_t data_bytes, std::string_view path) {
  std::ranges::stable_sort(h.entries, {}, [](const SafetensorsEntry& e) {
    return std::pair(e.begin, e.end);
  });
  std::unordered_set<std::string_view> names;
  names.reserve(h.entries.size());
  uint64_t at = 0;
  for (const SafetensorsEntry& e : h.entries) {
    auto fail = [&](const std::string& what) {
      throw input_error(what).file(path).tensor(e.name).hint("the file is damaged; fetch it again");
    };
    if (e.name.empty()) fail("has an empty name");
    if (!names.insert(e.name).second) fail("appears twice");
    if (e.begin != at || e.end < e.begin) {
      fail("data_offsets leave a hole or overlap (expected to begin at " + std::to_string(at) +
           ", found [" + std::to_string(e.begin) + ", " + std::to_string(e.end) + "])");
    }
    auto bytes = byte_size(e.dtype, e.shape);
    if (!bytes) fail("shape " + e.shape.str() + " overflows or is no whole number of bytes");
    if (*bytes != e.end - e.begin) {
      fail("data_offsets do not fit dtype and shape (expected " + std::to_string(*bytes) +
           " bytes, found " + std::to_string(e.end - e.begin) + ")");
    }
    if (e.end > data_bytes) {
      fail("data_offsets end at " + std::to_string(e.end) + ", past the end of the data (" +
           std::to_string(data_bytes) + " bytes)");
    }
    at = e.end;
  }
  if (at != data_bytes) {
    throw input_error("has bytes that belong to no tensor (expected " + std::to_string(at) +
                      " bytes of data, found " + std::to_string(data_bytes) + ")")
        .file(path)
        .hint("the file is damaged; fetch it again");
  }
}

}  // namespace

SafetensorsHeader parse_safetensors(std::span<const std::byte> file, std::string_view path) {
  auto fail = [&](const std::string& what) -> Error {
    Error e = input_error(what);
    e.file(path);
    return std::move(e).hint("the file is truncated or not safetensors; fetch it again");
  };
  uint64_t n = 0;
  if (file.size() < 8) {
    throw fail("is too short for safetensors (expected at least 8 bytes, found " +
               std::to_string(file.size()) + ")");
  }
  std::memcpy(&n, file.data(), 8);
  if (n > kMaxHeader) {
    throw fail("header is too large (expected at most " + std::to_string(kMaxHeader) +
               " bytes, found " + std::to_string(n) + ")");
  }
  if (n > file.size() - 8) {
    throw fail("header ends past the end of the file (expected " + std::to_string(n + 8) +
               " bytes, found " + std::to_string(file.size()) + ")");
  }
  SafetensorsHeader header;
  header.data_offset = 8 + n;
  HeaderSax sax(header);
  if (!parse_json_sax(file.subspan(8, n), sax)) {
    Error e = fail(sax.problem.empty() ? "header is no valid JSON" : sax.problem);
    e.tensor(sax.tensor);
    throw e;
  }
  check_layout(header, file.size() - header.data_offset, path);
  return header;
}

std::string safetensors_header(std::vector<SafetensorsEntry>& entries,
                               std::span<const std::pair<std::string, std::string>> metadata) {
  std::string json = "{\"__metadata__\":{\"format\":\"pt\"";
  for (const auto& [key, value] : metadata) {
    json += ",";
    append_json_string(json, key);
    json += ":";
    append_json_string(json, value);
  }
  json += "}";
  uint64_t at = 0;
  for (SafetensorsEntry& e : entries) {
    e.begin = at;
    e.end = at += byte_size(e.dtype, e.shape).value();
    json += ",";
    append_json_string(json, e.name);
    json += ":{\"dtype\":\"" + std::string(dtype_name(e.dtype)) + "\",\"shape\":[";
    for (size_t i = 0; i < e.shape.rank(); ++i) {
      json += (i ? "," : "") + std::to_string(e.shape[i]);
    }
    json += "],\"data_offsets\":[" + std::to_string(e.begin) + "," + std::to_string(e.end) + "]}";
  }
  json += "}";
  json.resize(round_up(json.size(), 8), ' ');
  uint64_t n = json.size();
  std::string out(reinterpret_cast<const char*>(&n), 8);
  return out + json;
}

}  // namespace qp
