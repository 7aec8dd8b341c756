#include "lib/base/file.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>

#include "lib/base/error.h"

namespace qp {
namespace {

// Mappings known to the SIGBUS handler. Plain atomics: the handler may run on any thread.
struct Slot {
  std::atomic<uintptr_t> begin{0};
  std::atomic<uintptr_t> end{0};
  std::atomic<bool> used{false};
  std::atomic<int64_t> fault{-1};  // offset of the first lost page
};
constexpr int kSlots = 8192;
Slot slots[kSlots];
std::atomic<int> slots_used{0};  // slots at or past this index were never used
uintptr_t page_size = 4096;

// Puts zeros in place of the lost page, so that the reader goes on; throw_if_changed() tells.
void on_sigbus(int, siginfo_t* info, void*) {
  auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  int n = slots_used.load();
  for (int i = 0; i < n; ++i) {
    uintptr_t begin = slots[i].begin.load();
    if (!slots[i].used.load() || address < begin || address >= slots[i].end.load()) continue;
    uintptr_t page = address & ~(page_size - 1);
    if (mmap(reinterpret_cast<void*>(page), page_size, PROT_READ,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) {
      break;
    }
    int64_t none = -1;
    slots[i].fault.compare_exchange_strong(none, static_cast<int64_t>(page - begin));
    return;
  }
  signal(SIGBUS, SIG_DFL);  // not ours: die of it when the instruction runs again
}

int take_slot(const void* data, size_t size) {
  for (int i = 0; i < kSlots; ++i) {
    bool expected = false;
    if (!slots[i].used.compare_exchange_strong(expected, true)) continue;
    slots[i].fault = -1;
    slots[i].begin = reinterpret_cast<uintptr_t>(data);
    slots[i].end = reinterpret_cast<uintptr_t>(data) + size;
    int n = slots_used.load();
    while (n < i + 1 && !slots_used.compare_exchange_weak(n, i + 1)) {
    }
    return i;
  }
  return -1;
}

int64_t mtime_of(const struct stat& st) {
  return int64_t{st.st_mtim.tv_sec} * 1'000'000'000 + st.st_mtim.tv_nsec;
}

}  // namespace

Fd& Fd::operator=(Fd&& other) noexcept {
  if (this != &other) reset(other.release());
  return *this;
}
int Fd::release() { return std::exchange(fd_, -1); }
void Fd::reset(int fd) {
  if (fd_ >= 0) ::close(fd_);
  fd_ = fd;
}

std::shared_ptr<const MappedFile> MappedFile::open(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) throw system_error("cannot open", errno).file(path);
  return adopt(std::move(fd), path);
}

std::shared_ptr<const MappedFile> MappedFile::adopt(Fd fd, const std::string& label) {
  struct stat st {};
  if (fstat(fd.get(), &st) != 0) throw system_error("cannot stat", errno).file(label);
  if (!S_ISREG(st.st_mode)) {
    throw input_error(S_ISDIR(st.st_mode) ? "is a directory (expected a file)"
                                          : "is not a regular file")
        .file(label);
  }
  std::shared_ptr<MappedFile> file(new MappedFile);
  file->path_ = label;
  file->size_ = static_cast<size_t>(st.st_size);
  file->mtime_ns_ = mtime_of(st);
  if (file->size_ > 0) {
    void* p = mmap(nullptr, file->size_, PROT_READ, MAP_SHARED, fd.get(), 0);
    if (p == MAP_FAILED) throw system_error("cannot map", errno).file(label);
    file->data_ = static_cast<const std::byte*>(p);
    file->slot_ = take_slot(p, file->size_);
    if (file->slot_ < 0) {
      throw limit_error("more than " + std::to_string(kSlots) + " files mapped at once").file(label);
    }
  }
  file->fd_ = std::move(fd);
  return file;
}

MappedFile::~MappedFile() {
  if (data_ == nullptr) return;
  if (slot_ >= 0) slots[slot_].used = false;
  munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::drop(uint64_t offset, uint64_t length) const {
  uint64_t begin = (offset + page_size - 1) & ~uint64_t{page_size - 1};
  uint64_t end = (offset + length) & ~uint64_t{page_size - 1};
  if (data_ == nullptr || begin >= end || end > size_) return;
  madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_DONTNEED);
}

void MappedFile::populate(uint64_t offset, uint64_t length) const {
  uint64_t begin = offset & ~uint64_t{page_size - 1};
  uint64_t end = std::min<uint64_t>((offset + length + page_size - 1) & ~uint64_t{page_size - 1}, size_);
  if (data_ == nullptr || begin >= end) return;
#ifdef MADV_POPULATE_READ  // Linux 5.14; a wish: what cannot be read is noticed when it is touched
  madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_POPULATE_READ);
#endif
}

void MappedFile::throw_if_changed() const {
  struct stat st {};
  if (fstat(fd_.get(), &st) != 0) throw system_error("cannot stat", errno).file(path_);
  int64_t fault = slot_ >= 0 ? slots[slot_].fault.load() : -1;
  if (static_cast<uint64_t>(st.st_size) != size_) {
    throw input_error("changed while it was read (expected " + std::to_string(size_) +
                      " bytes, found " + std::to_string(st.st_size) + ")")
        .file(path_)
        .hint("run again when nothing writes to it");
  }
  if (fault >= 0) {
    throw input_error("could not be read at offset " + std::to_string(fault))
        .file(path_)
        .hint("the file changed or its disk failed; check it and run again");
  }
  if (mtime_of(st) != mtime_ns_) {
    throw input_error("changed while it was read (modification time)")
        .file(path_)
        .hint("run again when nothing writes to it");
  }
}

void install_fault_handler() {
  page_size = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  struct sigaction action {};
  action.sa_sigaction = on_sigbus;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, nullptr);
}

