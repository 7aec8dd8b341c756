#include "lib/text/documents.h"

#include <algorithm>

#include "lib/base/error.h"
#include "lib/base/json.h"

namespace qp {

std::string content_extension(std::string_view path) {
  auto take = [&] {
    size_t slash = path.rfind('/');
    std::string_view name = slash == std::string_view::npos ? path : path.substr(slash + 1);
    size_t dot = name.rfind('.');
    std::string extension(dot == std::string_view::npos ? "" : name.substr(dot + 1));
    for (char& c : extension) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
    if (dot != std::string_view::npos) path.remove_suffix(name.size() - dot);
    return extension;
  };
  std::string extension = take();
  if (extension == "gz" || extension == "zst" || extension == "zstd") extension = take();
  return extension;
}

int JsonValues::get() {
  if (at_ == filled_) {
    filled_ = source_.read(buffer_);
    at_ = 0;
    if (filled_ == 0) return -1;
  }
  char c = buffer_[at_++];
  if (c == '\n') ++line_;
  return static_cast<unsigned char>(c);
}

bool JsonValues::next(std::string& text) {
  auto wrong = [&](const std::string& what) {
    return input_error(what).file(name() + ":" + std::to_string(line_));
  };
  text.clear();
  int c;
  while (true) {
    c = get();
    if (c == -1) {
      if (in_array_ && !closed_) throw wrong("the array has no end");
      return false;
    }
    if (c == ' ' || c == '\t' || c == '\r' || c == '\n') continue;
    if (!started_ && c == 0xef && get() == 0xbb && get() == 0xbf) continue;  // byte order mark
    if (closed_) throw wrong("something follows the array");
    bool comma = c == ',' && in_array_ && !expects_value_;
    if (comma) {
      expects_value_ = true;
      continue;
    }
    if (c == ']' && in_array_) {
      closed_ = true;
      continue;
    }
    break;
  }
  value_line_ = line_;
  if (c != '{' && c != '[') {
    throw wrong("is not JSON lines (expected an object, found '" +
                printable(std::string(1, static_cast<char>(c))) + "')")
        .hint("name plain text .txt and give no field");
  }
  // An array at the top whose first element is an object holds the values.
  if (!started_ && c == '[') {
    started_ = true;
    int first = get();
    while (first == ' ' || first == '\t' || first == '\r' || first == '\n') first = get();
    if (first == '{') {
      in_array_ = true;
      value_line_ = line_;
      c = first;
    } else if (first != -1) {
      text = "[";
      --at_;  // look at it again
      if (first == '\n') --line_;
    }
  }
  started_ = true;
  expects_value_ = false;
  size_t depth = 1;
  bool quoted = false;
  if (text.empty()) text += static_cast<char>(c);
  while (depth > 0) {
    c = get();
    if (c == -1) throw wrong("the JSON that begins on line " + std::to_string(value_line_) +
                             " has no end");
    text += static_cast<char>(c);
    if (text.size() > kMaxValue) throw wrong("a JSON value is larger than 1 GiB");
    if (quoted) {
      if (c == '\\') {
        c = get();
        if (c != -1) text += static_cast<char>(c);
      } else if (c == '"') {
        quoted = false;
      } else if (c == '\n') {
        line_ -= 1;  // that is where the string begins
        throw wrong("a JSON string has no end on its line");
      }
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{' || c == '[') {
      ++depth;
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return true;
}

Documents::Documents(std::vector<std::string> paths, std::optional<std::string> field)
    : paths_(std::move(paths)), field_(std::move(field)) {
  if (paths_.empty()) throw usage_error("no text is given").hint("give a file, or - for standard input");
}
Documents::~Documents() = default;

bool Documents::next(Document& out) {
  while (true) {
    if (json_ != nullptr) {
      if (next_json(out)) return true;
      json_.reset();
    } else if (plain_ != nullptr) {
      if (next_plain(out)) return true;
      plain_.reset();
    }
    if (path_ == paths_.size()) return false;
    const std::string& path = paths_[path_++];
    std::string extension = content_extension(path);
    if (field_ || extension == "jsonl" || extension == "ndjson" || extension == "json") {
      json_ = std::make_unique<JsonValues>(path);
    } else {
      plain_ = std::make_unique<ByteSource>(path);
      begins_ = true;
      carry_.clear();
    }
  }
}

bool Documents::next_json(Document& out) {
  std::string text;
  if (!json_->next(text)) return false;
  Json value = parse_json(text, json_->place());
  const std::string field = field_.value_or("text");
  if (!value.is_object()) {
    throw input_error("is an array of no objects").file(json_->place()).hint(
        "token ids are not text: give them as tokens");
  }
  auto it = value.find(field);
  bool chat = it != value.end() ? it->is_array() : value.contains("messages");
  if (chat) {
    throw input_error("holds a conversation ('" + std::string(it != value.end() ? field : "messages") +
                      "'), and chat templates are not supported")
        .file(json_->place())
        .hint("render the template first and give the text");
  }
  if (it == value.end()) {
    std::vector<std::string> names;
    for (const auto& [name, unused] : value.items()) names.push_back(name);
    std::string hint = did_you_mean(field, names);
    if (hint.empty() && !names.empty()) {
      hint = "members are";
      for (size_t i = 0; i < std::min<size_t>(names.size(), 8); ++i) {
        hint += (i > 0 ? ", " : " ") + printable(names[i]);
      }
    }
    throw input_error("has no member '" + printable(field) + "'")
        .file(json_->place())
        .hint(hint);
  }
  if (!it->is_string()) {
    throw input_error("member '" + printable(field) + "' is no text (expected a string, found " +
                      it->type_name() + ")")
        .file(json_->place());
  }
  out = {it->get<std::string>(), true, true};
  return true;
}

namespace {
// Where to cut a part: behind the last newline that is followed by something visible, or else
// between two characters.
size_t cut_at(std::string_view text) {
  for (size_t at = text.size() - 1; at > text.size() / 2; --at) {
    auto next = static_cast<unsigned char>(text[at]);
    if (text[at - 1] == '\n' && next > ' ') return at;
  }
  size_t at = text.size();
  while (at > text.size() - 4 && (static_cast<unsigned char>(text[at - 1]) & 0xc0) == 0x80) --at;
  // `text[at - 1]` begins the last character, whole or not: leave it to the next part.
  return at - 1;
}
}  // namespace

bool Documents::next_plain(Document& out) {
  if (!begins_ && carry_.empty()) return false;
  out.text = std::move(carry_);
  carry_.clear();
  // One byte more than a part tells whether the file goes on.
  bool more = true;
  for (size_t step = 64 << 10; more && out.text.size() <= kMaxPart; step *= 2) {
    size_t have = out.text.size();
    size_t room = std::min(step, kMaxPart + 1 - have);
    out.text.resize(have + room);
    size_t n = plain_->read(std::span(out.text).subspan(have));
    out.text.resize(have + n);
    more = n == room;
  }
  out.begins = begins_;
  begins_ = false;
  out.ends = out.text.size() <= kMaxPart;
  if (!out.ends) {
    size_t at = cut_at(out.text);
    carry_ = out.text.substr(at);
    out.text.resize(at);
  }
  return true;
}

}  // namespace qp
