// The one exception type of qpipe and its exit codes.
// Whoever detects a problem throws; callers add only what they alone know (file, tensor).
// Printed as `qtool: FILE: tensor 'NAME': what; hint` (DESIGN.md, "Errors").
#pragma once

#include <exception>
#include <string>
#include <string_view>
#include <utility>

namespace qp {

// The values are the documented exit codes. Never renumber.
enum class ErrorKind : int {
  check = 1,    // qverify: the checkpoint failed a check
  usage = 2,    // arguments or recipe are wrong
  input = 3,    // input is malformed, changed, or of a kind that is not supported
  system = 4,   // not found, no space, I/O, nobody took the result
  limit = 5,    // memory, or a lossy step that was not allowed, or a target that cannot hold it
  defect = 70,  // our own bug
};

class Error : public std::exception {
 public:
  Error(ErrorKind kind, std::string what) : kind_(kind), what_(std::move(what)) { render(); }

  // Context is set once, by whoever knows it first; later calls do not overwrite it.
  Error&& file(std::string_view path) &&;
  Error&& tensor(std::string_view name) &&;
  Error&& hint(std::string_view text) &&;
  Error& file(std::string_view path) &;
  Error& tensor(std::string_view name) &;

  ErrorKind kind() const { return kind_; }
  int exit_code() const { return static_cast<int>(kind_); }
  const std::string& file() const { return file_; }
  const std::string& tensor() const { return tensor_; }
  const std::string& reason() const { return what_; }
  const std::string& hint() const { return hint_; }
  // The whole message without the program's name; control characters are escaped.
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  void render();
  ErrorKind kind_;
  std::string file_, tensor_, what_, hint_, message_;
};

inline Error usage_error(std::string what) { return {ErrorKind::usage, std::move(what)}; }
inline Error input_error(std::string what) { return {ErrorKind::input, std::move(what)}; }
inline Error limit_error(std::string what) { return {ErrorKind::limit, std::move(what)}; }
inline Error defect_error(std::string what) { return {ErrorKind::defect, std::move(what)}; }
// `what` plus the text of errno, e.g. "cannot open: No such file or directory".
Error system_error(std::string what, int errno_value);

// Makes a name printable: control characters and backslash escaped; the middle of what is longer
// than `limit` bytes becomes "…", between characters.
std::string printable(std::string_view text, size_t limit = 200);

// "did you mean 'X'?" for the closest of `known` within a third of the length, else "".
template <class Range>
std::string did_you_mean(std::string_view given, const Range& known);
int edit_distance(std::string_view a, std::string_view b);

template <class Range>
std::string did_you_mean(std::string_view given, const Range& known) {
  int best = static_cast<int>(given.size()) / 3 + 1;
  std::string_view found;
  for (std::string_view name : known) {
    if (int d = edit_distance(given, name); d <= best && (found.empty() || d < best)) {
      best = d;
      found = name;
    }
  }
  return found.empty() ? std::string() : "did you mean '" + std::string(found) + "'?";
}

}  // namespace qp
