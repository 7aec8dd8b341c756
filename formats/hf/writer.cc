#include "formats/hf/writer.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <optional>
#include <set>

#include "formats/container/safetensors.h"
#include "formats/hf/folders.h"
#include "formats/hf/partial_dir.h"
#include "formats/hf/self_check.h"
#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/base/interrupt.h"
#include "lib/base/parallel.h"
#include "lib/qmap/decode.h"
#include "lib/qmap/row_jobs.h"
#include "lib/qmap/store.h"

namespace qp {
namespace fs = std::filesystem;
namespace {

constexpr uint64_t kChunk = 4 << 20;
// A tensor up to this size is arranged in memory and written at once: cheaper than faults of a
// mapping.
constexpr uint64_t kArranged = 16 << 20;
constexpr uint64_t kScatteredChunk = 8 << 20;  // many rows, so that transposed lines are long

struct Shard {
  std::string name;   // relative to the directory
  size_t folder = 0;  // characters of its tensors' names that are their folder's, with '/'
  std::vector<const OutTensor*> tensors;
  uint64_t bytes = 0;
};

uint64_t out_bytes(const OutTensor& t) { return byte_size(t.dtype, t.shape).value(); }

// A piece of the output under construction, mapped: what layouts scatter their bytes over.
class Window {
 public:
  Window(int fd, uint64_t at, uint64_t bytes, const std::string& path) {
    uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE)), begin = at / page * page;
    bytes_ = bytes + (at - begin);
    void* p =
        mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd, static_cast<off_t>(begin));
    if (p == MAP_FAILED) throw system_error("cannot map", errno).file(path);
    base_ = static_cast<std::byte*>(p);
    data_ = base_ + (at - begin);
  }
  ~Window() { munmap(base_, bytes_); }
  Window(const Window&) = delete;
  Window& operator=(const Window&) = delete;
  std::byte* data() const { return data_; }

 private:
  std::byte *base_ = nullptr, *data_ = nullptr;
  uint64_t bytes_ = 0;
};

// Names by their words, numbers by their value: layer 2 comes before layer 10.
bool before(std::string_view a, std::string_view b) {
  auto digit = [](char c) { return c >= '0' && c <= '9'; };
  size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    if (!digit(a[i]) || !digit(b[j])) {
      if (a[i] != b[j]) return static_cast<unsigned char>(a[i]) < static_cast<unsigned char>(b[j]);
      ++i, ++j;
      continue;
    }
    auto number = [&](std::string_view s, size_t& at) {
      while (at < s.size() && s[at] == '0') ++at;
      size_t begin = at;
      while (at < s.size() && digit(s[at])) ++at;
      return s.substr(begin, at - begin);
    };
    std::string_view x = number(a, i), y = number(b, j);
    if (x.size() != y.size()) return x.size() < y.size();
    if (x != y) return x < y;
  }
  if (i == a.size() && j == b.size()) return a < b;  // "01" and "1"
  return i == a.size();
}

// Files of tensors that one index lists.
struct ShardSet {
  OutFolder folder;  // name "": the directory itself
  std::vector<Shard> shards;
  std::string in() const { return folder.name.empty() ? "" : folder.name + "/"; }
};

// Greedy in order, as huggingface_hub splits; a tensor larger than the limit gets its own shard.
// The order is that of names, so exporting what was loaded from an export gives the same shards.
ShardSet split(std::vector<const OutTensor*> tensors, OutFolder folder, uint64_t limit) {
  ShardSet set{std::move(folder), {}};
  std::vector<Shard>& shards = set.shards;
  std::ranges::sort(tensors, before,
                    [](const OutTensor* t) -> std::string_view { return t->name; });
  for (const OutTensor* t : tensors) {
    uint64_t bytes = out_bytes(*t);
    if (shards.empty() || (shards.back().bytes > 0 && shards.back().bytes + bytes > limit)) {
      shards.emplace_back();
    }
    shards.back().tensors.push_back(t);
    shards.back().bytes += bytes;
  }
  if (shards.empty()) shards.emplace_back();
  for (size_t i = 0; i < shards.size(); ++i) {
    char number[64] = "";
    if (shards.size() > 1)
      std::snprintf(number, sizeof number, "-%05zu-of-%05zu", i + 1, shards.size());
    shards[i].name = set.in() + set.folder.weights_name + number + ".safetensors";
    shards[i].folder = set.in().size();
    // Larger elements first: every tensor then starts on a multiple of its element size.
    std::ranges::stable_sort(shards[i].tensors, std::greater(),
                             [](const OutTensor* t) { return dtype_bits(t->dtype); });
  }
  return set;
}