void write_all(int fd, std::span<const std::byte> bytes, uint64_t offset, const std::string& path) {
  while (!bytes.empty()) {
    ssize_t n = pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EFAULT) throw input_error("a mapped source changed while copied to").file(path);
    if (n <= 0) throw system_error("cannot write", n < 0 ? errno : ENOSPC).file(path);
    bytes = bytes.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
}

void read_all(int fd, std::span<std::byte> bytes, uint64_t offset, const std::string& path) {
  while (!bytes.empty()) {
    ssize_t n = pread(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) throw system_error("cannot read", n < 0 ? errno : EIO).file(path);
    bytes = bytes.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
}

namespace {

[[noreturn]] void refuse_space(int error, uint64_t bytes, const std::string& path) {
  throw system_error("cannot reserve " + std::to_string(bytes) + " bytes", error)
      .file(path)
      .hint(error == EFBIG ? "the file size limit (ulimit -f) is too small"
                           : "free some space or choose another place (for a spill, QPIPE_TMPDIR)");
}

// The file is in memory and has room for that many bytes.
bool has_memory(int fd, uint64_t bytes) {
  struct statfs fs {};
  if (fstatfs(fd, &fs) != 0 || fs.f_type != TMPFS_MAGIC || fs.f_blocks == 0) return false;
  return bytes / static_cast<uint64_t>(fs.f_bsize) < fs.f_bavail;
}

}  // namespace

void reserve_space(int fd, uint64_t bytes, const std::string& path, bool mapped) {
  if (bytes == 0) return;
  if (!mapped && has_memory(fd, bytes)) {
    if (ftruncate(fd, static_cast<off_t>(bytes)) != 0) refuse_space(errno, bytes, path);
    return;
  }
  while (fallocate(fd, 0, 0, static_cast<off_t>(bytes)) != 0) {
    int error = errno;
    if (error == EINTR) continue;
    if (error != EOPNOTSUPP && error != ENOSYS) refuse_space(error, bytes, path);
    if (ftruncate(fd, static_cast<off_t>(bytes)) != 0) {
      throw system_error("cannot reserve space", errno).file(path);
    }
    break;
  }
}

void sync_fd(int fd, const std::string& path) {
  // Pipes and some special files cannot be synced; that is not a failure to keep data.
  if (fsync(fd) != 0 && errno != EINVAL && errno != EROFS) {
    throw system_error("cannot sync", errno).file(path);
  }
}

void sync_parent(const std::string& path) {
  std::string parent = std::filesystem::path(path).parent_path();
  if (parent.empty()) parent = ".";
  Fd fd(::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd) sync_fd(fd.get(), parent);
}

std::string read_text_file(const std::string& path, uint64_t max_bytes) {
  auto file = MappedFile::open(path);
  if (file->size() > max_bytes) {
    throw input_error("is too large (expected at most " + std::to_string(max_bytes) +
                      " bytes, found " + std::to_string(file->size()) + ")")
        .file(path);
  }
  auto bytes = file->bytes();
  std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  file->throw_if_changed();
  return text;
}

void write_file_atomically(const std::string& path, std::string_view content) {
  std::string partial = path + ".partial";
  Fd fd(::open(partial.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!fd) throw system_error("cannot create", errno).file(path);
  try {
    write_all(fd.get(), std::as_bytes(std::span(content)), 0, path);
    sync_fd(fd.get(), path);
    if (rename(partial.c_str(), path.c_str()) != 0) {
      throw system_error("cannot rename into place", errno).file(path);
    }
  } catch (...) {
    unlink(partial.c_str());
    throw;
  }
  sync_parent(path);
}

uint64_t free_space(const std::string& path) {
  std::filesystem::path p = path.empty() ? "." : path;
  std::error_code ec;
  while (!std::filesystem::exists(p, ec)) {
    std::filesystem::path up = p.parent_path();
    if (up == p || up.empty()) {
      p = ".";
      break;
    }
    p = up;
  }
  struct statvfs st {};
  if (statvfs(p.c_str(), &st) != 0) return UINT64_MAX;
  return uint64_t{st.f_bavail} * st.f_frsize;
}

namespace {

// A number from a one-line file, or nothing ("max", absent).
uint64_t number_in(const std::string& path, uint64_t otherwise) {
  std::ifstream in(path);
  uint64_t value = 0;
  return in >> value ? value : otherwise;
}

// The tightest memory limit from this process's cgroup up to the root (v2, then v1).
uint64_t cgroup_limit() {
  uint64_t limit = UINT64_MAX;
  std::ifstream in("/proc/self/cgroup");
  for (std::string line; std::getline(in, line);) {
    std::string base = line.starts_with("0::")                             ? "/sys/fs/cgroup"
                       : line.find(":memory:") != std::string::npos ? "/sys/fs/cgroup/memory"
                                                                    : "";
    if (base.empty()) continue;
    const char* name = line.starts_with("0::") ? "/memory.max" : "/memory.limit_in_bytes";
    std::string group = line.substr(line.rfind(':') + 1);
    while (true) {
      limit = std::min(limit, number_in(base + group + name, UINT64_MAX));
      if (group.empty() || group == "/") break;
      group = group.substr(0, group.rfind('/'));
    }
  }
  return limit;
}

}  // namespace

uint64_t available_memory() {
  auto physical = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) *
                  static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return std::min(physical, cgroup_limit());
}

MemoryUse memory_use() {
  MemoryUse use;
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("VmHWM:")) use.peak_resident = std::stoull(line.substr(6)) * 1024;
    if (line.starts_with("RssAnon:")) use.anonymous = std::stoull(line.substr(8)) * 1024;
  }
  return use;
}

}  // namespace qp
