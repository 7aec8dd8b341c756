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
      throw usage_error("holds an input of this run").file(directory).hint("write to another directory");
    }
  }
  struct stat st {};
  if (stat(final_.c_str(), &st) == 0) {
    bool empty = S_ISDIR(st.st_mode) && fs::is_empty(final_, ec);
    if (!S_ISDIR(st.st_mode)) throw usage_error("is no directory").file(directory).hint("name a directory");
    if (!force && !empty) throw system_error("exists", EEXIST).file(directory).hint("use --force to replace it");
  }
  partial_ = final_ + ".partial";
  if (stat(partial_.c_str(), &st) == 0) {
    if (!S_ISDIR(st.st_mode) || !fs::exists(partial_ + "/" + kPartialMarker)) {
      throw system_error("is in the way and was not made by qexport", EEXIST).file(partial_).hint("move it");
    }
    lock_.reset(open(partial_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!lock_ || flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) {
      std::string path = partial_;
      partial_.clear();
      throw system_error("another qexport is writing it", EBUSY).file(path);
    }
    fs::remove_all(partial_, ec);
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
  std::error_code ec;
  fs::remove_all(partial_, ec);
}

void PartialDirectory::commit(bool sync) {
  std::error_code ec;
  if (sync) sync_fd(lock_.get(), partial_);
  // Nothing slow between the two: without its marker, a directory that is left is nobody's.
  fs::remove(partial_ + "/" + kPartialMarker, ec);
  if (fs::exists(final_, ec)) {
    if (renameat2(AT_FDCWD, partial_.c_str(), AT_FDCWD, final_.c_str(), RENAME_EXCHANGE) == 0) {
      done_ = true;
      fs::remove_all(partial_, ec);
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
