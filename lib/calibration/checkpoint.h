// What an unfinished qcalibrate has made durable, beside OUT.partial: a journal with a line of JSON
// per finished layer (a line counts only with its newline, and is written after what it speaks of was
// synced), and the two files of hidden states.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "lib/base/file.h"
#include "lib/base/json.h"

namespace qp {

class Checkpoint {
 public:
  // `partial` "": nothing is kept (the result goes into a pipe) and the states are spill files.
  // `run` names everything the numbers depend on. Errors: usage, when resuming what another run left.
  Checkpoint(const std::string& partial, const std::string& run, bool resume);
  // Removes its files, unless told to keep them.
  ~Checkpoint();
  Checkpoint(const Checkpoint&) = delete;
  Checkpoint& operator=(const Checkpoint&) = delete;

  const std::vector<Json>& finished() const { return finished_; }
  std::array<Fd, 2> take_states() { return std::move(states_); }
  bool named() const { return !partial_.empty(); }
  void add(const Json& layer);
  void keep() { keep_ = true; }

 private:
  std::string state_path(int i) const;
  void read(const std::string& run);

  std::string partial_, journal_path_;
  Fd journal_;
  uint64_t at_ = 0;
  bool keep_ = false;
  std::array<Fd, 2> states_;
  std::vector<Json> finished_;
};

}  // namespace qp
