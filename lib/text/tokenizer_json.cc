#include "lib/text/tokenizer_json.h"

#include <cmath>

#include "lib/base/error.h"

namespace qp {
namespace {
// Members of one object outside the vocabulary: looking one up takes time in their number.
constexpr size_t kMaxMembers = 4096;

// Builds `root` of everything but model.vocab and model.merges, whose elements it collects: as
// JSON values those would take a hundred bytes each, and time quadratic in their number.
class Reader : public JsonSax {
 public:
  explicit Reader(TokenizerJson& out) : out_(out) {}

  bool null() override { return scalar(nullptr); }
  bool boolean(bool value) override { return scalar(value); }
  bool number_integer(number_integer_t value) override { return number(value); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > INT64_MAX) throw input_error("a number is too large (" + std::to_string(value) + ")");
    return number(static_cast<int64_t>(value));
  }
  bool number_float(number_float_t value, const string_t&) override {
    if (in_ == Part::scores) return score(value);
    return scalar(value);
  }
  bool string(string_t& value) override;
  bool binary(binary_t&) override { return false; }
  bool key(string_t& name) override {
    key_ = std::move(name);
    return true;
  }
  bool start_object(size_t) override { return open(false); }
  bool start_array(size_t) override { return open(true); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool parse_error(size_t, const std::string&, const nlohmann::json::exception& e) override {
    std::string what = e.what();
    if (auto at = what.find("] "); at != std::string::npos) what = what.substr(at + 2);
    throw input_error("is not valid JSON (" + printable(what) + ")");
  }

 private:
  enum class Part { rest, vocab, scores, merges };

  [[noreturn]] static void wrong(const std::string& where, const std::string& expected) {
    throw input_error("model." + where + " is not " + expected);
  }
  bool number(int64_t value);
  bool score(double value);
  bool open(bool array);
  bool close();
  bool scalar(Json value);
  Json* place(Json value);

  TokenizerJson& out_;
  std::vector<Json*> open_;  // objects and arrays of `root` we are in
  Json* model_ = nullptr;    // root["model"]
  Part in_ = Part::rest;
  size_t depth_ = 0;       // of the part we are in: 1 its elements, 2 theirs
  size_t at_ = 0;          // elements seen of a [token, score] or [left, right]
  std::string key_, left_;
};

bool Reader::string(string_t& value) {
  switch (in_) {
    case Part::rest: return scalar(std::move(value));
    case Part::vocab: wrong("vocab", "an object of token: id");
    case Part::scores:
      if (depth_ != 2 || at_++ != 0) wrong("vocab", "an array of [token, score]");
      left_ = std::move(value);
      return true;
    case Part::merges: break;
  }
  if (depth_ == 2) {
    if (at_ == 0) left_ = std::move(value);
    if (at_ == 1) out_.merges.emplace_back(std::move(left_), std::move(value));
    if (at_++ > 1) wrong("merges", "an array of pairs");
    return true;
  }
  // The older form: both in one string, one space between.
  size_t space = value.find(' ');
  if (value.starts_with("#version")) return true;
  if (space == std::string::npos || value.find(' ', space + 1) != std::string::npos) {
    throw input_error("merge '" + printable(value) + "' is not two tokens with a space between");
  }
  out_.merges.emplace_back(value.substr(0, space), value.substr(space + 1));
  return true;
}

bool Reader::number(int64_t value) {
  if (in_ == Part::scores) return score(static_cast<double>(value));
  if (in_ == Part::vocab) {
    out_.vocab.emplace_back(std::move(key_), value);
    return true;
  }
  return scalar(value);
}

bool Reader::score(double value) {
  if (depth_ != 2 || at_++ != 1 || !std::isfinite(value)) {
    wrong("vocab", "an array of [token, score]");
  }
  out_.scores.emplace_back(std::move(left_), value);
  return true;
}

bool Reader::open(bool array) {
  if (in_ != Part::rest) {
    if (!array || in_ == Part::vocab || depth_ > 1) {
      wrong(in_ == Part::merges ? "merges" : "vocab", "of the expected shape");
    }
    ++depth_;
    at_ = 0;
    return true;
  }
  if (open_.size() == 2 && open_[1] == model_) {
    bool vocab = key_ == "vocab", merges = key_ == "merges";
    if (vocab || merges) {
      bool& seen = vocab ? out_.has_vocab : out_.has_merges;
      if (seen) throw input_error("JSON key '" + key_ + "' appears twice");
      seen = true;
      if (merges && !array) wrong("merges", "an array");
      in_ = merges ? Part::merges : array ? Part::scores : Part::vocab;
      depth_ = 1;
      return true;
    }
  }
  if (open_.size() >= kMaxJsonDepth) {
    throw input_error("JSON is nested deeper than " + std::to_string(kMaxJsonDepth));
  }
  bool is_model = open_.size() == 1 && open_[0]->is_object() && key_ == "model";
  open_.push_back(place(array ? Json::array() : Json::object()));
  if (is_model) model_ = open_.back();
  return true;
}

bool Reader::close() {
  if (in_ == Part::rest) {
    open_.pop_back();
    return true;
  }
  if (depth_ == 2 && at_ != 2) wrong(in_ == Part::merges ? "merges" : "vocab", "made of pairs");
  if (--depth_ == 0) in_ = Part::rest;
  return true;
}

bool Reader::scalar(Json value) {
  if (in_ != Part::rest) wrong(in_ == Part::merges ? "merges" : "vocab", "of the expected shape");
  place(std::move(value));
  return true;
}

// Puts a value where the document has it. Pointers to open containers stay good: only the
// innermost one grows.
Json* Reader::place(Json value) {
  if (open_.empty()) {
    out_.root = std::move(value);
    return &out_.root;
  }
  Json& parent = *open_.back();
  if (parent.is_array()) {
    parent.push_back(std::move(value));
    return &parent.back();
  }
  if (parent.size() >= kMaxMembers) throw input_error("an object has too many members");
  if (parent.contains(key_)) throw input_error("JSON key '" + printable(key_) + "' appears twice");
  return &(parent[key_] = std::move(value));
}
}  // namespace

TokenizerJson read_tokenizer_json(std::string_view text) {
  TokenizerJson out;
  Reader reader(out);
  parse_json_sax(std::as_bytes(std::span(text.data(), text.size())), reader);
  if (!out.root.is_object()) throw input_error("is not a JSON object");
  return out;
}

}  // namespace qp
