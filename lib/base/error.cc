#include "lib/base/error.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace qp {

Error&& Error::file(std::string_view path) && {
  static_cast<Error&>(*this).file(path);
  return std::move(*this);
}
Error&& Error::tensor(std::string_view name) && {
  static_cast<Error&>(*this).tensor(name);
  return std::move(*this);
}
Error&& Error::hint(std::string_view text) && {
  hint_ = text;
  render();
  return std::move(*this);
}
Error& Error::file(std::string_view path) & {
  if (file_.empty()) file_ = path;
  render();
  return *this;
}
Error& Error::tensor(std::string_view name) & {
  if (tensor_.empty()) tensor_ = name;
  render();
  return *this;
}

namespace {
constexpr size_t kMaxPath = 4096;  // no path that can be opened is longer
}

void Error::render() {
  message_.clear();
  if (!file_.empty()) message_ += printable(file_, kMaxPath) + ": ";
  if (!tensor_.empty()) message_ += "tensor '" + printable(tensor_) + "': ";
  message_ += what_;
  if (!hint_.empty()) message_ += "; " + hint_;
}

Error system_error(std::string what, int errno_value) {
  return {ErrorKind::system, std::move(what) + ": " + std::strerror(errno_value)};
}

namespace {

// Where the UTF-8 character that holds byte `at` begins; at most three bytes before.
size_t character_begin(std::string_view text, size_t at) {
  for (size_t back = 0; back < 4 && back <= at && at < text.size(); ++back) {
    if ((static_cast<unsigned char>(text[at - back]) & 0xc0u) != 0x80u) return at - back;
  }
  return at;
}

void escape(std::string_view text, std::string& out) {
  static const char* hex = "0123456789abcdef";
  for (char c : text) {
    auto u = static_cast<unsigned char>(c);
    if (u < 0x20 || u == 0x7f || c == '\\') {
      out += "\\x";
      out += hex[u >> 4];
      out += hex[u & 15];
    } else {
      out += c;
    }
  }
}

}  // namespace

std::string printable(std::string_view text, size_t limit) {
  std::string out;
  if (text.size() <= limit) {
    escape(text, out);
    return out;
  }
  // Both ends tell: paths and tensor names differ at the end more often than not.
  size_t head = character_begin(text, limit / 2), tail = character_begin(text, text.size() - limit / 2);
  escape(text.substr(0, head), out);
  out += "\u2026";
  escape(text.substr(tail), out);
  return out;
}

int edit_distance(std::string_view a, std::string_view b) {
  std::vector<int> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    int diagonal = row[0];
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      int next = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
      diagonal = std::exchange(row[j], next);
    }
  }
  return row[b.size()];
}

}  // namespace qp
