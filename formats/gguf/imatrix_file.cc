// The two forms of the file.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "formats/container/gguf.h"
#include "formats/container/gguf_writer.h"
#include "formats/gguf/imatrix.h"
#include "lib/base/error.h"
#include "lib/base/file.h"

namespace qp {
namespace {

constexpr std::string_view kSums = ".in_sum2", kCounts = ".counts";

Error damaged(const std::string& path, const std::string& what) {
  return input_error("is no importance matrix: " + what).file(path).hint("make it with llama-imatrix or qcalibrate");
}

void check(const ImatrixEntry& e, const std::string& path) {
  auto bad = [](float x) { return !std::isfinite(x) || x < 0; };
  if (std::ranges::any_of(e.sums, bad) || std::ranges::any_of(e.counts, bad)) {
    throw input_error("holds a number that is negative or not finite").file(path).tensor(e.name);
  }
}

std::vector<float> floats_of(const GgufTensor& t, const GgufFile& file) {
  if (t.type->name != "f32") throw damaged(file.path, printable(std::string(t.name)) + " is no F32");
  std::vector<float> x(t.bytes / sizeof(float));
  if (!x.empty()) std::memcpy(x.data(), file.bytes.data() + t.offset, t.bytes);
  return x;
}

Imatrix read_gguf_form(const GgufFile& file) {
  Imatrix m;
  std::map<std::string, ImatrixEntry> entries;
  for (const GgufTensor& t : file.tensors) {
    std::string name(t.name);
    bool sums = name.ends_with(kSums);
    if (!sums && !name.ends_with(kCounts)) throw damaged(file.path, "it has a tensor " + printable(name));
    name.resize(name.size() - (sums ? kSums : kCounts).size());
    ImatrixEntry& e = entries[name];
    (sums ? e.sums : e.counts) = floats_of(t, file);
  }
  for (auto& [name, e] : entries) {
    e.name = name;
    if (e.sums.empty() || e.counts.empty() || e.sums.size() % e.counts.size() != 0) {
      throw damaged(file.path, "sums and counts of " + printable(name) + " do not fit");
    }
    check(e, file.path);
    m.entries.push_back(std::move(e));
  }
  for (std::string_view d : file.strings_at("imatrix.datasets").value_or(std::vector<std::string_view>())) {
    m.datasets.emplace_back(d);
  }
  auto count = [&](const char* key) {
    return static_cast<uint32_t>(std::min<uint64_t>(file.uint_at(key).value_or(0), UINT32_MAX));
  };
  m.chunk_count = count("imatrix.chunk_count");
  m.chunk_size = count("imatrix.chunk_size");
  return m;
}

// Reads the older form from front to back.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, const std::string& path) : bytes_(bytes), path_(path) {}

  bool done() const { return bytes_.empty(); }
  int32_t number() {
    int32_t x = 0;
    std::memcpy(&x, take(sizeof x).data(), sizeof x);
    return x;
  }
  std::string text() {
    auto raw = take(length(1));
    return {reinterpret_cast<const char*>(raw.data()), raw.size()};
  }
  std::vector<float> floats() {
    auto raw = take(length(sizeof(float)));
    std::vector<float> x(raw.size() / sizeof(float));
    if (!x.empty()) std::memcpy(x.data(), raw.data(), raw.size());
    return x;
  }

 private:
  uint64_t length(uint64_t unit) {
    int32_t n = number();
    if (n < 0 || static_cast<uint64_t>(n) > bytes_.size() / unit) throw damaged(path_, "it ends too early");
    return static_cast<uint64_t>(n) * unit;
  }
  std::span<const std::byte> take(uint64_t n) {
    if (n > bytes_.size()) throw damaged(path_, "it ends too early");
    auto taken = bytes_.first(n);
    bytes_ = bytes_.subspan(n);
    return taken;
  }

