#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>

#include "lib/base/error.h"
#include "lib/base/interrupt.h"
#include "lib/pipe/handover.h"

namespace qp {
namespace fs = std::filesystem;
namespace {

constexpr int kTakeSeconds = 30;  // how long a result waits for its reader
// A middle program such as `head -1` may close the pipe before the reader has opened the result.
constexpr int kGraceSeconds = 2;

bool same_file(const std::string& a, const std::string& b) {
  struct stat x {
  }, y{};
  return stat(a.c_str(), &x) == 0 && stat(b.c_str(), &y) == 0 && x.st_dev == y.st_dev &&
         x.st_ino == y.st_ino;
}

// A path in a handle line: '%', spaces kept, control characters as %XX.
std::string escape_path(const std::string& path) {
  static const char* hex = "0123456789ABCDEF";
  std::string out;
  for (char c : path) {
    auto u = static_cast<unsigned char>(c);
    if (u < 0x20 || u == 0x7f || c == '%') {
      out += '%';
      out += hex[u >> 4];
      out += hex[u & 15];
    } else {
      out += c;
    }
  }
  return out;
}

[[noreturn]] void die_of_sigpipe() {
  signal(SIGPIPE, SIG_DFL);
  raise(SIGPIPE);
  _exit(141);
}

// Writes to a pipe; a closed one ends the program quietly, as `yes | head` ends.
void write_pipe(const char* data, size_t n) {
  while (n > 0) {
    throw_if_interrupted();  // a write cut short by a signal is no error
    ssize_t w = write(STDOUT_FILENO, data, n);
    if (w < 0 && errno == EINTR) continue;
    if (w < 0 && errno == EPIPE) die_of_sigpipe();
    if (w <= 0) throw system_error("cannot write to standard output", errno);
    data += w;
    n -= static_cast<size_t>(w);
  }
}

volatile sig_atomic_t lease_broken = 0;
void on_lease(int) { lease_broken = 1; }

// Waits until another process opens the file behind `fd` (a write lease tells), the pipe breaks,
// or time is up. Without leases: until the pipe has been read and closed.
void wait_until_taken(int fd, bool leased) {
  using Clock = std::chrono::steady_clock;
  auto start = Clock::now(), closed = Clock::time_point::max();
  while (true) {
    throw_if_interrupted();
    if (leased && (lease_broken != 0 || fcntl(fd, F_GETLEASE) != F_WRLCK)) {
      fcntl(fd, F_SETLEASE, F_UNLCK);  // lets the reader's open() go on
      return;
    }
    struct pollfd p {
      STDOUT_FILENO, 0, 0
    };
    poll(&p, 1, 20);
    auto now = Clock::now();
    if ((p.revents & (POLLERR | POLLHUP | POLLNVAL)) != 0) {
      int unread = 0;
      if (ioctl(STDOUT_FILENO, FIONREAD, &unread) != 0) unread = 0;
      if (unread > 0) die_of_sigpipe();
      if (!leased) return;
      if (closed == Clock::time_point::max()) closed = now;
      if (now - closed > std::chrono::seconds(kGraceSeconds)) die_of_sigpipe();
      poll(nullptr, 0, 20);
    }
    if (now - start > std::chrono::seconds(kTakeSeconds)) {
      throw Error(ErrorKind::system,
                  "nobody took the result in " + std::to_string(kTakeSeconds) + " s")
          .hint("use -o FILE");
    }
  }
}

}  // namespace

StdoutKind stdout_kind() {
  struct stat st {};
  if (fstat(STDOUT_FILENO, &st) != 0) return StdoutKind::nowhere;
  if (S_ISREG(st.st_mode)) return StdoutKind::regular;
  if (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode)) return StdoutKind::pipe;
  return StdoutKind::nowhere;
}

std::string spill_directory() {
  for (const char* name : {"QPIPE_TMPDIR", "TMPDIR"}) {
    const char* value = std::getenv(name);
    if (value != nullptr && *value != '\0') return value;
  }
  return "/var/tmp";
}