std::vector<ShardSet> split(const ExportPlan& plan, uint64_t limit) {
  std::vector<ShardSet> out;
  std::vector<OutFolder> folders = plan.folders;
  if (folders.empty()) folders.push_back({"", plan.weights_name, plan.metadata});
  size_t placed = 0;
  for (OutFolder& folder : folders) {
    std::vector<const OutTensor*> tensors;
    for (const OutTensor& t : plan.tensors) {
      if (plan.folders.empty() || folder_of(t.name) == folder.name) tensors.push_back(&t);
    }
    placed += tensors.size();
    out.push_back(split(std::move(tensors), std::move(folder), limit));
  }
  if (placed != plan.tensors.size())
    throw defect_error("tensors of the plan are in none of its folders");
  return out;
}

class ShardWriter {
 public:
  ShardWriter(const Store& store, const std::string& directory, Progress& progress, bool sync)
      : store_(store), directory_(directory), progress_(progress), sync_(sync) {}

  void write(const Shard& shard, std::span<const std::pair<std::string, std::string>> metadata) {
    path_ = directory_ + "/" + shard.name;
    fd_.reset(open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    if (!fd_) throw system_error("cannot create", errno).file(path_);
    std::vector<SafetensorsEntry> entries;
    for (const OutTensor* t : shard.tensors)
      entries.push_back({t->name.substr(shard.folder), t->dtype, t->shape, 0, 0});
    std::string header = safetensors_header(entries, metadata);
    reserve_space(fd_.get(), header.size() + shard.bytes, path_);
    write_all(fd_.get(), std::as_bytes(std::span(header)), 0, path_);
    std::vector<RowJob> jobs;
    for (size_t i = 0; i < entries.size(); ++i) {
      add(*shard.tensors[i], header.size() + entries[i].begin, jobs);
    }
    run_row_jobs(jobs);
    if (sync_) sync_fd(fd_.get(), path_);
    fd_.reset();
  }

 private:
  // Runs `step`; an error names the tensor, or the cause behind whatever was noticed first.
  template <class Step>
  void named(const OutTensor& t, Step step) const {
    try {
      step();
    } catch (Error& e) {
      throw_if_changed(t);
      throw std::move(e).tensor(t.name);
    }
  }
  void throw_if_changed(const OutTensor& t) const {
    try {
      if (t.part != nullptr) store_.throw_if_changed(t.part->extent);
      if (t.values != nullptr) store_.throw_if_changed(*t.values);
    } catch (Error& e) {
      throw std::move(e).tensor(t.name);
    }
  }

  // Tensors that are not walked row by row are small: they are written here.
  void add(const OutTensor& t, uint64_t at, std::vector<RowJob>& jobs) {
    named(t, [&] {
      if (t.values == nullptr && t.part == nullptr) {
        std::vector<std::byte> made = t.make_value ? t.make_value() : t.value;
        if (made.size() != out_bytes(t)) throw defect_error("planned size does not fit its value");
        return write_all(fd_.get(), made, at, path_);
      }
      add_rows(t.values ? RowSource(store_, *t.values) : RowSource(store_, *t.part), t, at, jobs);
    });
  }
  void verify(const OutTensor& t) const {
    if (t.part != nullptr)
      store_.verify(t.part->extent, "its " + std::string(name_of(t.part->role)));
    if (t.values == nullptr) return;
    for (const Part& p : t.values->parts) store_.verify(*t.values, p);
  }

  void add_rows(const RowSource& source, const OutTensor& t, uint64_t at,
                std::vector<RowJob>& jobs) {
    uint64_t n = source.rows();
    if (n == 0 || out_bytes(t) == 0) return;
    uint64_t per_row = t.relay            ? t.relaid_row_bytes
                       : casts(source, t) ? source.cols() * dtype_bits(t.dtype) / 8
                                          : source.row_bytes();
    check_size(t, n, per_row);
    auto window = std::make_shared<std::optional<Window>>();
    auto work = [this, &t, at, per_row, source, window](const RowChunk& c) {
      const std::byte* rows = c.rows.data();
      Buffers& b = buffers_[c.slot];
      if (casts(source, t)) rows = cast_rows(source, t, c, b.cast);
      if (t.relay) {
        b.relaid.resize(c.count * per_row);
        t.relay(rows, c.first, c.count, b.relaid.data());
        rows = b.relaid.data();
      }
      if (t.layout == nullptr) {
        write_all(fd_.get(), {rows, c.count * per_row}, at + c.first * per_row, path_);
      } else if (t.layout->contiguous) {
        LayoutArgs some = t.layout_args;
        some.rows = c.count;
        b.arranged.resize(*t.layout->stored_bytes(some));
        t.layout->encode(some, rows, 0, c.count, b.arranged.data());
        some.rows = c.first;
        write_all(fd_.get(), b.arranged, at + *t.layout->stored_bytes(some), path_);
      } else if (*window) {
        t.layout->encode(t.layout_args, rows, c.first, c.count, (*window)->data());
      } else {
        b.arranged.resize(out_bytes(t));
        t.layout->encode(t.layout_args, rows, 0, c.count, b.arranged.data());
        write_all(fd_.get(), b.arranged, at, path_);
      }
    };
    uint64_t unit = t.layout ? t.layout->row_unit(t.layout_args) : 1;
    if (scattered(t) && out_bytes(t) <= kArranged) unit = n;
    jobs.push_back({.source = source,
                    .chunk_bytes = scattered(t) ? kScatteredChunk : kChunk,
                    .unit = unit,
                    .open =
                        [this, &t, at, window] {
                          named(t, [&] {
                            verify(t);
                            if (scattered(t) && out_bytes(t) > kArranged)
                              window->emplace(fd_.get(), at, out_bytes(t), path_);
                          });
                        },
                    .work = [this, &t, work](const RowChunk& c) { named(t, [&] { work(c); }); },
                    .retire =
                        [this, &t, n](const RowChunk& c) {
                          progress_.add(out_bytes(t) * (c.first + c.count) / n -
                                        out_bytes(t) * c.first / n);
                        },
                    .close =
                        [this, &t, window] {
                          window->reset();
                          throw_if_changed(t);
                          progress_.item(t.name);
                        }});
  }

  static bool scattered(const OutTensor& t) { return t.layout != nullptr && !t.layout->contiguous; }
  static bool casts(const RowSource& source, const OutTensor& t) {
    return source.dtype() != t.dtype && is_float(source.dtype()) && is_float(t.dtype);
  }
  static void check_size(const OutTensor& t, uint64_t n, uint64_t per_row) {
    bool fits = per_row * n == out_bytes(t);
    if (t.layout != nullptr) {
      fits = t.layout_args.rows == n && t.layout_args.row_bytes() == per_row &&
             t.layout->stored_bytes(t.layout_args) == out_bytes(t);
    }
    if (!fits) throw defect_error("planned size does not fit its rows");
  }
  const std::byte* cast_rows(const RowSource& source, const OutTensor& t, const RowChunk& c,
                             std::vector<std::byte>& out) const {
    uint64_t n = c.count * source.cols();
    out.resize(n * dtype_bits(t.dtype) / 8);
    cast_floats(source.dtype(), c.rows.data(), n, t.dtype, out.data());
    if (t.round) return out.data();
    std::vector<std::byte> back(c.rows.size());
    cast_floats(t.dtype, out.data(), n, source.dtype(), back.data());
    uint64_t unit = dtype_bits(source.dtype()) / 8;
    for (uint64_t i = 0; i < n; ++i) {
      if (std::memcmp(&back[i * unit], c.rows.data() + i * unit, unit) == 0) continue;
      throw limit_error("has a value in row " + std::to_string(c.first + i / source.cols()) +
                        " that " + std::string(dtype_name(t.dtype)) + " cannot hold (stored are " +
                        std::string(dtype_name(source.dtype())) + ")")
          .file(store_.label())
          .hint("choose a format that keeps the dtype, or quantize again with --requantize");
    }
    return out.data();
  }

  struct Buffers {
    std::vector<std::byte> cast, relaid, arranged;
  };

  const Store& store_;
  const std::string& directory_;
  Progress& progress_;
  bool sync_;
  std::string path_;
  Fd fd_;
  std::vector<Buffers> buffers_{static_cast<size_t>(ordered_slots())};
};

Fd create(const std::string& path) {
  Fd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (!fd) throw system_error("cannot create", errno).file(path);
  return fd;
}

void write_text(const std::string& path, std::string_view text, bool sync) {
  Fd fd = create(path);
  write_all(fd.get(), std::as_bytes(std::span(text)), 0, path);
  if (sync) sync_fd(fd.get(), path);
}

void write_companion(const Store& store, const Companion& c, const std::string& path, bool sync,
                     Progress& progress) {
  progress.item(c.name);
  store.verify(c.extent, "a companion file");
  Fd fd = create(path);
  Part bytes = bytes_of(c);
  for_row_chunks(
      RowSource(store, bytes), kChunk,
      [&](const RowChunk& chunk) { write_all(fd.get(), chunk.rows, chunk.first, path); },
      [&](const RowChunk& chunk) { progress.add(chunk.count); });
  if (sync) sync_fd(fd.get(), path);
}

// The folders that files of the output are in.
std::set<std::string> make_folders(const std::string& directory, const ExportPlan& plan,
                                   const std::vector<ShardSet>& sets) {
  std::set<std::string> out;
  auto add = [&](const std::string& file) {
    for (fs::path p = fs::path(file).parent_path(); !p.empty(); p = p.parent_path()) out.insert(p);
  };
  for (const ShardSet& set : sets) add(set.shards.front().name);
  for (const Companion* c : plan.companions) add(c->name);
  for (const OutFile& f : plan.files) add(f.name);
  for (const std::string& folder : out) {
    std::error_code ec;
    fs::create_directories(fs::path(directory) / folder, ec);
    if (ec) throw system_error("cannot create", ec.value()).file(directory + "/" + folder);
  }
  return out;
}

std::string index_text(const ShardSet& set) {
  uint64_t bytes = 0, parameters = 0;
  Json map = Json::object();
  std::vector<std::pair<std::string, std::string>> sorted;
  for (const Shard& s : set.shards) {
    bytes += s.bytes;
    for (const OutTensor* t : s.tensors) {
      parameters += t->shape.elements().value_or(0);
      sorted.emplace_back(t->name.substr(s.folder), s.name.substr(s.folder));
    }
  }
  std::ranges::sort(sorted);
  // Appended, not looked up: an ordered object searches linearly.
  auto& object = map.get_ref<Json::object_t&>();
  for (auto& [name, shard] : sorted) object.emplace_back(name, shard);
  Json index;
  index["metadata"] = {{"total_parameters", parameters}, {"total_size", bytes}};
  index["weight_map"] = std::move(map);
  return index.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

// Every source tensor and companion is accounted for exactly once (design.md section 4).
void check_ledger(const Store& store, const ExportPlan& plan) {
  std::multiset<std::string_view> seen;
  for (const LedgerEntry& e : plan.ledger) seen.insert(e.source);
  auto require = [&](const std::string& name) {
    if (seen.count(name) != 1) {
      throw defect_error("appears " + std::to_string(seen.count(name)) + " times in the ledger")
          .file(store.label())
          .tensor(name);
    }
  };
  for (const Tensor& t : store.model().tensors) require(t.name);
  for (const Companion& c : store.model().companions) require(c.name);
  std::set<std::string_view> names;
  for (const OutTensor& t : plan.tensors) {
    if (!names.insert(t.name).second) {
      throw limit_error("two tensors of the output have this name")
          .file(store.label())
          .tensor(t.name);
    }
  }
}

void sync_directory(const std::string& path) {
  Fd fd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd) sync_fd(fd.get(), path);
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

WriteResult write_checkpoint(const Store& store, const ExportPlan& plan,
                             const WriteOptions& options, Progress& progress) {
  check_ledger(store, plan);
  std::vector<ShardSet> sets = split(plan, options.shard_bytes);
  WriteResult result;
  uint64_t carried = 0;
  for (const ShardSet& set : sets) {
    result.shards += set.shards.size();
    for (const Shard& s : set.shards) result.bytes += s.bytes;
  }
  for (const Companion* c : plan.companions) carried += c->extent.length;
  uint64_t need = result.bytes + carried + (16 << 20), have = free_space(options.directory);
  if (have < need) {
    throw system_error(
        "needs " + std::to_string(need) + " bytes, " + std::to_string(have) + " are free", ENOSPC)
        .file(options.directory)
        .hint("free some space or choose another place");
  }
  auto start = std::chrono::steady_clock::now();
  PartialDirectory directory(options.directory, options.force, options.inputs);
  progress.begin("writing", result.bytes + carried);
  std::set<std::string> folders = make_folders(directory.path(), plan, sets);
  ShardWriter writer(store, directory.path(), progress, options.sync);
  for (const ShardSet& set : sets) {
    for (const Shard& s : set.shards) writer.write(s, set.folder.metadata);
    if (set.shards.size() == 1) continue;
    std::string name = set.in() + set.folder.weights_name + ".safetensors.index.json";
    write_text(directory.path() + "/" + name, index_text(set), options.sync);
  }
  for (const Companion* c : plan.companions) {
    write_companion(store, *c, directory.path() + "/" + c->name, options.sync, progress);
  }
  for (const OutFile& f : plan.files)
    write_text(directory.path() + "/" + f.name, f.text, options.sync);
  progress.end();
  store.throw_if_changed();
  if (!plan.config.empty()) {
    write_text(directory.path() + "/config.json", plan.config, options.sync);
  }
  for (const std::string& folder : folders) {
    if (options.sync) sync_directory(directory.path() + "/" + folder);
  }
  result.write_seconds = seconds_since(start);
  if (options.verify) {
    start = std::chrono::steady_clock::now();
    self_check(store, plan, directory.path(), progress);
    result.verify_seconds = seconds_since(start);
  }
  throw_if_interrupted();
  if (options.before_commit) options.before_commit(directory.path());
  directory.commit(options.sync);
  return result;
}

}  // namespace qp
