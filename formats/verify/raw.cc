#include "formats/verify/raw.h"

#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>

#include "formats/container/safetensors.h"
#include "formats/hf/directory.h"
#include "formats/hf/weight_index.h"
#include "lib/base/error.h"
#include "lib/base/file.h"

namespace qp {
namespace {

constexpr uint64_t kMaxJson = uint64_t{256} << 20;

class RawReader {
 public:
  RawReader(const std::string& directory, std::vector<Finding>& findings)
      : dir_(read_directory(directory)), findings_(findings) {
    out_.path = directory;
  }

  RawCheckpoint run() {
    read_config();
    if (!index_.empty()) {
      read_index();
    } else {
      out_.files = unindexed_safetensors(dir_);
      count_numbered_shards();
    }
    for (uint32_t i = 0; i < out_.files.size(); ++i) read_shard(i);
    compare_with_index();
    return std::move(out_);
  }

 private:
  void add(Severity severity, const char* rule, std::string tensor, std::string what, std::string hint = "") {
    findings_.push_back({severity, rule, std::move(tensor), std::move(what), std::move(hint)});
  }
  void add(const char* rule, const Error& e) {
    add(Severity::error, rule, e.tensor(), file_of(e) + e.reason(), e.hint());
  }
  static std::string file_of(const Error& e) {
    return e.file().empty() ? "" : e.file().substr(e.file().rfind('/') + 1) + ": ";
  }

  void read_config() {
    if (!dir_.has("config.json")) {
      add(Severity::warning, "config", "", "there is no config.json",
          "engines cannot load the model without it; copy it from the base model");
      return;
    }
    try {
      out_.config = parse_json(read_text_file(dir_.full("config.json"), kMaxJson), dir_.full("config.json"));
      if (!out_.config.is_object()) throw input_error("is no JSON object").file("config.json");
    } catch (const Error& e) {
      if (e.kind() == ErrorKind::system) throw;
      out_.config = Json();
      add("config", e);
    }
  }

  void read_index() {
    indexed_ = true;
    try {
      WeightIndex index = parse_weight_index(read_text_file(dir_.full(index_), kMaxJson), index_);
      total_size_ = index.total_size.value_or(-1);
      for (auto& [tensor, file] : index.weight_map) take_entry(tensor, std::move(file));
    } catch (const Error& e) {
      if (e.kind() == ErrorKind::system) throw;
      add("index", e);
      indexed_ = false;
      map_.clear();
      out_.files = unindexed_safetensors(dir_);
      return;
    }
    std::set<std::string> named;
    for (const auto& [tensor, file] : map_) named.insert(file);
    std::map<std::string, size_t> lost;
    for (const auto& [tensor, file] : map_) lost[file] += dir_.has(file) ? 0u : 1u;
    for (const std::string& file : named) {
      if (lost[file] == 0) {
        out_.files.push_back(file);
      } else {
        add(Severity::error, "missing-shard", "",
            "the index names " + printable(file) + ", which is not there (" + std::to_string(lost[file]) + " tensors)",
            "the download is incomplete; fetch it again");
      }
    }
    for (const std::string& file : dir_.glob("*.safetensors")) {
      if (named.contains(file) || file.starts_with("consolidated")) continue;
      add(Severity::warning, "stray-shard", "", printable(file) + " is not named by the index",
          "remove it; some engines would load it too");
    }
  }

  void take_entry(const std::string& tensor, std::string name) {
    if (name.empty() || name.find('/') != std::string::npos || name == ".." || name.find('\0') != std::string::npos) {
      add(Severity::error, "index", tensor, "the index gives it no file of this directory", "write the index anew");
      return;
    }
    map_.emplace(tensor, std::move(name));
  }

