#include "formats/hf/directory.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>

#include "formats/hf/weight_index.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/base/json.h"

namespace qp {
namespace fs = std::filesystem;
namespace {

constexpr uint64_t kMaxCompanion = uint64_t{1} << 30;
constexpr uint64_t kMaxIndex = uint64_t{256} << 20;
constexpr int kMaxDepth = 4;

constexpr std::array<std::string_view, 16> kWeightPatterns = {
    "*.safetensors", "*.bin",     "*.pt",        "*.pth", "*.gguf", "*.h5",
    "*.msgpack",     "*.onnx",    "*.onnx_data", "*.npz", "*.ckpt", "*.index.json",
    "*.nemo",        "*.mlmodel", "*.tflite",    "*.qmap"};

void collect(const fs::path& root, const fs::path& relative, int depth,
             std::vector<std::string>& out) {
  std::error_code ec;
  for (const auto& entry : fs::directory_iterator(root / relative, ec)) {
    std::string name = entry.path().filename();
    if (name.starts_with(".")) continue;
    fs::path inner = relative.empty() ? fs::path(name) : relative / name;
    std::error_code ignored;
    // Symbolic links to files are followed (hub caches are made of them), to directories not.
    if (entry.is_regular_file(ignored)) {
      out.push_back(inner);
    } else if (entry.is_directory(ignored) && !entry.is_symlink(ignored) && depth < kMaxDepth) {
      collect(root, inner, depth + 1, out);
    }
  }
  if (ec)
    throw system_error("cannot read the directory", ec.value()).file((root / relative).string());
}

struct stat stat_of(const std::string& path) {
  struct stat st {};
  if (stat(path.c_str(), &st) != 0) throw system_error("cannot stat", errno).file(path);
  return st;
}

void push_companion(const std::string& path, const std::string& name, const struct stat& st,
                    Model& model) {
  auto mtime = int64_t{st.st_mtim.tv_sec} * 1'000'000'000 + st.st_mtim.tv_nsec;
  auto size = static_cast<uint64_t>(st.st_size);
  model.files.push_back({path, size, mtime});
  Companion& c = model.companions.emplace_back();
  c.name = name;
  c.extent.file = static_cast<uint32_t>(model.files.size());
  c.extent.length = size;
}

}  // namespace

bool glob_match(std::string_view pattern, std::string_view name) {
  auto star = pattern.find('*');
  if (star == std::string_view::npos) return pattern == name;
  std::string_view head = pattern.substr(0, star), tail = pattern.substr(star + 1);
  if (!name.starts_with(head)) return false;
  name.remove_prefix(head.size());
  for (size_t i = 0; i <= name.size(); ++i) {
    if (glob_match(tail, name.substr(i))) return true;
  }
  return false;
}

bool Directory::has(std::string_view name) const { return std::ranges::binary_search(files, name); }

std::vector<std::string> Directory::glob(std::string_view pattern) const {
  std::vector<std::string> out;
  for (const std::string& f : files) {
    if (f.find('/') == std::string::npos && glob_match(pattern, f)) out.push_back(f);
  }
  return out;
}

Directory read_directory(const std::string& path) {
  Directory d;
  std::error_code ec;
  d.path = fs::canonical(path, ec);
  if (ec) throw system_error("cannot open", ec.value()).file(path);
  collect(d.path, "", 0, d.files);
  std::ranges::sort(d.files);
  return d;
}

bool is_weight_file(std::string_view name) {
  auto slash = name.rfind('/');
  std::string_view base = slash == std::string_view::npos ? name : name.substr(slash + 1);
  return std::ranges::any_of(kWeightPatterns,
                             [&](std::string_view p) { return glob_match(p, base); });
}

uint32_t file_number(Model& model, const MappedFile& file) {
  auto it = std::ranges::find(model.files, file.path(), &FileRef::path);
  if (it == model.files.end()) {
    model.files.push_back({file.path(), file.size(), file.mtime_ns()});
    return static_cast<uint32_t>(model.files.size());
  }
  return static_cast<uint32_t>(it - model.files.begin()) + 1;
}

void add_companions(const Directory& d, Model& model) {
  for (const std::string& name : d.files) {
    std::string full = d.full(name);
    struct stat st = stat_of(full);
    if (is_weight_file(name)) {
      bool used =
          std::ranges::any_of(model.files, [&](const FileRef& f) { return f.path == full; });
      bool index = name.ends_with(".index.json");
      if (!used) {
        model.dropped.emplace_back(name, index ? "index of the shards, written anew"
                                               : "not part of the weights that were loaded");
      }
      continue;
    }
    if (static_cast<uint64_t>(st.st_size) > kMaxCompanion) {
      model.dropped.emplace_back(name, "larger than 1 GiB, not taken for a companion file");
      continue;
    }
    push_companion(full, name, st, model);
  }
}

void add_companion(const Directory& d, const std::string& name, Model& model) {
  push_companion(d.full(name), name, stat_of(d.full(name)), model);
}

std::string_view weights_index(const Directory& d) {
  for (std::string_view name :
       {"model.safetensors.index.json", "diffusion_pytorch_model.safetensors.index.json"}) {
    if (d.has(name)) return name;
  }
  return "";
}

std::vector<std::string> unindexed_safetensors(const Directory& d) {
  auto files = d.glob("*.safetensors"), others = files;
  std::erase_if(others, [&](const std::string& f) {
    auto first = f.find('.'), last = f.rfind(".safetensors");
    bool variant = first < last && d.has(f.substr(0, first) + ".safetensors");
    return f.starts_with("consolidated") || variant;
  });
  return others.empty() ? files : others;
}

std::vector<std::pair<std::string, std::string>> read_index(const Directory& d,
                                                            std::string_view index_name) {
  std::string path = d.full(index_name);
  WeightIndex index = parse_weight_index(read_text_file(path, kMaxIndex), path);
  for (const auto& [tensor, name] : index.weight_map) {
    if (name.empty() || name.find('/') != std::string::npos || name == ".." ||
        name.find('\0') != std::string::npos) {
      throw input_error("its shard '" + printable(name) + "' leaves the directory")
          .file(path)
          .tensor(tensor);
    }
    if (!d.has(name)) {
      throw input_error("its shard '" + printable(name) + "' is missing")
          .file(path)
          .tensor(tensor)
          .hint("the download is incomplete; fetch it again");
    }
  }
  return std::move(index.weight_map);
}

}  // namespace qp