Fd make_spill() {
  std::string dir = spill_directory();
  Fd fd(open(dir.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (fd) return fd;
  if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL) {
    throw system_error("cannot create a spill file", errno)
        .file(dir)
        .hint("set QPIPE_TMPDIR to a directory with room");
  }
  std::string path = dir + "/qpipe-spill-XXXXXX";
  fd.reset(mkostemp(path.data(), O_CLOEXEC));
  if (!fd) throw system_error("cannot create a spill file", errno).file(dir);
  unlink(path.c_str());
  return fd;
}

QmapOutput::QmapOutput(OutputOptions options) : options_(std::move(options)) {
  // Taken into account by wait_until_taken; a default action would kill.
  signal(SIGPIPE, SIG_IGN);
  if (options_.spill) {
    open_spill();
    return;
  }
  StdoutKind kind = stdout_kind();
  if (!options_.path.empty()) {
    if (options_.stream) throw usage_error("--stream writes to a pipe; it excludes -o");
    open_file();
    return;
  }
  if (options_.resume) throw usage_error("--resume needs -o FILE");
  if (kind == StdoutKind::nowhere) {
    throw usage_error("nowhere to write the result").hint("give -o FILE or a pipe");
  }
  if (kind == StdoutKind::regular) {
    struct stat st {};
    fstat(STDOUT_FILENO, &st);
    for (const std::string& in : options_.inputs) {
      struct stat other {};
      if (stat(in.c_str(), &other) == 0 && other.st_ino == st.st_ino && other.st_dev == st.st_dev) {
        throw usage_error("standard output is also an input").file(in).hint("write elsewhere");
      }
    }
    if (st.st_size != 0) {
      throw usage_error("standard output is a file that is not empty")
          .hint("use > FILE or -o FILE");
    }
    int flags = fcntl(STDOUT_FILENO, F_GETFL);
    if ((flags & O_APPEND) != 0) fcntl(STDOUT_FILENO, F_SETFL, flags & ~O_APPEND);
    fd_.reset(fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3));
    label_ = "standard output";
    std::error_code ec;
    fs::path real = fs::read_symlink("/proc/self/fd/1", ec);
    base_ = ec ? fs::current_path().string() : real.parent_path().string();
    to_stdout_ = true;
    return;
  }
  open_spill();
}

bool QmapOutput::sync() const { return options_.sync && !unnamed_; }

void check_output(const OutputOptions& options) {
  if (options.path.empty()) return;
  struct stat st {};
  bool exists = stat(options.path.c_str(), &st) == 0;
  if (exists && !S_ISREG(st.st_mode)) {
    throw usage_error("is no regular file").file(options.path).hint("name a file");
  }
  for (const std::string& in : options.inputs) {
    if (same_file(in, options.path)) {
      throw usage_error("is also an input").file(options.path).hint("write to another file");
    }
  }
  if (exists && !options.force) {
    throw system_error("exists", EEXIST).file(options.path).hint("use --force to replace it");
  }
  std::string partial = options.path + ".partial";
  if (options.resumable && !options.resume && !options.force && stat(partial.c_str(), &st) == 0) {
    throw system_error("an unfinished run left it", EEXIST)
        .file(partial)
        .hint("use --resume to continue it or --force to start again");
  }
}

