// Reading: tensors as stored become the canonical form; nothing is copied, decoding is by row.
#include <algorithm>
#include <cstring>

#include "formats/compressed_tensors/compressed_tensors.h"
#include "formats/compressed_tensors/targets.h"
#include "formats/hf/modules.h"
#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/model/modules.h"

namespace qp::ct {
namespace {

constexpr std::string_view kRoot[] = {"weight_packed", "weight"};

class Adopter {
 public:
  Adopter(Model& model, const Json& config, const LoadOptions& options)
      : m_(model), options_(options), groups_(read_groups(config)), targets_(groups_),
        version_(json_string(config, "version", "")) {
    for (const ConfigGroup& g : groups_) m_.schemes.push_back(g.scheme);
  }

  void run() {
    assemble(m_, {kRoot, part_suffixes()}, [this](const RawModule& m) { return build(m); });
    m_.format = options_.dequantize ? "safetensors" : "compressed-tensors";
  }

 private:
  Tensor build(const RawModule& m) {
    if (!m.has("weight_scale")) {
      if (m.has("weight_packed")) m.fail("has no weight_scale");
      return {};
    }
    const ConfigGroup& g = group_of(m);
    const Scheme& s = g.scheme;
    std::string_view root = g.packed() ? "weight_packed" : "weight";
    if (!m.has(root)) m.fail("does not fit format " + g.format + " (expected " + std::string(root) + ")");
    if (m.has("weight") && m.has("weight_packed")) m.fail("has a weight beside its weight_packed");
    const Tensor& raw = m.at(root);
    if (root == "weight" && is_float(raw.dtype) && raw.dtype != DType::f8_e4m3) {
      m.fail("is not compressed: its weight is still " + std::string(dtype_name(raw.dtype)) +
             " beside its scales (saved with save_compressed=False)");
    }
    Tensor t;
    t.scheme = static_cast<int32_t>(&g - groups_.data()) + static_cast<int32_t>(m_.schemes.size() - groups_.size());
    const Tensor& scale = m.at("weight_scale");
    bool source = s.scale_kind() == ScaleKind::source && is_float(scale.dtype) && scale.dtype != DType::f32;
    t.dtype = model_dtype(m_, source ? scale.dtype : DType::bf16);
    set_codes(t, g, m);
    for (const PartSpec& spec : part_specs(s, t.shape, t.dtype)) {
      if (spec.role == Role::scale) t.parts.push_back(scale_part(m, s, spec));
      if (spec.role == Role::zero_point) t.parts.push_back(zero_point(m, g, spec));
      if (spec.role == Role::global_scale) {
        t.parts.push_back(m.float_part("weight_global_scale", Role::global_scale, spec.shape));
      }
    }
    if (s.weights.symmetric && m.has("weight_zero_point")) require_zeros(m);
    add_g_idx(t, m, s);
    add_input(t, m, s);
    finish_quantized(t, options_, g.format);
    return t;
  }

  const ConfigGroup& group_of(const RawModule& m) {
    const Tensor& w = m.has("weight") ? m.at("weight") : m.at("weight_packed");
    ModuleInfo info = classify(m.name + ".weight", DType::bf16, w.shape, m_.config);
    auto found = targets_.find(m.name, info);
    if (!found) m.fail("has a weight_scale but no group of quantization_config targets it");
    return groups_[*found];
  }

