#include "formats/hf/modules.h"

#include <algorithm>
#include <set>

#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/qmap/decode.h"

namespace qp {
namespace {

std::string found(const Tensor& raw) {
  return "found " + std::string(dtype_name(raw.dtype)) + " " + raw.shape.str();
}

// --dtype is for what is kept and what comes out: scales stay as they are stored.
void undo_cast(Tensor& raw) {
  Part& p = raw.parts.front();
  if (!p.decode || p.decode->stored == p.dtype || !is_float(p.decode->stored)) return;
  raw.dtype = p.dtype = p.decode->stored;
  if (is_plain(p)) p.decode = nullptr;
}

// Layouts describe dense bytes (a PyTorch file can hold others).
void require_dense(const RawModule& m, std::string_view suffix, const Part& p) {
  if (p.decode != nullptr) m.fail("its " + std::string(suffix) + " is not stored densely");
}

bool contains(std::span<const std::string_view> list, std::string_view text) {
  return std::ranges::find(list, text) != list.end();
}

// "a.b" and "weight" of "a.b.weight": the longest known suffix, else what follows the last dot.
std::pair<std::string_view, std::string_view> split(std::string_view name,
                                                    const ModuleSuffixes& s) {
  size_t best = 0;
  for (auto list : {s.root, s.parts, s.keep}) {
    for (std::string_view suffix : list) {
      bool ends = name.size() > suffix.size() + 1 && name.ends_with(suffix) &&
                  name[name.size() - suffix.size() - 1] == '.';
      if (ends) best = std::max(best, suffix.size());
    }
  }
  if (best == 0) {
    auto dot = name.rfind('.');
    if (dot == std::string_view::npos) return {};
    best = name.size() - dot - 1;
  }
  return {name.substr(0, name.size() - best - 1), name.substr(name.size() - best)};
}

}  // namespace

const Tensor* RawModule::find(std::string_view suffix) const {
  auto it = tensors.find(suffix);
  return it == tensors.end() ? nullptr : it->second;
}

const Tensor& RawModule::at(std::string_view suffix) const {
  const Tensor* t = find(suffix);
  if (t == nullptr) fail("has no " + std::string(suffix));
  return *t;
}

void RawModule::fail(const std::string& what) const {
  throw input_error(what).tensor(name).hint(
      "the checkpoint and its quantization config disagree, or it is damaged");
}

Part RawModule::part(std::string_view suffix, Role role, DType dtype, const Shape& shape) const {
  const Tensor& raw = at(suffix);
  if (raw.dtype != dtype || raw.shape != shape) {
    fail("its " + std::string(suffix) + " does not fit (expected " +
         std::string(dtype_name(dtype)) + " " + shape.str() + ", " + found(raw) + ")");
  }
  Part p = raw.parts.front();
  p.role = role;
  return p;
}

Part RawModule::float_part(std::string_view suffix, Role role, const Shape& shape) const {
  const Tensor& raw = at(suffix);
  bool is = raw.dtype == DType::f32 || raw.dtype == DType::f16 || raw.dtype == DType::bf16;
  if (!is || raw.shape.elements() != shape.elements()) {
    fail("its " + std::string(suffix) + " does not fit (expected a float " + shape.str() + ", " +
         found(raw) + ")");
  }
  Part p = raw.parts.front();
  p.role = role;
  p.shape = shape;
  return p;
}

Part RawModule::laid_out(std::string_view suffix, Role role, DType dtype, const Shape& shape,
                         const Layout& layout, const LayoutArgs& args) const {
  Part p = part(suffix, role, dtype, shape);
  require_dense(*this, suffix, p);
  p.dtype = DType::u8;
  p.shape = Shape{args.rows, args.row_bytes()};
  Decode d;
  d.stored = DType::u8;
  d.layout = &layout;
  d.layout_args = args;
  p.decode = std::make_shared<const Decode>(std::move(d));
  if (layout.stored_bytes(args) != p.extent.length) {
    fail("its " + std::string(suffix) + " cannot be a " + std::string(layout.name) + " matrix of " +
         std::to_string(args.rows) + " x " + std::to_string(args.cols));
  }
  return p;
}

Part RawModule::transposed(std::string_view suffix, Role role, uint64_t rows, uint64_t cols) const {
  const Tensor& raw = at(suffix);
  bool is = raw.dtype == DType::f32 || raw.dtype == DType::f16 || raw.dtype == DType::bf16;
  if (!is || raw.shape != Shape{cols, rows}) {
    fail("its " + std::string(suffix) + " does not fit (expected a float " +
         Shape{cols, rows}.str() + ", " + found(raw) + ")");
  }
  Part p = raw.parts.front();
  require_dense(*this, suffix, p);
  p.role = role;
  p.shape = Shape{rows, cols};
  auto bits = static_cast<int>(dtype_bits(raw.dtype));
  Decode d;
  d.stored = raw.dtype;
  d.layout = &transposed_layout;
  d.layout_args = {.rows = rows, .cols = cols, .bits = bits, .stored_bits = bits};
  p.decode = std::make_shared<const Decode>(std::move(d));
  return p;
}

void assemble(Model& model, const ModuleSuffixes& suffixes,
              const std::function<Tensor(const RawModule&)>& build) {
  std::map<std::string, RawModule, std::less<>> modules;
  for (Tensor& t : model.tensors) {
    auto [name, suffix] = split(t.name, suffixes);
    if (name.empty()) continue;
    RawModule& m = modules[std::string(name)];
    m.name = name;
    m.tensors[std::string(suffix)] = &t;
  }
  std::set<const Tensor*> used;
  std::map<const Tensor*, Tensor> made;  // by root
  for (auto& [name, module] : modules) {
    const Tensor* root = nullptr;
    for (std::string_view suffix : suffixes.root) {
      if (root == nullptr) root = module.find(suffix);
    }
    if (root == nullptr) continue;
    std::vector<std::pair<Tensor*, Tensor>> as_read;
    for (auto& [suffix, raw] : module.tensors) {
      if (!contains(suffixes.root, suffix) && !contains(suffixes.parts, suffix)) continue;
      if (raw->parts.front().decode) as_read.emplace_back(raw, *raw);
      undo_cast(*raw);
    }
    Tensor t;
    try {
      t = build(module);
    } catch (Error& e) {
      throw std::move(e).tensor(name);
    }
    if (t.parts.empty()) {
      for (auto& [raw, before] : as_read) *raw = std::move(before);
      continue;
    }
    if (t.name.empty()) t.name = name + ".weight";
    for (const auto& [suffix, raw] : module.tensors) {
      if (suffix == "bias" || contains(suffixes.keep, suffix)) continue;
      if (!contains(suffixes.root, suffix) && !contains(suffixes.parts, suffix)) {
        module.fail("has a tensor '" + printable(suffix) + "' that this format does not have");
      }
      used.insert(raw);
    }
    made.emplace(root, std::move(t));
  }
  std::vector<Tensor> out;
  out.reserve(model.tensors.size());
  for (Tensor& t : model.tensors) {
    if (auto it = made.find(&t); it != made.end()) {
      out.push_back(std::move(it->second));
    } else if (!used.contains(&t)) {
      out.push_back(std::move(t));
    }
  }
  model.tensors = std::move(out);
}

Part blob_part(Model& model, Role role, DType dtype, const Shape& shape,
               std::span<const std::byte> bytes) {
  model.blobs.emplace_back(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  Part p{role, dtype, shape, {}, nullptr};
  p.extent.file = kBlob;
  p.extent.offset = model.blobs.size() - 1;
  p.extent.length = bytes.size();
  return p;
}

std::vector<std::byte> read_small(const Model& model, const RawModule& module,
                                  std::string_view suffix, uint64_t limit) {
  require_dense(module, suffix, module.at(suffix).parts.front());
  const Extent& e = module.at(suffix).parts.front().extent;
  if (e.length > limit) module.fail("its " + std::string(suffix) + " is too large");
  if (e.file == kBlob) {
    auto bytes = std::as_bytes(std::span(model.blobs.at(e.offset)));
    return {bytes.begin(), bytes.end()};
  }
  auto file = MappedFile::open(model.files.at(e.file - 1).path);
  if (e.offset > file->size() || e.length > file->size() - e.offset) {
    module.fail("its " + std::string(suffix) + " lies outside the file");
  }
  auto bytes = file->bytes().subspan(e.offset, e.length);
  return {bytes.begin(), bytes.end()};
}

DType model_dtype(const Model& model, DType otherwise) {
  const Json* text = &model.config;
  std::string name;
  if (text->is_object()) {
    name = json_string(*text, "dtype", json_string(*text, "torch_dtype", ""));
    auto inner = text->find("text_config");
    if (name.empty() && inner != text->end() && inner->is_object()) {
      name = json_string(*inner, "dtype", json_string(*inner, "torch_dtype", ""));
    }
  }
  return dtype_from_torch(name).value_or(otherwise);
}

void finish_quantized(Tensor& t, const LoadOptions& options, const std::string& kind) {
  if (!options.dequantize) return;
  t.dequantize = true;
  t.source = t.name + " (" + kind + ")";
  t.dtype = options.dtype.value_or(t.dtype);
}

}  // namespace qp
