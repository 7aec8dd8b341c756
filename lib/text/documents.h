// Texts for calibration and evaluation: plain files, JSON lines, JSON arrays, compressed or not.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lib/text/byte_source.h"

namespace qp {

struct Document {
  std::string text;
  // A plain file above Documents::kMaxPart comes in parts, cut where a line ends if it can be.
  bool begins = true, ends = true;
};

// The name without ".gz", ".zst", ".zstd", and its extension in lower case ("jsonl").
std::string content_extension(std::string_view path);

// Reads JSON values one after the other: the lines of JSON lines, or the elements of an array.
class JsonValues {
 public:
  explicit JsonValues(const std::string& path) : source_(path), buffer_(kBuffer) {}
  // The text of the next object or array; false at the end. Errors: input, with file and line.
  bool next(std::string& text);
  // Line on which the last value began, from 1.
  uint64_t line() const { return value_line_; }
  const std::string& name() const { return source_.name(); }
  // `path` and line for messages.
  std::string place() const { return name() + ":" + std::to_string(value_line_); }

 private:
  static constexpr size_t kBuffer = 64 << 10;
  static constexpr size_t kMaxValue = 1u << 30;
  int get();
  ByteSource source_;
  std::vector<char> buffer_;
  size_t at_ = 0, filled_ = 0;
  uint64_t line_ = 1, value_line_ = 0;
  bool in_array_ = false, started_ = false, expects_value_ = false, closed_ = false;
};

// Documents of many files in order; reads no further than asked.
class Documents {
 public:
  static constexpr size_t kMaxPart = 64 << 20;

  // `paths` are files, or "-" for standard input. `field` is the member that holds the text; with
  // one given, or by the extension .jsonl, .ndjson or .json, a file is JSON lines or a JSON array
  // of objects (the member is "text" then unless given). Any other file is one document. gzip and
  // zstd are told by their first bytes. Errors: usage, without a path.
  explicit Documents(std::vector<std::string> paths, std::optional<std::string> field = {});
  ~Documents();

  // The next document, as it is (perhaps empty); false when there is none.
  // Errors: system; input, naming file and line.
  bool next(Document& out);

 private:
  bool next_json(Document& out);
  bool next_plain(Document& out);
  std::vector<std::string> paths_;
  std::optional<std::string> field_;
  size_t path_ = 0;
  std::unique_ptr<JsonValues> json_;
  std::unique_ptr<ByteSource> plain_;
  std::string carry_;  // of a plain file: behind the last cut
  bool begins_ = true;
};

}  // namespace qp