void QmapOutput::open_file() {
  check_output(options_);
  fs::path path = fs::absolute(options_.path).lexically_normal();
  label_ = options_.path;
  base_ = path.parent_path();
  partial_ = options_.path + ".partial";
  struct stat st {};
  resuming_ = options_.resume && stat(partial_.c_str(), &st) == 0;
  fd_.reset(open(partial_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
  if (!fd_) throw system_error("cannot create", errno).file(options_.path);
  // Locked, and still the file of that name: another writer may just have finished with it.
  struct stat opened {};
  bool mine = flock(fd_.get(), LOCK_EX | LOCK_NB) == 0 && fstat(fd_.get(), &opened) == 0 &&
              stat(partial_.c_str(), &st) == 0 && st.st_ino == opened.st_ino;
  if (!mine) {
    fd_.reset();
    throw system_error("another program is writing it", EBUSY).file(partial_).hint("wait for it");
  }
  keep_ = resuming_;  // what an earlier run finished is not lost to an error in this one
  if (resuming_) return;
  // Only when there is something: ext4 flushes a file at close() that was cut to nothing.
  if (opened.st_size > 0 && ftruncate(fd_.get(), 0) != 0) {
    throw system_error("cannot truncate", errno).file(partial_);
  }
  unlink((partial_ + ".journal").c_str());  // it tells of what was there before
}

void QmapOutput::open_spill() {
  fd_ = make_spill();
  label_ = "spill file in " + spill_directory();
  unnamed_ = true;
  base_ = fs::current_path();
}

QmapOutput::~QmapOutput() {
  if (done_) return;
  if (to_stdout_) {
    // What was written must not look like a result.
    [[maybe_unused]] int r = ftruncate(fd_.get(), 0);
  } else if (!partial_.empty() && !keep_ && fd_) {
    unlink(partial_.c_str());
    unlink((partial_ + ".journal").c_str());
  }
}

std::string QmapOutput::handle(const Hash128& id) const {
  return "qmap:" + escape_path(fs::absolute(options_.path).lexically_normal()) + " " + id.hex() +
         "\n";
}

void QmapOutput::commit(const Hash128& id) {
  throw_if_interrupted();
  if (!partial_.empty()) {
    if (rename(partial_.c_str(), options_.path.c_str()) != 0) {
      throw system_error("cannot rename into place", errno).file(options_.path);
    }
    unlink((partial_ + ".journal").c_str());
    if (options_.sync) sync_parent(options_.path);
    done_ = true;
    if (stdout_kind() == StdoutKind::pipe && !options_.many) {
      std::string line = handle(id);
      // The result is safe in its file: a closed pipe is no failure.
      [[maybe_unused]] ssize_t n = write(STDOUT_FILENO, line.data(), line.size());
    }
    return;
  }
  done_ = true;
  if (to_stdout_) return;
  if (options_.stream) {
    stream_out();
    return;
  }
  std::string line = "qmap:/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(fd_.get()) +
                     " " + id.hex() + "\n";
  // The lease is taken before anybody can know the path.
  fcntl(fd_.get(), F_SETSIG, SIGRTMIN);
  struct sigaction action {};
  action.sa_handler = on_lease;
  sigemptyset(&action.sa_mask);
  sigaction(SIGRTMIN, &action, nullptr);
  bool leased = fcntl(fd_.get(), F_SETLEASE, F_WRLCK) == 0;
  write_pipe(line.data(), line.size());
  wait_until_taken(fd_.get(), leased);
}

void QmapOutput::stream_out() {
  auto file = MappedFile::adopt(Fd(fcntl(fd_.get(), F_DUPFD_CLOEXEC, 3)), label_);
  auto bytes = file->bytes();
  constexpr size_t kPiece = 1 << 20;
  for (size_t at = 0; at < bytes.size(); at += kPiece) {
    throw_if_interrupted();
    write_pipe(reinterpret_cast<const char*>(bytes.data()) + at,
               std::min(kPiece, bytes.size() - at));
    file->drop(at, kPiece);
  }
}

void hand_over_directory(const std::string& directory) {
  if (stdout_kind() != StdoutKind::pipe) return;
  signal(SIGPIPE, SIG_IGN);
  std::string line = "qdir:" + escape_path(fs::absolute(directory).lexically_normal()) + "\n";
  [[maybe_unused]] ssize_t n = write(STDOUT_FILENO, line.data(), line.size());
}

}  // namespace qp
