// What an unfinished qcalibrate has finished, beside OUT.partial: a journal with a line of JSON per
// layer (a line counts only with its newline), and files of hidden states. A line tells whether what
// it speaks of was synced before; if not, it counts as long as the machine has not been started
// again, for then what a killed process wrote is all there.
#pragma once

#include <string>
#include <vector>

#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/stream/stream.h"

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

  // The layers to take over, and in which file the states of the last of them are.
  const std::vector<Json>& finished() const { return finished_; }
  size_t state() const { return state_; }
  bool durable() const { return durable_; }
  States take_states() { return std::move(states_); }
  bool named() const { return !partial_.empty(); }
  void add(const Json& layer, size_t state, bool synced);
  void keep() { keep_ = true; }

 private:
  std::string state_path(size_t i) const;
  void read(const std::string& run);

  std::string partial_, journal_path_;
  Fd journal_;
  uint64_t at_ = 0;
  bool keep_ = false, durable_ = false;
  size_t state_ = 0;
  States states_;
  std::vector<Json> finished_;
};

}  // namespace qp
