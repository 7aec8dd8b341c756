// Reading: tensors as stored become the canonical form; nothing is copied, decoding is by row.
#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "formats/compressed_tensors/compressed_tensors.h"
#include "formats/compressed_tensors/targets.h"
#include "formats/hf/weights.h"
#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/model/modules.h"

namespace qp::ct {
namespace {

// The raw tensors of one module, by suffix ("weight", "weight_scale" ..).
using Module = std::map<std::string, Tensor*>;

class Adopter {
 public:
  Adopter(Model& model, const Json& config, const LoadOptions& options)
      : m_(model), options_(options), groups_(read_groups(config)), targets_(groups_) {
    for (const ConfigGroup& g : groups_) m_.schemes.push_back(g.scheme);
  }

  void run() {
    std::map<std::string, Module> modules;
    for (Tensor& t : m_.tensors) {
      auto dot = t.name.rfind('.');
      if (dot == std::string::npos) continue;
      modules[t.name.substr(0, dot)][t.name.substr(dot + 1)] = &t;
    }
    std::set<const Tensor*> used;
    std::vector<Tensor> made;
    std::map<const Tensor*, size_t> place;  // where a made tensor goes in the order of the file
    for (auto& [name, module] : modules) {
      bool scaled = module.contains("weight_scale");
      if (!scaled) continue;
      Tensor t = build(name, module);
      for (auto& [suffix, raw] : module) {
        if (suffix != "bias") used.insert(raw);
      }
      Tensor* root = module.contains("weight") ? module["weight"] : module["weight_packed"];
      place[root] = made.size();
      made.push_back(std::move(t));
    }
    std::vector<Tensor> out;
    for (Tensor& t : m_.tensors) {
      if (auto it = place.find(&t); it != place.end()) {
        out.push_back(std::move(made[it->second]));
      } else if (!used.contains(&t)) {
        out.push_back(std::move(t));
      }
    }
    m_.tensors = std::move(out);
    m_.format = "compressed-tensors";
    if (options_.dequantize) m_.format = "safetensors";
  }

 private:
  [[noreturn]] static void fail(const std::string& name, const std::string& what) {
    throw input_error(what).tensor(name).hint("the checkpoint and its quantization_config disagree");
  }

  const ConfigGroup& group_of(const std::string& name, const Module& module) {
    const Tensor* w = module.contains("weight") ? module.at("weight") : module.at("weight_packed");
    ModuleInfo info = classify(name + ".weight", DType::bf16, w->shape, m_.config);
    auto found = targets_.find(name, info);
    if (!found) fail(name, "has a weight_scale but no group of quantization_config targets it");
    return groups_[*found];
  }

  Tensor build(const std::string& name, const Module& module) {
    if (!module.contains("weight") && !module.contains("weight_packed")) fail(name, "has a weight_scale but no weight");
    const ConfigGroup& g = group_of(name, module);
    const Scheme& s = g.scheme;
    bool packed = module.contains("weight_packed");
    bool wants_packed = format_of(s).find("pack") != std::string_view::npos;
    if (packed != wants_packed) {
      fail(name, "does not fit format " + g.format + " (expected " +
                     (wants_packed ? "weight_packed" : "weight") + ")");
    }
    for (const auto& [suffix, raw] : module) {
      static const std::set<std::string> known = {"weight", "weight_packed", "weight_scale", "weight_shape",
                                                  "weight_zero_point", "weight_global_scale", "bias"};
      if (!known.contains(suffix)) fail(name, "has '" + printable(suffix) + "', which this version does not read");
    }
    Tensor t;
    t.name = name + ".weight";
    t.scheme = static_cast<int32_t>(&g - groups_.data()) + first_scheme();
    const Tensor& scale = *module.at("weight_scale");
    t.dtype = s.scale_kind() == ScaleKind::source && is_float(scale.dtype) ? scale.dtype : model_dtype();
    set_codes(t, s, module);
    for (const PartSpec& spec : part_specs(s, t.shape, t.dtype)) {
      if (spec.role == Role::scale) add(t, spec, scale);
      if (spec.role == Role::zero_point) set_zero_point(t, s, spec, module);
      if (spec.role == Role::global_scale) {
        if (!module.contains("weight_global_scale")) fail(name, "has no weight_global_scale");
        add(t, spec, *module.at("weight_global_scale"));
      }
    }
    if (options_.dequantize) {
      t.dequantize = true;
      t.source = name + " (" + g.format + ")";
      t.dtype = options_.dtype.value_or(t.dtype);
    }
    return t;
  }

  int32_t first_scheme() const { return static_cast<int32_t>(m_.schemes.size() - groups_.size()); }

  // Scales of formats whose scale dtype is fixed do not tell the weight's dtype: config.json does.
  DType model_dtype() const {
    std::string name = json_string(m_.config, "dtype", json_string(m_.config, "torch_dtype", "bfloat16"));
    return dtype_from_torch(name).value_or(DType::bf16);
  }

