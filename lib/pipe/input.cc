#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>

#include "lib/base/error.h"
#include "lib/base/interrupt.h"
#include "lib/pipe/handover.h"
#include "lib/qmap/layout.h"
#include "lib/qmap/reader.h"

namespace qp {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kHandle = "qmap:";
constexpr std::string_view kDirectoryHandle = "qdir:";
constexpr size_t kMaxHandle = 8192;

std::string unescape_path(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned value = 0;
    if (text[i] == '%' && i + 2 < text.size() &&
        std::from_chars(&text[i + 1], &text[i + 3], value, 16).ec == std::errc()) {
      out += static_cast<char>(value);
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

// Reads up to n bytes; fewer only at the end of the input.
std::string read_some(int fd, size_t n, const std::string& label) {
  std::string out;
  while (out.size() < n) {
    char buffer[4096];
    ssize_t got = read(fd, buffer, std::min(sizeof buffer, n - out.size()));
    if (got < 0 && errno == EINTR) {
      throw_if_interrupted();
      continue;
    }
    if (got < 0) throw system_error("cannot read", errno).file(label);
    if (got == 0) break;
    out.append(buffer, static_cast<size_t>(got));
  }
  return out;
}

// The rest of a handle line after its first bytes, without the newline.
std::string read_line(int fd, std::string line, const std::string& label) {
  while (line.find('\n') == std::string::npos && line.size() < kMaxHandle) {
    std::string c = read_some(fd, 1, label);  // one at a time: the rest is not ours
    if (c.empty()) break;
    line += c;
  }
  if (auto end = line.find('\n'); end != std::string::npos) line.resize(end);
  return line;
}

// A program that made several results hands all of them over at once.
void refuse_more(int fd, const std::string& label) {
  int unread = 0;
  if (ioctl(fd, FIONREAD, &unread) != 0 || unread == 0) return;
  throw usage_error("carries several handles (expected one)")
      .file(label)
      .hint("read them line by line, as `while read -r handle` does, or name the files");
}

bool is_handle(std::string_view text) {
  return text.starts_with(kHandle) || text.starts_with(kDirectoryHandle);
}

// Waits for the writer of a FIFO, or for the lease on a spill, unless interrupted.
Fd open_waiting(const std::string& path) {
  while (true) {
    Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (fd || errno != EINTR) return fd;
    throw_if_interrupted();
  }
}

QmapInput from_named(const std::string& path) {
  return {MappedFile::open(path), fs::absolute(path).lexically_normal().parent_path(), true};
}

QmapInput from_handle(const std::string& line, const std::string& label) {
  if (line.starts_with(kDirectoryHandle)) {
    std::string directory = unescape_path(std::string_view(line).substr(kDirectoryHandle.size()));
    if (!directory.starts_with('/')) {
      throw input_error("carries a damaged handle '" + printable(line) + "'").file(label);
    }
    return {nullptr, directory, true, directory};
  }
  auto space = line.rfind(' ');
  if (space == std::string::npos || line.size() - space - 1 != 32) {
    throw input_error("carries a damaged handle '" + printable(line) + "'").file(label);
  }
  std::string path = unescape_path(std::string_view(line).substr(kHandle.size(), space - kHandle.size()));
  std::string id = line.substr(space + 1);
  bool spill = path.starts_with("/proc/");
  struct stat st {};
  bool there = stat(path.c_str(), &st) == 0;
  if (there && !S_ISREG(st.st_mode)) {
    throw input_error("carries a handle to '" + printable(path) + "', which is no regular file").file(label);
  }
  Fd fd = there ? open_waiting(path) : Fd();
  if (!fd) {
    throw system_error("cannot open the handed-over qmap", errno)
        .file(path)
        .hint(spill ? "the program that made it has gone; run the pipeline again or use -o FILE"
                    : "was it moved?");
  }
  QmapInput in{MappedFile::adopt(std::move(fd), spill ? label : path),
               spill ? fs::current_path().string() : fs::path(path).parent_path().string(), !spill};
  QmapHeader h{};
  if (in.file->size() >= sizeof h) std::memcpy(&h, in.file->bytes().data(), sizeof h);
  std::string found = Hash128{h.manifest_hash_low, h.manifest_hash_high}.hex();
  if (found != id) {
    throw input_error("is not the qmap that was handed over (expected " + id + ", found " + found +
                      ")")
        .file(path)
        .hint("it was replaced meanwhile; run the pipeline again");
  }
  return in;
}

// A qmap that comes through a pipe (--stream): kept in a spill of our own.
QmapInput from_stream(int fd, const std::string& first, const std::string& label) {
  Fd spill = make_spill();
  uint64_t at = 0;
  std::string piece = first;
  while (!piece.empty()) {
    write_all(spill.get(), std::as_bytes(std::span(piece)), at, "spill file in " + spill_directory());
    at += piece.size();
    throw_if_interrupted();
    piece = read_some(fd, 1 << 20, label);
  }
  return {MappedFile::adopt(std::move(spill), label), fs::current_path(), false};
}

QmapInput from_descriptor(int fd, const std::string& label) {
  struct stat st {};
  if (fstat(fd, &st) != 0) throw system_error("cannot read", errno).file(label);
  if (isatty(fd) != 0) {
    throw usage_error("no input").hint("name a model or a qmap, or pipe one in");
  }
  if (S_ISREG(st.st_mode) && lseek(fd, 0, SEEK_CUR) == 0) {
    std::error_code ec;
    fs::path real = fs::read_symlink("/proc/self/fd/" + std::to_string(fd), ec);
    char magic[5] = {};
    bool handle = pread(fd, magic, 5, 0) == 5 && is_handle({magic, 5});
    if (!handle) {
      return {MappedFile::adopt(Fd(fcntl(fd, F_DUPFD_CLOEXEC, 3)), ec ? label : real.string()),
              ec ? fs::current_path().string() : real.parent_path().string(), !ec};
    }
  }
  std::string first = read_some(fd, kQmapMagic.size(), label);
  if (first.empty()) {
    throw input_error("is empty (expected a qmap or its handle)")
        .file(label)
        .hint("the program before it in the pipe failed; see its message");
  }
  if (is_handle(first)) {
    std::string line = read_line(fd, first, label);
    refuse_more(fd, label);
    return from_handle(line, label);
  }
  if (has_qmap_magic(std::as_bytes(std::span(first)))) return from_stream(fd, first, label);
  throw input_error("is neither a qmap nor a handle (starts with '" + printable(first) + "')")
      .file(label)
      .hint("pipe qload's output in, or name a file");
}

}  // namespace

bool is_qmap_input(const std::string& path) {
  if (path.empty() || path == "-") return true;
  struct stat st {};
  if (stat(path.c_str(), &st) != 0) return false;
  if (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode) || S_ISCHR(st.st_mode)) return true;
  if (!S_ISREG(st.st_mode)) return false;
  Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  char magic[8] = {};
  ssize_t n = fd ? read(fd.get(), magic, sizeof magic) : 0;
  std::string_view seen(magic, n > 0 ? static_cast<size_t>(n) : 0);
  bool unfinished = seen.size() == 8 && seen.find_first_not_of('\0') == seen.npos;  // magic comes last
  return unfinished || is_handle(seen) || has_qmap_magic(std::as_bytes(std::span(seen))) ||
         path.ends_with(".qmap");
}

QmapInput open_qmap_input(const std::string& path) {
  if (path.empty() || path == "-") return from_descriptor(STDIN_FILENO, "standard input");
  struct stat st {};
  if (stat(path.c_str(), &st) != 0) throw system_error("cannot open", errno).file(path);
  Fd fd = open_waiting(path);
  if (!fd) throw system_error("cannot open", errno).file(path);
  if (!S_ISREG(st.st_mode)) return from_descriptor(fd.get(), path);
  char magic[5] = {};
  if (pread(fd.get(), magic, 5, 0) == 5 && is_handle({magic, 5})) {
    return from_handle(read_line(fd.get(), "", path), path);
  }
  return from_named(path);
}

}  // namespace qp
