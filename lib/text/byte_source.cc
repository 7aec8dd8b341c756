#include "lib/text/byte_source.h"

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "lib/base/error.h"
#include "lib/base/file.h"

namespace qp {
namespace {
constexpr size_t kBuffer = 256 << 10;

class Inflater {
 public:
  virtual ~Inflater() = default;
  // Takes from `in` (cut to what is left) and fills `out`; returns the bytes written.
  virtual size_t run(std::span<const char>& in, std::span<char> out) = 0;
  // Whether the compressed data may end here.
  virtual bool complete() const = 0;
};

class Gzip : public Inflater {
 public:
  Gzip() {
    if (inflateInit2(&stream_, 15 + 16) != Z_OK) throw limit_error("out of memory for gzip");
  }
  ~Gzip() override { inflateEnd(&stream_); }
  size_t run(std::span<const char>& in, std::span<char> out) override {
    if (complete_) {
      // More may follow: another member, or zeros that pad to a block.
      while (!in.empty() && in[0] == 0) in = in.subspan(1);
      if (in.empty()) return 0;
      inflateReset(&stream_);
      complete_ = false;
    }
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(in.data()));
    stream_.avail_in = static_cast<uInt>(in.size());
    stream_.next_out = reinterpret_cast<Bytef*>(out.data());
    stream_.avail_out = static_cast<uInt>(std::min<size_t>(out.size(), 1u << 30));
    uInt room = stream_.avail_out;
    int result = inflate(&stream_, Z_NO_FLUSH);
    if (result != Z_OK && result != Z_STREAM_END && result != Z_BUF_ERROR) {
      throw input_error(std::string("gzip data are damaged (") +
                        (stream_.msg != nullptr ? stream_.msg : "zlib gives no reason") + ")");
    }
    in = in.last(stream_.avail_in);
    complete_ = result == Z_STREAM_END;
    return room - stream_.avail_out;
  }
  bool complete() const override { return complete_; }

 private:
  z_stream stream_{};
  bool complete_ = false;
};

class Zstd : public Inflater {
 public:
  Zstd() : stream_(ZSTD_createDStream()) {
    if (stream_ == nullptr) throw limit_error("out of memory for zstd");
  }
  ~Zstd() override { ZSTD_freeDStream(stream_); }
  size_t run(std::span<const char>& in, std::span<char> out) override {
    ZSTD_inBuffer input{in.data(), in.size(), 0};
    ZSTD_outBuffer output{out.data(), out.size(), 0};
    size_t result = ZSTD_decompressStream(stream_, &output, &input);
    if (ZSTD_isError(result)) {
      throw input_error(std::string("zstd data are damaged (") + ZSTD_getErrorName(result) + ")");
    }
    if (input.pos > 0 || output.pos > 0) complete_ = result == 0;
    in = in.subspan(input.pos);
    return output.pos;
  }
  bool complete() const override { return complete_; }

 private:
  ZSTD_DStream* stream_;
  bool complete_ = false;
};
}  // namespace

struct ByteSource::State {
  Fd owned;
  int fd = -1;
  std::vector<char> buffer = std::vector<char>(kBuffer);
  std::span<const char> left;  // of the buffer
  bool ended = false;
  std::unique_ptr<Inflater> inflater;

  void fill() {
    ssize_t n;
    do {
      n = ::read(fd, buffer.data(), buffer.size());
    } while (n < 0 && errno == EINTR);
    if (n < 0) throw system_error("cannot read", errno);
    ended = n == 0;
    left = {buffer.data(), static_cast<size_t>(n)};
  }
};

ByteSource::ByteSource(const std::string& path)
    : name_(path == "-" ? "standard input" : path), state_(std::make_unique<State>()) {
  State& s = *state_;
  try {
    if (path == "-") {
      s.fd = STDIN_FILENO;
    } else {
      s.owned = Fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
      s.fd = s.owned.get();
      if (s.fd < 0) throw system_error("cannot open", errno);
    }
    // A pipe may deliver the first bytes one by one.
    size_t have = 0;
    while (have < 4 && !s.ended) {
      ssize_t n = ::read(s.fd, s.buffer.data() + have, s.buffer.size() - have);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) throw system_error("cannot read", errno);
      s.ended = n == 0;
      have += static_cast<size_t>(n);
    }
    s.left = {s.buffer.data(), have};
    auto begins = [&](std::string_view magic) {
      return have >= magic.size() && std::memcmp(s.buffer.data(), magic.data(), magic.size()) == 0;
    };
    if (begins("\x1f\x8b")) s.inflater = std::make_unique<Gzip>();
    if (begins("\x28\xb5\x2f\xfd")) s.inflater = std::make_unique<Zstd>();
  } catch (Error& e) {
    throw std::move(e).file(name_);
  }
}
ByteSource::~ByteSource() = default;

size_t ByteSource::read(std::span<char> out) {
  State& s = *state_;
  size_t done = 0;
  try {
    while (done < out.size()) {
      if (s.left.empty() && !s.ended) s.fill();
      std::span<char> rest = out.subspan(done);
      if (s.inflater == nullptr) {
        if (s.left.empty()) break;
        size_t n = std::min(rest.size(), s.left.size());
        std::memcpy(rest.data(), s.left.data(), n);
        s.left = s.left.subspan(n);
        done += n;
        continue;
      }
      size_t n = s.inflater->run(s.left, rest);
      done += n;
      if (n == 0 && s.left.empty() && s.ended) {
        if (!s.inflater->complete()) throw input_error("compressed data end early");
        break;
      }
    }
  } catch (Error& e) {
    throw std::move(e).file(name_);
  }
  return done;
}

}  // namespace qp
