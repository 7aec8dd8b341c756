#include "formats/hf/partial_dir.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>

#include "lib/base/error.h"

namespace qp {
namespace fs = std::filesystem;
namespace {

bool inside(const fs::path& inner, const fs::path& outer) {
  auto rel = inner.lexically_relative(outer);
  return !rel.empty() && *rel.begin() != "..";
}

// Empties and removes a directory of ours, its marker last: what a kill leaves is still ours.
void remove_marked(const std::string& directory, const char* marker) {
  std::error_code ec, ignored;
  for (auto it = fs::directory_iterator(directory, ec); !ec && it != fs::directory_iterator();
       it.increment(ec)) {
    if (it->path().filename() != marker) fs::remove_all(it->path(), ignored);
  }
  fs::remove(directory + "/" + marker, ec);
  fs::remove(directory, ec);
}

// What tells a directory that was there before: the device and inode of the one in its place.
std::string identity_of(const std::string& directory) {
  struct stat st {};
  if (stat(directory.c_str(), &st) != 0) return "";
  return std::to_string(st.st_dev) + " " + std::to_string(st.st_ino) + "\n";
}

// DIR.partial is the output that DIR replaced, when a kill came before it was removed.
bool was_replaced(const std::string& partial, const std::string& final_path) {
  std::string marker = partial + "/" + kReplacedMarker, now = identity_of(final_path);
  struct stat st {};
  if (now.empty() || lstat(marker.c_str(), &st) != 0 || !S_ISREG(st.st_mode)) return false;
  return read_text_file(marker, 4096) == now;
}

}  // namespace

PartialDirectory::PartialDirectory(const std::string& directory, bool force,
                                   const std::vector<std::string>& inputs) {
  std::error_code ec;
  final_ = directory;
  while (final_.size() > 1 && final_.back() == '/') final_.pop_back();
  fs::path real = fs::weakly_canonical(final_, ec);
  for (const std::string& input : inputs) {
    fs::path in = fs::weakly_canonical(input, ec);
    if (in == real || inside(in, real)) {
      throw usage_error("holds an input of this run")
          .file(directory)
          .hint("write to another directory");
    }
  }
  struct stat st {};
  if (stat(final_.c_str(), &st) == 0) {
    bool empty = S_ISDIR(st.st_mode) && fs::is_empty(final_, ec);
    if (!S_ISDIR(st.st_mode))
      throw usage_error("is no directory").file(directory).hint("name a directory");
    if (!force && !empty)
      throw system_error("exists", EEXIST).file(directory).hint("use --force to replace it");
  }
  partial_ = final_ + ".partial";
  if (stat(partial_.c_str(), &st) == 0) {
    bool ours = fs::exists(partial_ + "/" + kPartialMarker, ec);
    if (!S_ISDIR(st.st_mode) || (!ours && !was_replaced(partial_, final_))) {
      throw system_error("is in the way and was not made by qexport", EEXIST)
          .file(partial_)
          .hint("move it");
    }
    lock_.reset(open(partial_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!lock_ || flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) {
      std::string path = partial_;
      partial_.clear();
      throw system_error("another qexport is writing it", EBUSY).file(path);
    }
    remove_marked(partial_, ours ? kPartialMarker : kReplacedMarker);
  }
  fs::path parent = fs::path(final_).parent_path();
  if (!parent.empty()) fs::create_directories(parent, ec);
  if (mkdir(partial_.c_str(), 0777) != 0) {
    int error = errno;
    std::string path = partial_;
    partial_.clear();
    throw system_error("cannot create", error).file(path);
  }
  lock_.reset(open(partial_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (lock_) flock(lock_.get(), LOCK_EX | LOCK_NB);
  Fd marker(open((partial_ + "/" + kPartialMarker).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666));
}

PartialDirectory::~PartialDirectory() {
  if (done_ || partial_.empty()) return;
  remove_marked(partial_, kPartialMarker);
}

void PartialDirectory::commit(bool sync) {
  std::error_code ec;
  if (sync) sync_fd(lock_.get(), partial_);
  bool replaces = fs::exists(final_, ec);
  if (replaces) {  // written while the name is still its: after the exchange it says whose it was
    std::string marker = final_ + "/" + kReplacedMarker, text = identity_of(partial_);
    Fd fd(open(marker.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666));
    if (fd) write_all(fd.get(), std::as_bytes(std::span(text)), 0, marker);
    if (fd && sync) sync_fd(fd.get(), marker);
  }
  // Nothing slow between the two: without its marker, a directory that is left is nobody's.
  fs::remove(partial_ + "/" + kPartialMarker, ec);
  if (replaces) {
    if (renameat2(AT_FDCWD, partial_.c_str(), AT_FDCWD, final_.c_str(), RENAME_EXCHANGE) == 0) {
      done_ = true;
      remove_marked(partial_, kReplacedMarker);
    } else {
      std::string old = final_ + ".old";
      fs::rename(final_, old, ec);
      if (rename(partial_.c_str(), final_.c_str()) != 0) {
        throw system_error("cannot rename into place", errno).file(final_);
      }
      done_ = true;
      fs::remove_all(old, ec);
    }
  } else if (rename(partial_.c_str(), final_.c_str()) != 0) {
    throw system_error("cannot rename into place", errno).file(final_);
  }
  done_ = true;
  if (sync) {
    sync_fd(lock_.get(), final_);
    sync_parent(final_);
  }
}

}  // namespace qp