  std::span<const std::byte> bytes_;
  const std::string& path_;
};

Imatrix read_old_form(std::span<const std::byte> bytes, const std::string& path) {
  Cursor in(bytes, path);
  Imatrix m;
  std::map<std::string, ImatrixEntry> entries;
  int32_t n = in.number();
  if (n < 1) throw damaged(path, "it has no entries");
  for (int32_t i = 0; i < n; ++i) {
    ImatrixEntry e;
    e.name = in.text();
    int32_t calls = in.number();
    if (calls < 0) throw damaged(path, "a negative count");
    e.counts = {static_cast<float>(std::max(calls, 1))};  // 0: the values are means already
    e.sums = in.floats();
    check(e, path);
    if (e.sums.empty() || !entries.emplace(e.name, e).second) throw damaged(path, "entry " + printable(e.name));
  }
  for (auto& [name, e] : entries) m.entries.push_back(std::move(e));
  if (in.done()) return m;
  m.chunk_count = static_cast<uint32_t>(std::max(0, in.number()));
  if (!in.done()) {
    if (std::string name = in.text(); !name.empty()) m.datasets.push_back(std::move(name));
  }
  return m;
}

template <class T>
void put(std::string& out, T x) {
  out.append(reinterpret_cast<const char*>(&x), sizeof x);
}

std::string gguf_form(const Imatrix& m) {
  ggml::Metadata metadata{"imatrix"};
  metadata.set("general.type", std::string("imatrix"));
  metadata.set("imatrix.datasets", m.datasets);
  metadata.set("imatrix.chunk_count", m.chunk_count);
  metadata.set("imatrix.chunk_size", m.chunk_size);
  std::vector<GgufEntry> tensors;
  for (const ImatrixEntry& e : m.entries) {
    uint64_t matrices = e.counts.size();
    const GgmlType* f32 = ggml_type("f32");
    Shape sums{matrices, e.sums.size() / matrices}, counts{matrices, 1};
    for (const auto& [suffix, shape] : {std::pair(kSums, sums), std::pair(kCounts, counts)}) {
      std::string name = e.name + std::string(suffix);
      tensors.push_back({name, f32, shape, gguf_bytes(name, *f32, shape)});
    }
  }
  std::string out = gguf_header(metadata, tensors);
  for (const ImatrixEntry& e : m.entries) {
    for (const std::vector<float>* x : {&e.sums, &e.counts}) {
      out.append(reinterpret_cast<const char*>(x->data()), x->size() * sizeof(float));
      out.resize((out.size() + kGgufAlignment - 1) / kGgufAlignment * kGgufAlignment);
    }
  }
  return out;
}

// Means times calls, 1 in the columns of matrices that nothing reached.
std::string old_form(const Imatrix& m) {
  std::string out;
  put(out, static_cast<int32_t>(m.entries.size()));
  float chunk = static_cast<float>(std::max(1u, m.chunk_size));
  for (const ImatrixEntry& e : m.entries) {
    put(out, static_cast<int32_t>(e.name.size()));
    out += e.name;
    float calls = std::ceil(*std::ranges::max_element(e.counts) / chunk);
    put(out, static_cast<int32_t>(calls));
    put(out, static_cast<int32_t>(e.sums.size()));
    size_t cols = e.sums.size() / e.counts.size();
    for (size_t i = 0; i < e.sums.size(); ++i) {
      float count = e.counts[i / cols];
      put(out, (count > 0 ? e.sums[i] / count : 1.0f) * calls);
    }
  }
  put(out, static_cast<int32_t>(m.chunk_count));
  std::string dataset = m.datasets.empty() ? "" : m.datasets.front();
  put(out, static_cast<int32_t>(dataset.size()));
  return out + dataset;
}

}  // namespace

Imatrix read_imatrix(const std::string& path) {
  auto file = MappedFile::open(path);
  Imatrix m = parse_imatrix(file->bytes(), path);
  file->throw_if_changed();
  return m;
}

Imatrix parse_imatrix(std::span<const std::byte> bytes, const std::string& path) {
  Imatrix m =
      looks_like_gguf(bytes) ? read_gguf_form(parse_gguf(bytes, path)) : read_old_form(bytes, path);
  if (m.entries.empty()) throw damaged(path, "it has no entries");
  return m;
}

void add(Imatrix& to, const Imatrix& from, const std::string& path) {
  std::map<std::string_view, ImatrixEntry*> known;
  std::vector<ImatrixEntry> fresh;
  for (ImatrixEntry& e : to.entries) known[e.name] = &e;
  for (const ImatrixEntry& e : from.entries) {
    auto it = known.find(e.name);
    if (it == known.end()) {
      fresh.push_back(e);
      continue;
    }
    ImatrixEntry& sum = *it->second;
    if (sum.sums.size() != e.sums.size() || sum.counts.size() != e.counts.size()) {
      throw usage_error("has another size than in the files before").file(path).tensor(e.name).hint(
          "merge importance matrices of one model, all in one form");
    }
    for (size_t i = 0; i < e.sums.size(); ++i) sum.sums[i] += e.sums[i];
    for (size_t i = 0; i < e.counts.size(); ++i) sum.counts[i] += e.counts[i];
  }
  to.entries.insert(to.entries.end(), fresh.begin(), fresh.end());
  std::ranges::sort(to.entries, {}, &ImatrixEntry::name);
  to.datasets.insert(to.datasets.end(), from.datasets.begin(), from.datasets.end());
  to.chunk_count += from.chunk_count;
  to.chunk_size = std::max(to.chunk_size, from.chunk_size);
}

void write_imatrix(const std::string& path, const Imatrix& m) {
  write_file_atomically(path, path.ends_with(".dat") ? old_form(m) : gguf_form(m));
}

}  // namespace qp
