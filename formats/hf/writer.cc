#include "formats/hf/writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <set>

#include "formats/container/safetensors.h"
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

struct Shard {
  std::string name;
  std::vector<const OutTensor*> tensors;
  uint64_t bytes = 0;
};

uint64_t out_bytes(const OutTensor& t) { return byte_size(t.dtype, t.shape).value(); }

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

// Greedy in order, as huggingface_hub splits; a tensor larger than the limit gets its own shard.
// The order is that of names, so exporting what was loaded from an export gives the same shards.
std::vector<Shard> split(const ExportPlan& plan, uint64_t limit) {
  std::vector<const OutTensor*> tensors;
  for (const OutTensor& t : plan.tensors) tensors.push_back(&t);
  std::ranges::sort(tensors, before, [](const OutTensor* t) -> std::string_view { return t->name; });
  std::vector<Shard> shards;
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
    char name[64];
    std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", i + 1, shards.size());
    shards[i].name = shards.size() == 1 ? "model.safetensors" : name;
    // Larger elements first: every tensor then starts on a multiple of its element size.
    std::ranges::stable_sort(shards[i].tensors, std::greater(),
                             [](const OutTensor* t) { return dtype_bits(t->dtype); });
  }
  return shards;
}

class ShardWriter {
 public:
  ShardWriter(const Store& store, const std::string& directory, Progress& progress, bool sync)
      : store_(store), directory_(directory), progress_(progress), sync_(sync) {}

  void write(const Shard& shard) {
    path_ = directory_ + "/" + shard.name;
    fd_.reset(open(path_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    if (!fd_) throw system_error("cannot create", errno).file(path_);
    std::vector<SafetensorsEntry> entries;
    for (const OutTensor* t : shard.tensors) entries.push_back({t->name, t->dtype, t->shape, 0, 0});
    std::string header = safetensors_header(entries);
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
      if (t.values == nullptr && t.part == nullptr) return write_all(fd_.get(), t.value, at, path_);
      if (t.values == nullptr && t.relay_whole) {
        verify(t);
        std::vector<std::byte> whole = store_.read(*t.part), out(out_bytes(t));
        t.relay_whole(whole, out);
        return write_all(fd_.get(), out, at, path_);
      }
      add_rows(t.values ? RowSource(store_, *t.values) : RowSource(store_, *t.part), t, at, jobs);
    });
  }
  void verify(const OutTensor& t) const {
    if (t.part != nullptr) store_.verify(t.part->extent, "its " + std::string(name_of(t.part->role)));
    if (t.values == nullptr) return;
    for (const Part& p : t.values->parts) store_.verify(*t.values, p);
  }

  void add_rows(const RowSource& source, const OutTensor& t, uint64_t at, std::vector<RowJob>& jobs) {
    uint64_t n = source.rows();
    if (n == 0 || out_bytes(t) == 0) return;
    uint64_t per_row = out_bytes(t) / n, in_row = source.row_bytes();
    if (per_row * n != out_bytes(t) || (t.relay == nullptr && per_row != in_row)) {
      throw defect_error("planned size does not fit its rows");
    }
    auto work = [this, &t, at, per_row, in_row](const RowChunk& c) {
      if (t.relay == nullptr) return write_all(fd_.get(), c.rows, at + c.first * per_row, path_);
      std::vector<std::byte>& out = relaid_[c.slot];
      out.resize(c.count * per_row);
      t.relay(c.rows.data(), c.count, in_row, per_row, out.data());
      write_all(fd_.get(), out, at + c.first * per_row, path_);
    };
    jobs.push_back({.source = source,
                    .chunk_bytes = kChunk,
                    .open = [this, &t] { named(t, [&] { verify(t); }); },
                    .work = [this, &t, work](const RowChunk& c) { named(t, [&] { work(c); }); },
                    .retire = [this, per_row](const RowChunk& c) { progress_.add(c.count * per_row); },
                    .close = [this, &t] {
                      throw_if_changed(t);
                      progress_.item(t.name);
                    }});
  }

  const Store& store_;
  const std::string& directory_;
  Progress& progress_;
  bool sync_;
  std::string path_;
  Fd fd_;
  std::vector<std::vector<std::byte>> relaid_{static_cast<size_t>(ordered_slots())};
};

void write_text(const std::string& path, std::string_view text, bool sync) {
  fs::path parent = fs::path(path).parent_path();
  std::error_code ec;
  fs::create_directories(parent, ec);
  Fd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (!fd) throw system_error("cannot create", errno).file(path);
  write_all(fd.get(), std::as_bytes(std::span(text)), 0, path);
  if (sync) sync_fd(fd.get(), path);
}

std::string index_text(const std::vector<Shard>& shards) {
  uint64_t bytes = 0, parameters = 0;
  Json map = Json::object();
  std::vector<std::pair<std::string, std::string>> sorted;
  for (const Shard& s : shards) {
    bytes += s.bytes;
    for (const OutTensor* t : s.tensors) {
      parameters += t->shape.elements().value_or(0);
      sorted.emplace_back(t->name, s.name);
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
      throw limit_error("two tensors of the output have this name").file(store.label()).tensor(t.name);
    }
  }
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

WriteResult write_checkpoint(const Store& store, const ExportPlan& plan, const WriteOptions& options,
                             Progress& progress) {
  check_ledger(store, plan);
  std::vector<Shard> shards = split(plan, options.shard_bytes);
  WriteResult result;
  result.shards = shards.size();
  for (const Shard& s : shards) result.bytes += s.bytes;
  uint64_t need = result.bytes + (16 << 20), have = free_space(options.directory);
  if (have < need) {
    throw system_error("needs " + std::to_string(need) + " bytes, " + std::to_string(have) +
                       " are free", ENOSPC)
        .file(options.directory)
        .hint("free some space or choose another place");
  }
  auto start = std::chrono::steady_clock::now();
  PartialDirectory directory(options.directory, options.force, options.inputs);
  progress.begin("writing", result.bytes);
  ShardWriter writer(store, directory.path(), progress, options.sync);
  for (const Shard& s : shards) writer.write(s);
  if (shards.size() > 1) {
    write_text(directory.path() + "/model.safetensors.index.json", index_text(shards), options.sync);
  }
  for (const Companion* c : plan.companions) {
    write_text(directory.path() + "/" + c->name, store.text(c->extent), options.sync);
  }
  progress.end();
  store.throw_if_changed();
  if (!plan.config.empty()) {
    write_text(directory.path() + "/config.json", plan.config, options.sync);
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
