#include "formats/gguf/write.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "formats/container/gguf.h"
#include "formats/gguf/rows.h"
#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/base/interrupt.h"
#include "lib/base/progress.h"
#include "lib/qmap/store.h"

namespace qp {
namespace fs = std::filesystem;
namespace {

struct Shard {
  std::string path, partial;  // "" for standard output
  std::string header;
  std::vector<const GgufOut*> tensors;
  uint64_t bytes = 0;  // of the whole file
};

class FileSink : public GgufSink {
 public:
  FileSink(int fd, const std::string& path) : fd_(fd), path_(path) {}
  void put(uint64_t offset, std::span<const std::byte> bytes) override {
    write_all(fd_, bytes, offset, path_);
  }
  bool in_order() const override { return false; }

 private:
  int fd_;
  const std::string& path_;
};

class StreamSink : public GgufSink {
 public:
  void put(uint64_t, std::span<const std::byte> bytes) override {
    while (!bytes.empty()) {
      ssize_t n = write(STDOUT_FILENO, bytes.data(), bytes.size());
      if (n < 0 && errno == EINTR) {
        throw_if_interrupted();
        continue;
      }
      if (n <= 0)
        throw system_error("cannot write", n < 0 ? errno : ENOSPC).file("standard output");
      bytes = bytes.subspan(static_cast<size_t>(n));
    }
  }
  bool in_order() const override { return true; }
};

// Compares what is in a file with what its sources give.
class CheckSink : public GgufSink {
 public:
  explicit CheckSink(const MappedFile& file) : file_(file) {}
  void put(uint64_t offset, std::span<const std::byte> bytes) override {
    auto all = file_.bytes();
    bool same = offset <= all.size() && bytes.size() <= all.size() - offset &&
                std::memcmp(all.data() + offset, bytes.data(), bytes.size()) == 0;
    if (!same) {
      throw defect_error("self-check after writing: differs from its source")
          .file(file_.path())
          .hint("nothing was kept; report this with the command line, or try --no-verify");
    }
    file_.drop(offset, bytes.size());
  }
  bool in_order() const override { return false; }

