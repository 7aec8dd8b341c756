#include "formats/hf/weight_index.h"

#include <span>
#include <unordered_set>

#include "lib/base/error.h"
#include "lib/base/json.h"

namespace qp {
namespace {

// Depth 1 is the document, depth 2 its members' objects.
class IndexSax final : public JsonSax {
 public:
  IndexSax(WeightIndex& index, const std::string& path) : index_(index), path_(path) {}
  bool found() const { return found_; }

  bool null() override { return value(); }
  bool boolean(bool) override { return value(); }
  bool number_integer(number_integer_t n) override { return number(static_cast<double>(n)); }
  bool number_unsigned(number_unsigned_t n) override { return number(static_cast<double>(n)); }
  bool number_float(number_float_t n, const string_t&) override { return number(n); }
  bool binary(binary_t&) override { return value(); }
  bool string(string_t& text) override {
    if (in_map()) index_.weight_map.back().second = std::move(text);
    return true;
  }
  bool start_object(std::size_t) override {
    open();
    if (depth_ == 2 && section_ == "weight_map") found_ = true;
    return true;
  }
  bool start_array(std::size_t) override { return open(); }
  bool end_object() override { return --depth_, true; }
  bool end_array() override { return --depth_, true; }
  bool key(string_t& text) override {
    if (depth_ == 1) {
      section_ = text;
      twice(sections_, text);
    } else if (depth_ == 2) {
      key_ = text;
      if (section_ == "weight_map") {
        twice(tensors_, text);
        index_.weight_map.emplace_back(std::move(text), "");
      }
    }
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& e) override {
    std::string what = e.what();
    if (auto at = what.find("] "); at != std::string::npos) what = what.substr(at + 2);
    throw input_error("is not valid JSON (" + printable(what) + ")").file(path_);
  }

 private:
  bool in_map() const { return depth_ == 2 && section_ == "weight_map" && found_; }
  bool value() { return true; }
  bool number(double n) {
    if (depth_ == 2 && section_ == "metadata" && key_ == "total_size") index_.total_size = n;
    return true;
  }
  bool open() {
    if (++depth_ > kMaxJsonDepth) {
      throw input_error("JSON is nested deeper than " + std::to_string(kMaxJsonDepth)).file(path_);
    }
    return true;
  }
  void twice(std::unordered_set<std::string>& seen, const std::string& name) const {
    if (!seen.insert(name).second)
      throw input_error("JSON key '" + printable(name) + "' appears twice").file(path_);
  }

  WeightIndex& index_;
  const std::string& path_;
  size_t depth_ = 0;
  bool found_ = false;
  std::string section_, key_;
  std::unordered_set<std::string> sections_, tensors_;
};

}  // namespace

WeightIndex parse_weight_index(const std::string& text, const std::string& path) {
  WeightIndex out;
  IndexSax sax(out, path);
  parse_json_sax(std::as_bytes(std::span(text)), sax);
  if (!sax.found()) throw input_error("has no 'weight_map'").file(path);
  return out;
}

}  // namespace qp
