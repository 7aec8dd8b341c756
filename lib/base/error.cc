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

void Error::render() {
  message_.clear();
  if (!file_.empty()) message_ += printable(file_) + ": ";
  if (!tensor_.empty()) message_ += "tensor '" + printable(tensor_) + "': ";
  message_ += what_;
  if (!hint_.empty()) message_ += "; " + hint_;
}

Error system_error(std::string what, int errno_value) {
  return {ErrorKind::system, std::move(what) + ": " + std::strerror(errno_value)};
}

std::string printable(std::string_view text) {
  static const char* hex = "0123456789abcdef";
  std::string out;
  for (char c : text.substr(0, 200)) {
    auto u = static_cast<unsigned char>(c);
    if (u < 0x20 || u == 0x7f || c == '\\') {
      out += "\\x";
      out += hex[u >> 4];
      out += hex[u & 15];
    } else {
      out += c;
    }
  }
  if (text.size() > 200) out += "...";
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
