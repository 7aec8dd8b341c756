// bitsandbytes: NF4, FP4 (with double quantization) and LLM.int8(), as transformers saves them
// (reference/int4-formats.md 1.4). quant_state is the text of a JSON object, one byte an element.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <optional>

#include "formats/format.h"
#include "formats/hf/config.h"
#include "formats/hf/linear_writer.h"
#include "formats/hf/modules.h"
#include "lib/algorithm/codebook.h"
#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/model/modules.h"
#include "lib/qmap/store.h"

namespace qp {
namespace {

constexpr std::string_view kRoot[] = {"weight"};
constexpr std::string_view kParts[] = {"weight.absmax",
                                       "weight.quant_map",
                                       "weight.nested_absmax",
                                       "weight.nested_quant_map",
                                       "weight.quant_state.bitsandbytes__nf4",
                                       "weight.quant_state.bitsandbytes__fp4",
                                       "SCB",
                                       "weight_format"};
constexpr std::array<int, 8> kBlocks = {32, 64, 128, 256, 512, 1024, 2048, 4096};
constexpr uint64_t kMaxState = 1 << 16;

Scheme four_bits(std::string_view type, int block, bool nested) {
  Scheme s;
  s.name = "bnb-" + std::string(type) + (nested ? "-dq" : "");
  s.numerics = "bitsandbytes";
  s.weights = {.num_bits = 4,
               .type = NumType::codebook,
               .strategy = Strategy::flat,
               .group_size = block,
               .scale_dtype = {},
               .nested_scale = nested};
  return s;
}

Scheme eight_bits() {
  Scheme s;
  s.name = "bnb-int8";
  s.numerics = "bitsandbytes";
  s.weights = {.num_bits = 8, .strategy = Strategy::channel, .scale_dtype = {}, .amax_scale = true};
  return s;
}

// ---- reading

struct QuantState {
  std::string type;
  int block = 64;
  DType dtype = DType::bf16;
  Shape shape;
  bool nested = false;
  float offset = 0;
};

class Adopter {
 public:
  Adopter(Model& model, const Json& config, const LoadOptions& options)
      : m_(model), options_(options) {
    auto flag = [&](const char* name) {
      return json_bool(config, name, false) ||
             json_bool(config, (std::string("_") + name).c_str(), false);
    };
    four_ = flag("load_in_4bit");
    eight_ = flag("load_in_8bit");
    if (four_ && eight_)
      throw input_error("quantization_config says both load_in_4bit and load_in_8bit");
  }

  void run() {
    assemble(m_, {kRoot, kParts}, [this](const RawModule& m) { return build(m); });
    for (const Tensor& t : m_.tensors) {
      for (std::string_view suffix : kParts) {
        if (t.name.ends_with("." + std::string(suffix))) {
          throw input_error("belongs to a weight that is not there").tensor(t.name);
        }
      }
    }
    m_.format = options_.dequantize ? "safetensors" : "bitsandbytes";
  }

 private:
  Tensor build(const RawModule& m) {
    const Tensor& w = m.at("weight");
    bool rows = m.has("SCB"), blocks = m.has("weight.absmax") || m.has("weight.quant_map");
    if (!rows && !blocks) {
      if (w.dtype == DType::u8) m.fail("has no weight.absmax");
      if (w.dtype == DType::i8) m.fail("has no SCB");
      return {};
    }
    if (rows && blocks) m.fail("has the scales of both 8 and 4 bits");
    if (rows && four_) m.fail("has 8-bit codes, but quantization_config says load_in_4bit");
    if (blocks && eight_) m.fail("has 4-bit codes, but quantization_config says load_in_8bit");
    Tensor t = rows ? int8(m) : four(m);
    finish_quantized(t, options_, m_.schemes[static_cast<size_t>(t.scheme)].name);
    return t;
  }

  Tensor int8(const RawModule& m) {
    const Tensor& w = m.at("weight");
    if (w.shape.rank() != 2) m.fail("its weight is no matrix");
    if (m.has("weight_format")) {
      std::vector<std::byte> format = read_small(m_, m, "weight_format", 8);
      bool row = std::ranges::all_of(format, [](std::byte b) { return b == std::byte{0}; });
      if (!row)
        m.fail(
            "is in a layout of old GPUs (weight_format is not 0), which bitsandbytes itself "
            "refuses");
    }
    Tensor t;
    t.shape = w.shape;
    t.dtype = model_dtype(m_);
    t.scheme = m_.scheme_index(eight_bits());
    t.parts.push_back(m.laid_out("weight", Role::codes, DType::i8, w.shape, dense_layout,
                                 {.rows = w.shape[0], .cols = w.shape[1], .is_signed = true}));
    Part scale = m.part("SCB", Role::scale, DType::f32, Shape{w.shape[0]});
    scale.shape = Shape{w.shape[0], 1};
    t.parts.push_back(std::move(scale));
    return t;
  }

