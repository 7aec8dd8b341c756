// What an unfinished qquantize has made durable: OUT.partial.journal beside OUT.partial.
// Text: a first line that says what run it belongs to, then one line per finished tensor with the
// hashes of its parts. A line counts only with its newline, and only after the data was synced.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "lib/base/file.h"

namespace qp {

class Journal {
 public:
  // Continues (`resume`) or starts the journal of `partial`. Errors: usage, when it belongs to
  // another plan, version or instruction set.
  Journal(const std::string& partial, const std::string& run, bool resume);
  // Hashes of the parts of tensor `index`, or null when it is not finished.
  const std::vector<uint64_t>* finished(size_t index) const;
  bool empty() const { return done_.empty() && !added_; }  // nothing is finished
  size_t count() const { return done_.size(); }
  // The tensor's bytes are written to `data_fd`; they are synced before the line is.
  void add(size_t index, const std::vector<uint64_t>& hashes);
  void flush(int data_fd);
  void remove();

 private:
  std::string path_, pending_;
  Fd fd_;
  bool added_ = false;
  uint64_t at_ = 0;
  std::map<size_t, std::vector<uint64_t>> done_;
};

}  // namespace qp
