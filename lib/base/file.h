// Files: read-only mappings that survive a file shrinking under them, and durable outputs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace qp {

// Owns a file descriptor.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(other.release()) {}
  Fd& operator=(Fd&& other) noexcept;
  ~Fd() { reset(); }
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release();
  void reset(int fd = -1);

 private:
  int fd_ = -1;
};

// A whole file mapped read-only. When the file shrinks or cannot be read while mapped, the lost
// pages read as zeros and throw_if_changed() reports it: call it after a tensor and before results
// are made final.
class MappedFile {
 public:
  // Errors: system (cannot open, is a directory), limit (too many mappings at once).
  static std::shared_ptr<const MappedFile> open(const std::string& path);
  // Maps an open descriptor (kept open); `label` stands for the path in messages.
  static std::shared_ptr<const MappedFile> adopt(Fd fd, const std::string& label);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  uint64_t size() const { return size_; }
  int64_t mtime_ns() const { return mtime_ns_; }
  const std::string& path() const { return path_; }
  int fd() const { return fd_.get(); }
  // Lets the kernel drop the resident pages of a range that will not be read again soon.
  void drop(uint64_t offset, uint64_t length) const;
  // Maps the pages of a range that is about to be read, all at once: no fault for each 64 KiB.
  void populate(uint64_t offset, uint64_t length) const;
  // Throws an input error naming the file when a page was lost, or its size or mtime changed.
  void throw_if_changed() const;

 private:
  MappedFile() = default;
  Fd fd_;
  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  int64_t mtime_ns_ = 0;
  int slot_ = -1;
};

// Installs the SIGBUS handler behind MappedFile. Called once by run_tool.
void install_fault_handler();

// Positioned write of all bytes; throws a system error (ENOSPC, EFBIG, EIO ..) naming `path`.
void write_all(int fd, std::span<const std::byte> bytes, uint64_t offset, const std::string& path);
// Positioned read that fills all of `bytes`; a file that ends before is a system error (EIO), too.
void read_all(int fd, std::span<std::byte> bytes, uint64_t offset, const std::string& path);
// Reserves the space of a file before it is written, so that a full disk or RLIMIT_FSIZE is an
// error now and not a death later. Falls back to ftruncate where fallocate is not supported. A file
// that write_all() alone fills (`mapped` false) has nothing to die of: in a memory file system the
// room is then only looked at, for pages are taken faster by many writes than by one fallocate.
void reserve_space(int fd, uint64_t bytes, const std::string& path, bool mapped = true);
// fsync of a file or directory.
void sync_fd(int fd, const std::string& path);
void sync_parent(const std::string& path);

std::string read_text_file(const std::string& path, uint64_t max_bytes);
// Writes beside, syncs and renames: `path` has the old content or the new, never a part.
void write_file_atomically(const std::string& path, std::string_view content);

// Free bytes of the file system that holds `path` (or its nearest existing parent).
uint64_t free_space(const std::string& path);
// Memory this process may use: the smaller of physical memory and the cgroup's limit.
uint64_t available_memory();
// Peak resident and current anonymous bytes of this process, from /proc.
struct MemoryUse {
  uint64_t peak_resident = 0;
  uint64_t anonymous = 0;
};
MemoryUse memory_use();

}  // namespace qp