  Tensor four(const RawModule& m) {
    QuantState s = state_of(m);
    uint64_t rows = s.shape[0], cols = s.shape[1], n = rows * cols;
    uint64_t scales = ceil_div(n, static_cast<uint64_t>(s.block));
    if (cols % 2 != 0) {
      throw limit_error("has rows of " + std::to_string(cols) +
                        " columns: two of them share a byte, which qpipe cannot hold")
          .hint("dequantize it with bitsandbytes");
    }
    Tensor t;
    t.shape = s.shape;
    t.dtype = s.dtype;
    t.scheme = m_.scheme_index(four_bits(s.type, s.block, s.nested));
    // Whatever dtype the bytes are stored as (bnb_4bit_quant_storage), they are the same.
    Part codes = m.at("weight").parts.front();
    if (codes.extent.length != n / 2) {
      m.fail("its weight does not fit its quant_state (expected " + std::to_string(n / 2) +
             " bytes for " + s.shape.str() + ", found " + std::to_string(codes.extent.length) +
             ")");
    }
    codes.role = Role::codes;
    codes.dtype = DType::u8;
    codes.shape = Shape{rows, cols / 2};
    Decode d;
    d.stored = DType::u8;
    d.layout = &high_nibble_layout;
    d.layout_args = {.rows = rows, .cols = cols, .bits = 4, .stored_bits = 4};
    codes.decode = std::make_shared<const Decode>(std::move(d));
    t.parts.push_back(std::move(codes));
    t.parts.push_back(
        m.part("weight.absmax", Role::scale, s.nested ? DType::u8 : DType::f32, Shape{scales}));
    t.parts.push_back(m.part("weight.quant_map", Role::codebook, DType::f32, Shape{16}));
    if (s.nested) {
      t.parts.push_back(m.part("weight.nested_absmax", Role::nested_scale, DType::f32,
                               Shape{ceil_div(scales, 256)}));
      t.parts.push_back(
          m.part("weight.nested_quant_map", Role::nested_codebook, DType::f32, Shape{256}));
      t.parts.push_back(blob_part(m_, Role::nested_offset, DType::f32, Shape{1},
                                  std::as_bytes(std::span(&s.offset, 1))));
    }
    return t;
  }

  QuantState state_of(const RawModule& m) {
    QuantState s;
    for (std::string type : {"nf4", "fp4"}) {
      if (m.has("weight.quant_state.bitsandbytes__" + type)) s.type += type;
    }
    if (s.type.size() != 3)
      m.fail(s.type.empty() ? "has no weight.quant_state" : "has two quant_states");
    std::string suffix = "weight.quant_state.bitsandbytes__" + s.type;
    std::vector<std::byte> bytes = read_small(m_, m, suffix, kMaxState);
    Json j = parse_json({reinterpret_cast<const char*>(bytes.data()), bytes.size()},
                        m.name + "." + suffix);
    if (!j.is_object()) m.fail("its quant_state is no JSON object");
    static constexpr std::string_view kKeys[] = {"quant_type",   "blocksize",        "dtype",
                                                 "shape",        "nested_blocksize", "nested_dtype",
                                                 "nested_offset"};
    for (const auto& [key, value] : j.items()) {
      if (std::ranges::find(kKeys, key) == std::end(kKeys))
        m.fail("its quant_state has an unknown key '" + printable(key) + "'");
    }
    if (json_string(j, "quant_type", "") != s.type)
      m.fail("its quant_state is not of type " + s.type);
    int64_t block = json_int(j, "blocksize", 0);
    if (std::ranges::find(kBlocks, block) == kBlocks.end())
      m.fail("its quant_state has a blocksize of " + std::to_string(block));
    s.block = static_cast<int>(block);
    auto dtype = dtype_from_torch(json_string(j, "dtype", ""));
    if (!dtype || !is_float(*dtype)) m.fail("its quant_state has no known dtype");
    s.dtype = *dtype;
    auto shape = j.find("shape");
    bool matrix = shape != j.end() && shape->is_array() && shape->size() == 2;
    uint64_t dims[2] = {0, 0};
    for (size_t i = 0; matrix && i < 2; ++i) {
      matrix = (*shape)[i].is_number_unsigned() && (*shape)[i].get<uint64_t>() <= uint64_t{1} << 28;
      if (matrix) dims[i] = (*shape)[i].get<uint64_t>();
    }
    if (!matrix || dims[0] == 0 || dims[1] == 0)
      m.fail("its quant_state has no shape of two dimensions");
    s.shape = Shape{dims[0], dims[1]};
    s.nested = j.contains("nested_offset");
    if (s.nested) {
      if (!j["nested_offset"].is_number() || json_int(j, "nested_blocksize", 0) != 256 ||
          json_string(j, "nested_dtype", "") != "float32") {
        m.fail(
            "its quant_state nests scales in an unknown way (expected blocks of 256 in float32)");
      }
      s.offset = static_cast<float>(j["nested_offset"].get<double>());
    } else if (m.has("weight.nested_absmax")) {
      m.fail("has nested scales that its quant_state does not know of");
    }
    return s;
  }