  void set_codes(Tensor& t, const ConfigGroup& g, const RawModule& m) {
    std::string_view root = g.packed() ? "weight_packed" : "weight";
    const Tensor& raw = m.at(root);
    if (raw.shape.rank() != 2) m.fail("its " + std::string(root) + " is no matrix");
    uint64_t rows = raw.shape[0], cols = raw.shape[1];
    int bits = g.scheme.weights.num_bits;
    Part p = m.part(root, Role::codes, g.dtype(), raw.shape);
    switch (g.stored) {
      case Stored::words: {
        LayoutArgs args{.rows = rows, .cols = packed_cols(m, g.scheme, rows, cols), .bits = bits, .stored_bits = bits};
        const Layout& layout = whole_words(args, cols) ? whole_words_layout : words_layout;
        bool packed_zeros = m.has("weight_zero_point") && m.at("weight_zero_point").dtype == DType::i32;
        if (&layout == &whole_words_layout && !g.scheme.weights.symmetric && packed_zeros) {
          m.fail("has zero points beside " + std::to_string(args.bits) +
                 "-bit codes in whole words, as compressed-tensors 0.17 packed them, which this version does not read");
        }
        cols = args.cols;
        p = m.laid_out(root, Role::codes, DType::i32, raw.shape, layout, args);
        if (p.shape[1] % 4 == 0 && &layout == &words_layout) p.decode = nullptr;  // no padding: rows as they are
        break;
      }
      case Stored::bytes:
        p = m.laid_out(root, Role::codes, DType::i8, raw.shape, bits == 8 ? dense_layout : bytes_layout,
                       {.rows = rows, .cols = cols, .bits = bits, .is_signed = true});
        break;
      case Stored::nibbles: cols *= 2; break;
      case Stored::floats: break;
    }
    t.shape = Shape{rows, cols};
    p.role = Role::codes;
    p.dtype = DType::u8;
    p.shape = Shape{rows, ceil_div(cols * static_cast<uint64_t>(bits), 8)};
    t.parts.push_back(std::move(p));
  }

  // Odd widths: 0.18 lets codes cross words, 0.17 does not. The packed width tells, else the version.
  bool whole_words(const LayoutArgs& a, uint64_t words) const {
    auto bits = static_cast<uint64_t>(a.bits);
    if (32 % bits == 0 || ceil_div(a.cols, 32 / bits) != words) return false;
    return ceil_div(a.cols * bits, 32) != words || version_.starts_with("0.17.");
  }

  // weight_shape tells the true width. Very old files lack it: then the groups do, or the words.
  uint64_t packed_cols(const RawModule& m, const Scheme& s, uint64_t rows, uint64_t words) {
    auto bits = static_cast<uint64_t>(s.weights.num_bits);
    uint64_t cols = words > (uint64_t{1} << 40) ? 0 : words * 32 / bits;
    if (m.has("weight_shape")) {
      m.part("weight_shape", Role::data, DType::i64, Shape{2});
      std::vector<std::byte> bytes = read_small(m_, m, "weight_shape", 16);
      uint64_t shape[2];
      std::memcpy(shape, bytes.data(), 16);
      bool fits = shape[0] == rows && shape[1] <= (uint64_t{1} << 40) &&
                  (ceil_div(shape[1] * bits, 32) == words || ceil_div(shape[1], 32 / bits) == words);
      if (!fits) {
        m.fail("its weight_shape [" + std::to_string(shape[0]) + ", " + std::to_string(shape[1]) +
               "] does not fit weight_packed [" + std::to_string(rows) + ", " + std::to_string(words) + "]");
      }
      return shape[1];
    }
    if (s.weights.strategy == Strategy::group) {
      uint64_t by_groups = m.at("weight_scale").shape.cols();
      auto wide = checked_mul(by_groups, static_cast<uint64_t>(s.weights.group_size));
      if (wide && *wide <= cols && ceil_div(*wide * bits, 32) == words) return *wide;
    }
    return cols;
  }

  Part scale_part(const RawModule& m, const Scheme& s, const PartSpec& spec) {
    if (s.scale_kind() == ScaleKind::source) return m.float_part("weight_scale", Role::scale, spec.shape);
    const Tensor& raw = m.at("weight_scale");
    bool byte = raw.dtype == spec.dtype || (spec.dtype == DType::f8_e8m0 && raw.dtype == DType::u8);
    Part p = m.part("weight_scale", Role::scale, byte ? raw.dtype : spec.dtype, spec.shape);
    p.dtype = spec.dtype;
    return p;
  }