 private:
  const MappedFile& file_;
};

std::vector<GgufEntry> entries_of(const Shard& shard) {
  std::vector<GgufEntry> entries;
  for (const GgufOut* t : shard.tensors) entries.push_back(t->entry);
  return entries;
}

std::vector<Shard> split(const GgufPlan& plan, const WriteOptions& options) {
  std::vector<Shard> shards(1);
  uint64_t size = 0;
  for (const GgufOut& t : plan.tensors) {
    uint64_t bytes = round_up(t.entry.bytes, kGgufAlignment);
    if (options.shard_bytes > 0 && size > 0 && size + bytes > options.shard_bytes) {
      shards.emplace_back();
      size = 0;
    }
    shards.back().tensors.push_back(&t);
    size += bytes;
  }
  if (shards.size() > UINT16_MAX) throw usage_error("--shard-size makes more than 65535 files");
  for (size_t i = 0; i < shards.size(); ++i) {
    Shard& s = shards[i];
    ggml::Metadata metadata = i == 0 ? plan.metadata : ggml::Metadata("");
    if (shards.size() > 1) {
      metadata.set("split.no", static_cast<uint16_t>(i));
      metadata.set("split.count", static_cast<uint16_t>(shards.size()));
      metadata.set("split.tensors.count", static_cast<int32_t>(plan.tensors.size()));
    }
    s.header = gguf_header(metadata, entries_of(s));
    s.bytes = s.header.size();
    for (const GgufOut* t : s.tensors) s.bytes += round_up(t->entry.bytes, kGgufAlignment);
    if (options.directory.empty()) continue;
    s.path = options.directory;
    if (shards.size() > 1) {
      std::string prefix = s.path.ends_with(".gguf") ? s.path.substr(0, s.path.size() - 5) : s.path;
      s.path = gguf_shard_name(prefix, i + 1, shards.size());
    }
    s.partial = s.path + ".partial";
  }
  return shards;
}

void check_place(const Shard& s, const WriteOptions& options) {
  std::error_code ec;
  fs::path place = fs::weakly_canonical(s.path, ec);
  if (fs::is_directory(s.path, ec)) {
    throw usage_error("is a directory, but a GGUF is a file")
        .file(s.path)
        .hint("give -o FILE.gguf");
  }
  for (const std::string& input : options.inputs) {
    std::error_code ignored;
    if (fs::weakly_canonical(input, ignored) == place) {
      throw usage_error("would replace an input").file(s.path).hint("choose another name");
    }
  }
  if (!options.force && fs::exists(s.path, ec)) {
    throw system_error("exists already", EEXIST).file(s.path).hint("--force replaces it");
  }
}

void put_tensors(const Store& store, const Shard& s, GgufSink& sink, Progress& progress) {
  GgufRows rows(store, sink, progress);
  uint64_t offset = s.header.size();
  for (const GgufOut* t : s.tensors) {
    rows.add(*t, offset);
    offset += round_up(t->entry.bytes, kGgufAlignment);
  }
  rows.run();
}

void write_shard(const Store& store, const Shard& s, const WriteOptions& options,
                 Progress& progress) {
  Fd fd(open(s.partial.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!fd) throw system_error("cannot create", errno).file(s.partial);
  reserve_space(fd.get(), s.bytes, s.partial, false);
  FileSink sink(fd.get(), s.partial);
  sink.put(0, std::as_bytes(std::span(s.header)));
  put_tensors(store, s, sink, progress);
  if (options.sync) sync_fd(fd.get(), s.partial);
}

// The file as any reader sees it: its table, then every byte against its source.
void verify_shard(const Store& store, const Shard& s, Progress& progress) {
  auto file = MappedFile::open(s.partial);
  GgufFile parsed = parse_gguf(file->bytes(), s.partial);
  bool same = parsed.tensors.size() == s.tensors.size() && file->size() == s.bytes;
  for (size_t i = 0; same && i < s.tensors.size(); ++i) {
    const GgufEntry& e = s.tensors[i]->entry;
    const GgufTensor& t = parsed.tensors[i];
    same = t.name == e.name && t.type == e.type && t.shape == e.shape && t.bytes == e.bytes;
  }
  if (!same)
    throw defect_error("self-check after writing: the table of tensors differs").file(s.partial);
  CheckSink sink(*file);
  sink.put(0, std::as_bytes(std::span(s.header)));
  put_tensors(store, s, sink, progress);
  file->throw_if_changed();
}

// Takes away what an unfinished run leaves.
struct Partials {
  const std::vector<Shard>& shards;
  ~Partials() {
    for (const Shard& s : shards) {
      if (!s.partial.empty()) unlink(s.partial.c_str());
    }
  }
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void write_files(const Store& store, const std::vector<Shard>& shards, const WriteOptions& options,
                 Progress& progress, WriteResult& result) {
  uint64_t need = 0;
  for (const Shard& s : shards) {
    check_place(s, options);
    need += s.bytes;
  }
  if (uint64_t have = free_space(options.directory); have < need) {
    throw system_error(
        "needs " + std::to_string(need) + " bytes, " + std::to_string(have) + " are free", ENOSPC)
        .file(options.directory)
        .hint("free some space or choose another place");
  }
  Partials partials{shards};
  auto start = std::chrono::steady_clock::now();
  progress.begin("writing", result.bytes);
  for (const Shard& s : shards) write_shard(store, s, options, progress);
  progress.end();
  store.throw_if_changed();
  result.write_seconds = seconds_since(start);
  if (options.verify) {
    start = std::chrono::steady_clock::now();
    progress.begin("checking", result.bytes);
    for (const Shard& s : shards) verify_shard(store, s, progress);
    progress.end();
    result.verify_seconds = seconds_since(start);
  }
  throw_if_interrupted();
  if (options.before_commit) options.before_commit("");
  for (size_t i = shards.size(); i-- > 0;) {  // readers begin with the first
    if (rename(shards[i].partial.c_str(), shards[i].path.c_str()) != 0) {
      throw system_error("cannot rename into place", errno).file(shards[i].path);
    }
  }
  if (options.sync) sync_parent(shards.front().path);
}

}  // namespace

WriteResult write_gguf(const Store& store, const GgufPlan& plan, const WriteOptions& options,
                       Progress& progress) {
  std::vector<Shard> shards = split(plan, options);
  WriteResult result;
  result.shards = shards.size();
  for (const GgufOut& t : plan.tensors) result.bytes += t.entry.bytes;
  if (!options.directory.empty()) {
    write_files(store, shards, options, progress, result);
    if (shards.size() > 1) result.first = shards.front().path;
    return result;
  }
  if (shards.size() > 1)
    throw usage_error("shards need a name").hint("give -o FILE.gguf with --shard-size");
  auto start = std::chrono::steady_clock::now();
  progress.begin("writing", result.bytes);
  StreamSink sink;
  sink.put(0, std::as_bytes(std::span(shards.front().header)));
  put_tensors(store, shards.front(), sink, progress);
  progress.end();
  store.throw_if_changed();
  if (options.before_commit) options.before_commit("");
  result.write_seconds = seconds_since(start);
  return result;
}

}  // namespace qp