  Model& m_;
  const LoadOptions& options_;
  bool four_ = false, eight_ = false;
};

void adopt(Model& model, const Json& config, const LoadOptions& options) {
  Adopter(model, config, options).run();
}

// ---- writing

// repr() of a Python float.
std::string python_text(double v) {
  bool plain = v == 0 || (std::fabs(v) >= 1e-4 && std::fabs(v) < 1e16);
  char text[64];
  auto end = std::to_chars(text, text + sizeof text, v,
                           plain ? std::chars_format::fixed : std::chars_format::scientific)
                 .ptr;
  std::string out(text, end);
  if (plain && out.find('.') == std::string::npos) out += ".0";
  return out;
}

class Writer {
 public:
  explicit Writer(const Store& store) : store_(store), m_(store.model()) {}

  ExportPlan run(const ExportOptions& options) {
    for (const Tensor& t : m_.tensors) {
      t.quantized() ? add(t) : keep_tensor(t, out_);
    }
    refuse_namesakes();
    finish_plan(store_, options, quantization_config(), out_);
    return std::move(out_);
  }

 private:
  [[noreturn]] static void refuse(const LinearWriter& w, const std::string& why) {
    w.refuse(why + ", which bitsandbytes cannot hold",
             "load it with qload --dequantize and quantize it with bnb-nf4, bnb-fp4 or bnb-int8");
  }

  void add(const Tensor& t) {
    refuse_ggml(store_, t, "bitsandbytes");
    LinearWriter w(store_, t, out_);
    const Scheme& s = w.scheme;
    bool four = s.code_kind() == CodeKind::codebook && s.weights.num_bits == 4 &&
                s.weights.strategy == Strategy::flat;
    bool eight = s.weights.amax_scale && s.code_kind() == CodeKind::integer &&
                 s.weights.num_bits == 8 && s.weights.strategy == Strategy::channel &&
                 s.weights.symmetric;
    if (!four && !eight) refuse(w, "is " + (s.name.empty() ? "quantized in another way" : s.name));
    if (t.shape.rank() != 2) refuse(w, "is no matrix");
    if (first_ == nullptr) {
      first_ = &t;
      four_ = four;
    }
    if (four != four_) refuse(w, "has another width than '" + first_->name + "'");
    four ? add_four(w) : add_eight(w);
    w.finish();
  }

  static void add_eight(LinearWriter& w) {
    w.laid_out("weight", Role::codes, DType::i8, w.tensor.shape, dense_layout, {.is_signed = true});
    w.part("SCB", Role::scale, DType::f32, Shape{w.rows});
    w.value("weight_format", DType::u8, Shape{}, std::array{std::byte{0}});
  }

