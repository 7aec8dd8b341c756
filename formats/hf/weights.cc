#include "formats/hf/weights.h"

#include <algorithm>
#include <map>
#include <unordered_map>
#include <unordered_set>

#include "formats/container/safetensors.h"
#include "formats/container/torch_file.h"
#include "lib/base/error.h"
#include "lib/base/file.h"

namespace qp {
namespace {

// A Git LFS pointer or an HTML error page where a weight file should be: a common accident.
void refuse_placeholder(const MappedFile& file) {
  auto bytes = file.bytes().subspan(0, std::min<size_t>(file.size(), 200));
  std::string_view head(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (head.starts_with("version https://git-lfs")) {
    throw input_error("is a Git LFS pointer, not the weights (" + std::to_string(file.size()) +
                      " bytes)")
        .file(file.path())
        .hint("run git lfs pull in that repository");
  }
  if (head.starts_with("<!DOCTYPE") || head.starts_with("<html") || head.starts_with("<?xml")) {
    throw input_error("is a web page, not the weights").file(file.path()).hint("fetch it again");
  }
}

class NameFilter {
 public:
  explicit NameFilter(const Wanted* wanted) : all_(wanted == nullptr) {
    if (wanted != nullptr) names_.insert(wanted->begin(), wanted->end());
  }
  bool takes(const std::string& name) { return all_ || names_.erase(name) > 0; }
  // Names that were promised and did not come.
  void require_all(const std::string& path) const {
    if (names_.empty()) return;
    const std::string* first = &*names_.begin();
    for (const std::string& n : names_) first = n < *first ? &n : first;
    throw input_error("is not in the shard its index names (" + std::to_string(names_.size()) +
                      " such tensors)")
        .file(path)
        .tensor(*first)
        .hint("the shard belongs to another version of the model; fetch it again");
  }

 private:
  bool all_;
  std::unordered_set<std::string> names_;
};

// One tensor with one part of data, cast as --dtype asks.
void add_tensor(std::string name, DType dtype, const Shape& shape, const Extent& extent,
                std::shared_ptr<const Decode> decode, const LoadOptions& options, Model& model) {
  Tensor t;
  t.name = std::move(name);
  t.dtype = dtype;
  t.shape = shape;
  Part p;
  p.dtype = dtype;
  p.shape = shape;
  p.extent = extent;
  p.decode = std::move(decode);
  apply_dtype(p, t.dtype, options);
  t.parts.push_back(std::move(p));
  model.tensors.push_back(std::move(t));
}

}  // namespace

void apply_dtype(Part& part, DType& dtype, const LoadOptions& options) {
  if (!options.dtype || *options.dtype == dtype || !is_float(dtype)) return;
  Decode d = part.decode ? *part.decode : Decode{};
  if (!part.decode) d.stored = dtype;
  part.decode = std::make_shared<const Decode>(std::move(d));
  part.dtype = dtype = *options.dtype;
}

void add_safetensors(const std::string& path, const Wanted* wanted, const LoadOptions& options,
                     Model& model) {
  auto file = MappedFile::open(path);
  refuse_placeholder(*file);
  SafetensorsHeader header = parse_safetensors(file->bytes(), path);
  file->drop(0, header.data_offset);
  uint32_t number = file_number(model, *file);
  NameFilter filter(wanted);
  model.tensors.reserve(model.tensors.size() + header.entries.size());
  for (SafetensorsEntry& e : header.entries) {
    if (!filter.takes(e.name)) {
      model.dropped.emplace_back(e.name, "in " + path.substr(path.rfind('/') + 1) +
                                             ", but the index takes it from elsewhere");
      continue;
    }
    Extent at{.file = number, .offset = header.data_offset + e.begin, .length = e.end - e.begin,
              .xxh3 = {}};
    add_tensor(std::move(e.name), e.dtype, e.shape, at, nullptr, options, model);
  }
  filter.require_all(path);
}

void add_pytorch(const std::string& path, const Wanted* wanted, const LoadOptions& options,
                 Model& model) {
  auto file = MappedFile::open(path);
  refuse_placeholder(*file);
  TorchFile torch = parse_torch_file(file->bytes(), path);
  uint32_t number = file_number(model, *file);
  NameFilter filter(wanted);
  for (const std::string& name : torch.skipped) {
    bool tensor = std::ranges::find(torch.beside, name) != torch.beside.end();
    model.dropped.emplace_back(name, tensor ? "a tensor beside the dict of weights"
                                            : "no tensor (an entry of the pickle)");
  }
  if (!torch.beside.empty() && options.warn) {
    constexpr size_t kShown = 5;
    std::string names;
    for (size_t i = 0; i < std::min(kShown, torch.beside.size()); ++i) {
      names += (i > 0 ? ", " : "") + printable(torch.beside[i]);
    }
    if (torch.beside.size() > kShown) names += " ..";
    size_t n = torch.beside.size();
    options.warn(path + ": " + std::to_string(n) + (n == 1 ? " tensor" : " tensors") +
                 " beside the dict of weights left out: " + names);
  }
  for (TorchTensor& e : torch.tensors) {
    if (!filter.takes(e.name)) {
      model.dropped.emplace_back(e.name, "not in the index");
      continue;
    }
    Extent at{.file = number, .offset = e.offset, .length = byte_size(e.dtype, e.shape).value_or(0),
              .xxh3 = {}};
    std::shared_ptr<Decode> strided;
    if (!e.contiguous) {
      strided = std::make_shared<Decode>();
      strided->stored = e.dtype;
      strided->strides = e.strides;
      uint64_t last = 0;
      for (size_t k = 0; k < e.shape.rank(); ++k) last += (e.shape[k] - 1) * e.strides[k];
      at.length = (last + 1) * dtype_bits(e.dtype) / 8;
    }
    add_tensor(std::move(e.name), e.dtype, e.shape, at, std::move(strided), options, model);
  }
  filter.require_all(path);
}

void add_indexed(const Directory& d, std::string_view index, AddFile add,
                 const LoadOptions& options, Model& model) {
  std::map<std::string, Wanted> by_file;
  for (auto& [tensor, file] : read_index(d, index)) by_file[file].push_back(tensor);
  if (by_file.empty()) throw input_error("its 'weight_map' is empty").file(d.full(index));
  for (auto& [file, wanted] : by_file) add(d.full(file), &wanted, options, model);
}

}  // namespace qp