  // model-00001-of-00003.safetensors without an index: all three must be there.
  void count_numbered_shards() {
    std::map<std::string, std::set<unsigned long>> seen;  // "PREFIX of N" -> numbers
    for (const std::string& f : out_.files) {
      auto of = f.rfind("-of-");
      if (of == std::string::npos || of < 6) continue;
      std::string total = f.substr(of + 4, f.rfind('.') - of - 4), number = f.substr(of - 5, 5);
      auto digits = [](const std::string& s) {
        return !s.empty() && s.size() < 9 && std::ranges::all_of(s, [](char c) { return c >= '0' && c <= '9'; });
      };
      if (digits(total) && digits(number)) seen[total].insert(std::stoul(number));
    }
    for (const auto& [total, numbers] : seen) {
      if (numbers.size() < std::stoul(total)) {
        add(Severity::error, "missing-shard", "",
            std::to_string(numbers.size()) + " of " + std::to_string(std::stoul(total)) + " shards are there",
            "the download is incomplete; fetch it again");
      }
    }
    if (out_.files.size() > 1) {
      add(Severity::warning, "index", "",
          std::to_string(out_.files.size()) + " shards without an index",
          "transformers cannot load them; some engines can");
    }
  }

  void read_shard(uint32_t number) {
    const std::string& name = out_.files[number];
    SafetensorsHeader header;
    try {
      auto file = MappedFile::open(dir_.full(name));
      header = parse_safetensors(file->bytes(), name);
    } catch (const Error& e) {
      if (e.kind() == ErrorKind::system) throw;
      unread_.insert(name);
      add("shard", e);
      return;
    }
    auto format = header.metadata.find("format");
    if (format == header.metadata.end()) {
      add(Severity::warning, "metadata-format", "", name + " has no metadata 'format'",
          "some versions of transformers refuse it; write it as {\"format\": \"pt\"}");
    }
    for (SafetensorsEntry& e : header.entries) {
      auto [it, fresh] = where_.emplace(e.name, number);
      if (!fresh) {
        add(Severity::error, "duplicate-tensor", e.name, "is in " + out_.files[it->second] + " and in " + name,
            "remove one of them");
        continue;
      }
      if (!takes(e.name, name)) continue;
      out_.tensors.push_back({std::move(e.name), e.dtype, e.shape, e.end - e.begin, number,
                              header.data_offset + e.begin});
    }
  }

  bool takes(const std::string& tensor, const std::string& file) {
    if (!indexed_) return true;
    auto it = map_.find(tensor);
    if (it != map_.end() && it->second == file) return true;
    add(Severity::error, "stray-tensor", tensor,
        "is in " + file + ", but the index " +
            (it == map_.end() ? std::string("does not name it") : "expects it in " + printable(it->second)),
        "write the index anew; engines disagree on such tensors");
    return false;
  }

  void compare_with_index() {
    if (!indexed_) return;
    bool complete = true;
    std::set<std::string> present(out_.files.begin(), out_.files.end());
    for (const auto& [tensor, file] : map_) {
      if (!present.contains(file) || unread_.contains(file)) {
        complete = false;
        continue;
      }
      auto it = where_.find(tensor);
      if (it != where_.end()) continue;  // wrong shard: reported where it is
      complete = false;
      add(Severity::error, "missing-tensor", tensor, "the index puts it into " + file + ", which lacks it",
          "index and shard belong to different versions; fetch them again");
    }
    uint64_t total = 0;
    for (const RawTensor& t : out_.tensors) total += t.bytes;
    if (complete && total_size_ >= 0 && total_size_ != static_cast<double>(total)) {
      add(Severity::warning, "total-size", "",
          "the index says " + std::to_string(static_cast<long long>(std::min(total_size_, 9e18))) +
              " bytes of tensors (found " + std::to_string(total) + ")",
          "the index was not written with these shards");
    }
  }

  Directory dir_;
  std::string index_{weights_index(dir_)};
  std::vector<Finding>& findings_;
  RawCheckpoint out_;
  bool indexed_ = false;
  double total_size_ = -1;
  std::map<std::string, std::string> map_;            // of the index
  std::unordered_map<std::string, uint32_t> where_;   // tensor -> shard
  std::set<std::string> unread_;
};

}  // namespace

RawCheckpoint read_raw(const std::string& directory, std::vector<Finding>& findings) {
  return RawReader(directory, findings).run();
}

}  // namespace qp