  void add_four(LinearWriter& w) {
    const Tensor& t = w.tensor;
    const Scheme& s = w.scheme;
    uint64_t rows = w.rows, cols = w.cols, scales = scale_shape(s.weights, t.shape)[0];
    if (std::ranges::find(kBlocks, s.weights.group_size) == kBlocks.end()) {
      refuse(w, "has blocks of " + std::to_string(s.weights.group_size));
    }
    std::string type = table_name(w);
    types_ += types_.find(type) == std::string::npos ? type : "";
    bool nested = s.weights.nested_scale;
    nested_ |= nested;
    w.laid_out("weight", Role::codes, DType::u8, Shape{rows * cols / 2, 1}, high_nibble_layout);
    w.part("weight.absmax", Role::scale, nested ? DType::u8 : DType::f32, Shape{scales});
    w.part("weight.quant_map", Role::codebook, DType::f32, Shape{16});
    std::string state = "{\"quant_type\": \"" + type +
                        "\", \"blocksize\": " + std::to_string(s.weights.group_size) +
                        ", \"dtype\": \"" + std::string(torch_name(t.dtype)) + "\", \"shape\": [" +
                        std::to_string(rows) + ", " + std::to_string(cols) + "]";
    if (nested) {
      w.part("weight.nested_absmax", Role::nested_scale, DType::f32, Shape{ceil_div(scales, 256)});
      w.part("weight.nested_quant_map", Role::nested_codebook, DType::f32, Shape{256});
      std::vector<std::byte> bytes = store_.read(*t.part(Role::nested_offset));
      float offset;
      std::memcpy(&offset, bytes.data(), 4);
      state += ", \"nested_blocksize\": 256, \"nested_dtype\": \"float32\", \"nested_offset\": " +
               python_text(static_cast<double>(offset));
    }
    state += "}";
    w.value("weight.quant_state.bitsandbytes__" + type, DType::u8, Shape{state.size()},
            std::as_bytes(std::span(state)));
  }

  // Its kernels know two tables; quant_map only repeats them.
  std::string table_name(const LinearWriter& w) const {
    std::vector<std::byte> bytes = store_.read(*w.tensor.part(Role::codebook));
    float table[16];
    std::memcpy(table, bytes.data(), sizeof table);
    if (std::ranges::equal(table, codebook::nf4())) return "nf4";
    if (std::ranges::equal(table, codebook::fp4())) return "fp4";
    refuse(w, "has a codebook of its own");
  }

  // diffusers skips modules by the last part of their names: a Flux's proj_out and those of its
  // blocks are one to it.
  void refuse_namesakes() const {
    if (!is_diffusion_model(m_.config)) return;
    for (const Tensor& plain : m_.tensors) {
      if (plain.quantized() || plain.shape.rank() != 2 ||
          plain.name.find('.') != plain.name.rfind(".weight"))
        continue;
      for (const Tensor& t : m_.tensors) {
        if (!t.quantized() || !t.name.ends_with("." + plain.name)) continue;
        throw limit_error("is quantized and " + plain.name +
                          " is not, which diffusers cannot tell apart")
            .tensor(t.name)
            .hint("leave both as they are: qquantize --ignore 're:.*" + plain.name + "'");
      }
    }
  }

  Json quantization_config() const {
    std::string dtype(torch_name(first_ == nullptr ? DType::bf16 : first_->dtype));
    std::string type = types_.empty() ? "nf4" : types_.substr(0, 3);
    bool four = first_ == nullptr || four_;
    std::vector<std::string> plain = unquantized_linears(m_);
    // The library leaves the head alone by itself; a list replaces that.
    bool only_head =
        std::ranges::all_of(plain, [](const std::string& name) { return name == "lm_head"; });
    Json q;
    q["_load_in_4bit"] = four;
    q["_load_in_8bit"] = !four;
    q["bnb_4bit_compute_dtype"] = four ? dtype : "float32";
    q["bnb_4bit_quant_storage"] = "uint8";
    q["bnb_4bit_quant_type"] = four ? type : "fp4";
    q["bnb_4bit_use_double_quant"] = nested_;
    q["llm_int8_enable_fp32_cpu_offload"] = false;
    q["llm_int8_has_fp16_weight"] = false;
    q["llm_int8_skip_modules"] = only_head ? Json() : Json(plain);
    q["llm_int8_threshold"] = 6.0;
    q["load_in_4bit"] = four;
    q["load_in_8bit"] = !four;
    q["quant_method"] = "bitsandbytes";
    return q;
  }

  const Store& store_;
  const Model& m_;
  ExportPlan out_;
  std::string types_;
  const Tensor* first_ = nullptr;
  bool four_ = true, nested_ = false;
};

ExportPlan plan(const Store& store, const ExportOptions& options) {
  return Writer(store).run(options);
}

}  // namespace

const Format& bitsandbytes_format() {
  static const Format format = {.name = "bitsandbytes",
                                .summary = "transformers: NF4, FP4 (double quantization too), LLM.int8()",
                                .plan = plan,
                                .quant_method = "bitsandbytes",
                                .adopt = adopt,
                                .conv1d = true};
  return format;
}

}  // namespace qp
