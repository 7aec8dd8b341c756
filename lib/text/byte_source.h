// Bytes of a file or of standard input, decompressed when they begin as gzip or zstd does.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace qp {

class ByteSource {
 public:
  // `path` or "-" for standard input. Errors: system.
  explicit ByteSource(const std::string& path);
  ~ByteSource();
  ByteSource(const ByteSource&) = delete;
  ByteSource& operator=(const ByteSource&) = delete;

  // Fills as much of `out` as there is; 0 only at the end. Memory does not depend on the file.
  // Errors: system, and input, when compressed data are damaged or end early.
  size_t read(std::span<char> out);
  const std::string& name() const { return name_; }  // the path, or "standard input"

 private:
  struct State;
  std::string name_;
  std::unique_ptr<State> state_;
};

}  // namespace qp