  Part zero_point(const RawModule& m, const ConfigGroup& g, const PartSpec& spec) {
    uint64_t rows = spec.shape.rows(), cols = spec.shape.cols();
    int width = g.scheme.weights.num_bits;
    auto bits = static_cast<uint64_t>(width);
    if (m.at("weight_zero_point").dtype == DType::i8) {  // not packed, signed
      return m.laid_out("weight_zero_point", Role::zero_point, DType::i8, spec.shape, bytes_layout,
                        {.rows = rows, .cols = cols, .bias = uint64_t{1} << (width - 1)});
    }
    return m.laid_out("weight_zero_point", Role::zero_point, DType::i32, Shape{ceil_div(rows * bits, 32), cols},
                      packed_rows_layout, {.rows = rows, .cols = cols, .stored_bits = width});
  }

  // Older versions stored the zero points of symmetric schemes too.
  void require_zeros(const RawModule& m) {
    const Tensor& raw = m.at("weight_zero_point");
    std::vector<std::byte> bytes = read_small(m_, m, "weight_zero_point");
    bool known = raw.dtype == DType::i8 || raw.dtype == DType::f8_e4m3;
    if (!known || std::ranges::any_of(bytes, [](std::byte b) { return b != std::byte{0}; })) {
      m.fail("has a weight_zero_point that is not zero, but its scheme is symmetric");
    }
  }

  void add_g_idx(Tensor& t, const RawModule& m, const Scheme& s) {
    if (!m.has("weight_g_idx")) return;
    uint64_t cols = t.shape.cols(), groups = ceil_div(cols, s.group_of(cols));
    Part p = m.part("weight_g_idx", Role::g_idx, DType::i32, Shape{cols});
    std::vector<std::byte> bytes = read_small(m_, m, "weight_g_idx");
    bool unused = true, trivial = true;
    for (uint64_t c = 0; c < cols; ++c) {
      int32_t group;
      std::memcpy(&group, &bytes[c * 4], 4);
      unused = unused && group == -1;
      if (!unused && (group < 0 || static_cast<uint64_t>(group) >= groups)) {
        m.fail("its weight_g_idx names group " + std::to_string(group) + " of " + std::to_string(groups));
      }
      trivial = trivial && group >= 0 && static_cast<uint64_t>(group) == c / s.group_of(cols);
    }
    if (!unused && !trivial) t.parts.push_back(std::move(p));
  }

  void add_input(Tensor& t, const RawModule& m, const Scheme& s) {
    bool is_static = s.input_activations && s.input_activations->dynamic == Dynamic::no;
    bool local = s.input_activations && s.input_activations->dynamic == Dynamic::local;
    if (is_static) t.parts.push_back(m.float_part("input_scale", Role::input_scale, Shape{1}));
    if (is_static && !s.input_activations->symmetric) {
      t.parts.push_back(m.part("input_zero_point", Role::input_zero_point, DType::i8, Shape{1}));
    }
    if (local) t.parts.push_back(m.float_part("input_global_scale", Role::input_global_scale, Shape{1}));
    for (auto [suffix, used] : {std::pair{"input_scale", is_static}, {"input_global_scale", local},
                                {"input_zero_point", is_static && !s.input_activations->symmetric}}) {
      if (m.has(suffix) && !used) m_.dropped.emplace_back(m.name + "." + suffix, "no quantized activation of its scheme uses it");
    }
  }

  Model& m_;
  const LoadOptions& options_;
  std::vector<ConfigGroup> groups_;
  Targets targets_;
  std::string version_;
};

}  // namespace

void adopt(Model& model, const Json& config, const LoadOptions& options) {
  adopt_kv_cache(model, config, options);
  Adopter(model, config, options).run();
}

}  // namespace qp::ct
