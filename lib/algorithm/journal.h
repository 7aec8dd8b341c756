// What an unfinished qquantize has finished: OUT.partial.journal beside OUT.partial.
// Text: a first line that says what run it belongs to, then one line per finished tensor with the
// hashes of its parts, written when the tensor is: killing the process loses none. "synced N" says
// that the data of the first N of them has reached the disk. Lines after the last such mark may
// be ahead of their data when the machine lost power, so whoever resumes compares their hashes.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "lib/base/file.h"

namespace qp {

class Journal {
 public:
  using Hashes = std::vector<uint64_t>;  // of the parts of a tensor
  // Continues (`resume`) or starts the journal of `partial`, whose bytes go to `data_fd`. With
  // `durable`, sync() does something. Errors: usage, when it belongs to another plan, version or
  // instruction set.
  Journal(const std::string& partial, const std::string& run, bool resume, int data_fd, bool durable);
  ~Journal();
  // Asks `intact` about finished tensors whose data may not have reached the disk, and forgets
  // those that are not.
  void check(const std::function<bool(size_t index, const Hashes&)>& intact);
  // Null when the tensor is not finished.
  const Hashes* finished(size_t index) const;
  bool empty() const { return done_.empty() && !added_; }  // nothing is finished
  // The tensor's bytes are written.
  void add(size_t index, const Hashes& hashes);
  // Makes what was added so far survive a power cut, in the background. Requests that arrive while
  // one is carried out become one. Errors, also of earlier requests: system.
  void sync();
  // No more of it, for what is about to sync everything anyway. Errors: as sync().
  void stop_sync();
  // Everything added is durable. Errors: as sync().
  void finish();
  void remove();

 private:
  void write(const std::string& text);
  void sync_thread();
  void sync_now(size_t lines);
  void stop();

  std::string path_, head_;
  int data_fd_;
  bool durable_;
  Fd fd_;
  bool added_ = false;
  std::map<size_t, Hashes> done_;
  std::vector<size_t> unsure_;  // finished by lines after the last mark

  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  uint64_t at_ = 0;
  size_t lines_ = 0, synced_ = 0, wanted_ = 0;  // tensors: added, on the disk, to be
  bool stop_ = false;
  std::exception_ptr error_;
  std::thread thread_;
};

}  // namespace qp
