#include "lib/algorithm/journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <utility>

#include "lib/base/error.h"
#include "lib/base/hash.h"

namespace qp {
namespace {

// The next word of a line as a number in `base`; false when there is none or it is none.
template <class T>
bool take(std::string_view& line, T& value, int base) {
  auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), value, base);
  if (error != std::errc() || (end != line.data() + line.size() && *end != ' ')) return false;
  line.remove_prefix(static_cast<size_t>(end - line.data()));
  if (!line.empty()) line.remove_prefix(1);
  return true;
}

}  // namespace

Journal::Journal(const std::string& partial, const std::string& run, bool resume, int data_fd,
                 bool durable)
    : path_(partial + ".journal"), head_("qpipe-journal 2 " + run + "\n"), data_fd_(data_fd),
      durable_(durable) {
  std::string text;
  if (resume && access(path_.c_str(), F_OK) == 0) text = read_text_file(path_, uint64_t{1} << 30);
  if (!text.empty() && !text.starts_with(head_)) {
    throw usage_error("belongs to another run (input, plan, version or instruction set differ)")
        .file(path_)
        .hint("use --force to start again");
  }
  std::vector<size_t> order;
  // Up to the first line that is not whole: what follows is rubble of a crash.
  at_ = text.empty() ? 0 : head_.size();
  for (size_t end; (end = text.find('\n', at_)) != std::string::npos; at_ = end + 1) {
    std::string_view line = std::string_view(text).substr(at_, end - at_);
    if (line.starts_with("synced ")) {
      line.remove_prefix(7);
      if (!take(line, synced_, 10) || !line.empty() || synced_ > order.size()) break;
      continue;
    }
    size_t index = 0;
    Hashes hashes;
    bool good = take(line, index, 10);
    for (uint64_t h = 0; good && !line.empty();) {
      if ((good = take(line, h, 16))) hashes.push_back(h);
    }
    if (!good) break;
    order.push_back(index);
    done_[index] = std::move(hashes);
  }
  synced_ = std::min(synced_, order.size());
  unsure_.assign(order.begin() + static_cast<ptrdiff_t>(synced_), order.end());
  lines_ = order.size();
  fd_.reset(open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666));
  if (!fd_) throw system_error("cannot create", errno).file(path_);
  if (ftruncate(fd_.get(), static_cast<off_t>(at_)) != 0) {
    throw system_error("cannot truncate", errno).file(path_);
  }
}

Journal::~Journal() { stop(); }

void Journal::check(const std::function<bool(size_t, const Hashes&)>& intact) {
  for (size_t index : std::exchange(unsure_, {})) {
    auto it = done_.find(index);
    if (it != done_.end() && !intact(index, it->second)) done_.erase(it);
  }
}

const Journal::Hashes* Journal::finished(size_t index) const {
  auto it = done_.find(index);
  return it == done_.end() ? nullptr : &it->second;
}

void Journal::write(const std::string& text) {
  write_all(fd_.get(), std::as_bytes(std::span(text)), at_, path_);
  at_ += text.size();
}

void Journal::add(size_t index, const Hashes& hashes) {
  std::string line = std::to_string(index);
  for (uint64_t h : hashes) line += " " + hex64(h);
  std::lock_guard lock(mutex_);
  write((at_ == 0 ? head_ : "") + line + "\n");
  ++lines_;
  added_ = true;
}

// `lines` were written before the data is synced, so the mark holds for them.
void Journal::sync_now(size_t lines) {
  if (fdatasync(data_fd_) != 0) throw system_error("cannot sync", errno).file(path_);
  if (synced_ == 0) sync_parent(path_);  // both files are new
  {
    std::lock_guard lock(mutex_);
    write("synced " + std::to_string(lines) + "\n");
    synced_ = lines;
  }
  if (fdatasync(fd_.get()) != 0) throw system_error("cannot sync", errno).file(path_);
}

void Journal::sync_thread() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    if (wanted_ <= synced_) {
      wake_.wait(lock);
      continue;
    }
    size_t lines = lines_;
    lock.unlock();
    try {
      sync_now(lines);
      lock.lock();
    } catch (...) {
      lock.lock();
      error_ = std::current_exception();
      return;
    }
  }
}

void Journal::sync() {
  if (!durable_) return;
  std::lock_guard lock(mutex_);
  if (error_) std::rethrow_exception(error_);
  wanted_ = lines_;
  if (!thread_.joinable()) thread_ = std::thread([this] { sync_thread(); });
  wake_.notify_one();
}

void Journal::stop() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    wake_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

void Journal::stop_sync() {
  stop();
  if (error_) std::rethrow_exception(error_);
}

void Journal::finish() {
  stop_sync();
  if (durable_ && synced_ < lines_) sync_now(lines_);
}

void Journal::remove() {
  stop();
  unlink(path_.c_str());
}

}  // namespace qp