  void set_codes(Tensor& t, const Scheme& s, const Module& module) {
    auto bits = static_cast<uint64_t>(s.weights.num_bits);
    const Tensor& raw = *(module.contains("weight") ? module.at("weight") : module.at("weight_packed"));
    if (raw.shape.rank() != 2) fail(t.name, "is no matrix");
    uint64_t rows = raw.shape[0], cols = raw.shape[1];
    Part p = raw.parts.front();
    p.role = Role::codes;
    p.dtype = DType::u8;
    Decode d;
    d.stored = DType::u8;
    if (format_of(s) == "pack-quantized") {
      cols = packed_cols(t.name, module, rows, cols, bits);
      d.stored_row_bytes = raw.shape[1] * 4;
    } else if (format_of(s) == "int-quantized") {
      if (bits != 8) fail(t.name, "has " + std::to_string(bits) + "-bit codes in int-quantized, which this version does not read");
      d.flip_sign = true;
    } else if (module.contains("weight_packed")) {
      cols *= 2;
    }
    t.shape = Shape{rows, cols};
    p.shape = Shape{rows, ceil_div(cols * bits, 8)};
    if (d.stored_row_bytes == p.shape[1]) d.stored_row_bytes = 0;
    if (d.stored_row_bytes > 0 || d.flip_sign) p.decode = std::make_shared<const Decode>(d);
    else p.decode = nullptr;
    t.parts.push_back(std::move(p));
  }

  // weight_shape tells the true width; without it the words do, when no code is padding.
  uint64_t packed_cols(const std::string& name, const Module& module, uint64_t rows, uint64_t words,
                       uint64_t bits) {
    auto it = module.find("weight_shape");
    if (it == module.end()) fail(name, "has no weight_shape");
    const Part& p = it->second->parts.front();
    if (p.dtype != DType::i64 || p.shape != Shape{2}) fail(name, "its weight_shape is no I64 [2]");
    auto file = MappedFile::open(m_.files.at(p.extent.file - 1).path);
    if (p.extent.length != 16 || p.extent.offset > file->size() || file->size() - p.extent.offset < 16) {
      fail(name, "its weight_shape lies outside the file");
    }
    uint64_t shape[2];
    std::memcpy(shape, file->bytes().data() + p.extent.offset, 16);
    if (shape[0] != rows || shape[1] > (uint64_t{1} << 40) || ceil_div(shape[1] * bits, 32) != words) {
      fail(name, "its weight_shape [" + std::to_string(shape[0]) + ", " + std::to_string(shape[1]) +
                     "] does not fit weight_packed [" + std::to_string(rows) + ", " + std::to_string(words) + "]");
    }
    return shape[1];
  }

  void add(Tensor& t, const PartSpec& spec, const Tensor& raw) {
    Part p = raw.parts.front();
    bool same_bytes = dtype_bits(p.dtype) == dtype_bits(spec.dtype);
    if (raw.shape.elements() != spec.shape.elements() || !same_bytes) {
      fail(t.name, "its " + std::string(name_of(spec.role)) + " does not fit the scheme (expected " +
                       std::string(dtype_name(spec.dtype)) + " " + spec.shape.str() + ", found " +
                       std::string(dtype_name(raw.dtype)) + " " + raw.shape.str() + ")");
    }
    p.role = spec.role;
    p.dtype = spec.dtype;
    p.shape = spec.shape;
    p.decode = nullptr;
    t.parts.push_back(std::move(p));
  }

  void set_zero_point(Tensor& t, const Scheme& s, const PartSpec& spec, const Module& module) {
    if (!module.contains("weight_zero_point")) fail(t.name, "has no weight_zero_point");
    const Tensor& raw = *module.at("weight_zero_point");
    auto bits = static_cast<uint64_t>(s.weights.num_bits);
    Shape want{ceil_div(spec.shape.rows() * bits, 32), spec.shape.cols()};
    if (raw.dtype != DType::i32 || !(raw.shape == want)) {
      fail(t.name, "its weight_zero_point does not fit (expected I32 " + want.str() + ", found " +
                       std::string(dtype_name(raw.dtype)) + " " + raw.shape.str() + ")");
    }
    Part p = raw.parts.front();
    Decode d;
    d.stored = DType::u8;
    d.packed_rows_bits = s.weights.num_bits;
    p.role = spec.role;
    p.dtype = DType::u8;
    p.shape = spec.shape;
    p.decode = std::make_shared<const Decode>(d);
    t.parts.push_back(std::move(p));
  }

  Model& m_;
  const LoadOptions& options_;
  std::vector<ConfigGroup> groups_;
  Targets targets_;
};

}  // namespace

void adopt(Model& model, const Json& config, const LoadOptions& options) {
  Adopter(model, config, options).run();
}

}  // namespace qp::ct
