#include "lib/algorithm/journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <sstream>

#include "lib/base/error.h"
#include "lib/base/hash.h"

namespace qp {

Journal::Journal(const std::string& partial, const std::string& run, bool resume)
    : path_(partial + ".journal") {
  std::string head = "qpipe-journal 1 " + run + "\n";
  std::string text;
  if (resume && access(path_.c_str(), F_OK) == 0) text = read_text_file(path_, uint64_t{1} << 30);
  if (!text.empty() && !text.starts_with(head)) {
    throw usage_error("belongs to another run (input, plan, version or instruction set differ)")
        .file(path_)
        .hint("use --force to start again");
  }
  std::istringstream lines(text.substr(0, text.rfind('\n') + 1));
  std::string line;
  std::getline(lines, line);
  while (std::getline(lines, line)) {
    std::istringstream words(line);
    size_t index = 0;
    std::vector<uint64_t> hashes;
    words >> index >> std::hex;
    for (uint64_t h = 0; words >> h;) hashes.push_back(h);
    done_[index] = std::move(hashes);
  }
  fd_.reset(open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666));
  if (!fd_) throw system_error("cannot create", errno).file(path_);
  at_ = text.empty() ? 0 : text.rfind('\n') + 1;
  if (ftruncate(fd_.get(), static_cast<off_t>(at_)) != 0) {
    throw system_error("cannot truncate", errno).file(path_);
  }
  if (at_ == 0) pending_ = head;
}

const std::vector<uint64_t>* Journal::finished(size_t index) const {
  auto it = done_.find(index);
  return it == done_.end() ? nullptr : &it->second;
}

void Journal::add(size_t index, const std::vector<uint64_t>& hashes) {
  added_ = true;
  pending_ += std::to_string(index);
  for (uint64_t h : hashes) pending_ += " " + hex64(h);
  pending_ += "\n";
}

void Journal::flush(int data_fd) {
  if (pending_.empty()) return;
  if (fdatasync(data_fd) != 0) throw system_error("cannot sync", errno).file(path_);
  write_all(fd_.get(), std::as_bytes(std::span(pending_)), at_, path_);
  if (fdatasync(fd_.get()) != 0) throw system_error("cannot sync", errno).file(path_);
  at_ += pending_.size();
  pending_.clear();
}

void Journal::remove() { unlink(path_.c_str()); }

}  // namespace qp
