// Writing: weights, description, and what the NPU's kernels want precomputed (section 5.4).
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <set>

#include "formats/hf/config.h"
#include "formats/hf/linear_writer.h"
#include "formats/modelslim/modelslim.h"
#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/layout/bits.h"
#include "lib/qmap/rows.h"
#include "lib/qmap/store.h"

namespace qp::modelslim {
namespace {

// model_quant_type: the last of these that occurs (W4A8_DYNAMIC is none of them).
constexpr std::array<std::string_view, 10> kPriority = {
    "FLOAT",      "W8A16",     "W8A8_DYNAMIC", "W8A8_MIX",  "W8A8", "WFP8AFP8_DYNAMIC",
    "W8A8_MXFP8", "W4A8_MXFP", "W4A4_DYNAMIC", "W4A4_MXFP4"};

bool ends_with_any(std::string_view name, std::initializer_list<std::string_view> list) {
  return std::ranges::any_of(list, [&](std::string_view e) { return name.ends_with(e); });
}

class Writer {
 public:
  explicit Writer(const Store& store) : store_(store), m_(store.model()), index_(m_.index()) {}

  ExportPlan run(const ExportOptions& options) {
    if (m_.kv_cache) {
      throw limit_error(
          "has scales of a quantized KV cache, whose layout in ModelSlim is another (C8)")
          .hint("leave them out with qload --exclude 're:.*_scale$'");
    }
    out_.weights_name = "quant_model_weights";
    for (const Tensor& t : m_.tensors) t.quantized() ? add(t) : keep(t);
    finish_plan(store_, options, Json(), out_);
    Json d = Json::object();
    auto& object = d.get_ref<Json::object_t&>();  // appended, not looked up
    for (auto& [name, label] : labels_) object.emplace_back(name, label);
    std::string_view type = "FLOAT";
    for (std::string_view label : kPriority) {
      if (used_.contains(label)) type = label;
    }
    object.emplace_back("version", "1.0.0");
    object.emplace_back("model_quant_type", type);
    object.emplace_back("metadata", Json::object());
    object.emplace_back("group_size", group_);
    object.emplace_back("optional", Json::object());
    out_.files.push_back(
        {"quant_model_description.json", d.dump(4, ' ', false, Json::error_handler_t::replace)});
    return std::move(out_);
  }

 private:
  [[noreturn]] static void refuse(const LinearWriter& w, const std::string& why,
                                  const std::string& hint = "") {
    w.refuse(
        why + ", which ModelSlim cannot hold",
        hint.empty()
            ? "quantize it with int8, int8-static, w4a8 --group-size channel, fp8-dynamic or mxfp8"
            : hint);
  }

  void keep(const Tensor& t) {
    keep_tensor(t, out_);
    labels_.emplace_back(t.name, "FLOAT");
    used_.insert("FLOAT");
  }

  void add(const Tensor& t) {
    refuse_ggml(store_, t, "ModelSlim");
    LinearWriter w(store_, t, out_);
    const Scheme& s = w.scheme;
    const Label* l = label_of(s);
    if (l == nullptr) refuse(w, "is " + (s.name.empty() ? "quantized in another way" : s.name));
    for (Role role :
         {Role::offset, Role::pre_scale, Role::g_idx, Role::scale_2, Role::global_scale}) {
      if (w.has(role)) refuse(w, "has a " + std::string(name_of(role)));
    }
    if (t.shape.rank() != 2 || !t.name.ends_with(".weight")) refuse(w, "is no weight of a linear");
    if (s.weights.strategy == Strategy::group && !l->mx) {
      if (l->codes == Codes::pairs4)
        refuse(w, "has groups", "engines take W4A8 per channel: use --group-size channel");
      if (group_ != 0 && group_ != s.weights.group_size)
        refuse(w, "has groups of another size than others");
      group_ = s.weights.group_size;
    }
    size_t before = out_.tensors.size();
    weight(w, *l);
    Shape scales = scale_shape(s.weights, t.shape);
    if (l->mx) {
      w.part("weight_scale", Role::scale, DType::u8, scales);
    } else if (l->is_static) {
      static_parts(w);
    } else {
      w.part("weight_scale", Role::scale, DType::f32, scales);
      offsets(w, scales);
    }
    if (l->codes == Codes::pairs4) scale_bias(w);
    for (size_t i = before; i < out_.tensors.size(); ++i) {
      labels_.emplace_back(out_.tensors[i].name, l->name);
    }
    used_.insert(l->name);
    w.finish();
  }

  static void weight(LinearWriter& w, const Label& l) {
    const Tensor& t = w.tensor;
    uint64_t rows = w.rows, cols = w.cols;
    if (l.codes == Codes::fp8) {
      w.part("weight", Role::codes, DType::f8_e4m3, t.shape);
      return;
    }
    if (l.codes == Codes::fp4) {
      w.part("weight", Role::codes, DType::u8, Shape{rows, cols / 2});
      return;
    }
    bool pairs = l.codes == Codes::pairs4;
    if (pairs && rows % 2 != 0) refuse(w, "has an odd number of rows (two share a byte)");
    OutTensor& out = w.part("weight", Role::codes, DType::i8, Shape{pairs ? rows / 2 : rows, cols});
    out.layout = pairs                      ? &row_pairs_layout
                 : l.codes == Codes::bytes4 ? &bytes_layout
                                            : &dense_layout;
    out.layout_args = {.rows = rows,
                       .cols = cols,
                       .bits = l.codes == Codes::bytes8 ? 8 : 4,
                       .stored_bits = pairs ? 4 : 8,
                       .is_signed = true};
  }

  // Zero points in the signed unit, as F32; zeros where the scheme has none.
  static void offsets(LinearWriter& w, const Shape& scales) {
    bool zeros = w.scheme.weights.symmetric;
    OutTensor& out =
        w.part("weight_offset", zeros ? Role::scale : Role::zero_point, DType::f32, scales);
    uint64_t n = scales.cols();
    auto half = static_cast<float>(1 << (w.scheme.weights.num_bits - 1));
    out.relaid_row_bytes = n * 4;
    out.relay = [zeros, n, half](const std::byte* rows, uint64_t, uint64_t count, std::byte* to) {
      for (uint64_t i = 0; i < count * n; ++i) {
        float v = zeros ? 0.0f : static_cast<float>(std::to_integer<int>(rows[i])) - half;
        std::memcpy(to + i * 4, &v, 4);
      }
    };
  }

  std::vector<float> floats(const Part& p) const {
    RowSource source(store_, p);
    RowScratch scratch;
    const float* v = source.get_f32(0, source.rows(), scratch, true);
    return {v, v + source.rows() * source.cols()};
  }

  // y = (qx qw + quant_bias) * deq_scale with deq_scale = s_x s_w.
  void static_parts(LinearWriter& w) {
    const Tensor& t = w.tensor;
    uint64_t rows = w.rows;
    const Part& input = *w.part("input_scale", Role::input_scale, DType::f32, Shape{1}).part;
    float scale = floats(input)[0], offset = 0;
    if (const Part* zero = t.part(Role::input_zero_point)) {
      std::vector<std::byte> bytes = store_.read(*zero);
      offset = zero->dtype == DType::i8 ? static_cast<float>(std::to_integer<int8_t>(bytes[0]))
                                        : floats(*zero)[0];
    }
    w.value("input_offset", DType::f32, Shape{1}, std::as_bytes(std::span(&offset, 1)));
    auto deq = std::make_shared<std::vector<float>>(floats(*t.part(Role::scale)));
    for (float& v : *deq) v *= scale;
    if (t.dtype == DType::bf16) {
      w.value("deq_scale", DType::f32, Shape{rows}, std::as_bytes(std::span(*deq)));
    } else {  // the kernel's 64-bit input: the bits of the F32
      std::vector<uint64_t> bits;
      for (float v : *deq) bits.push_back(std::bit_cast<uint32_t>(v));
      w.value("deq_scale", DType::i64, Shape{rows}, std::as_bytes(std::span(bits)));
    }
    auto bias = std::make_shared<std::vector<float>>(rows, 0.0f);
    if (auto it = index_.find(w.module + ".bias"); it != index_.end()) {
      const Part* data = it->second->part(Role::data);
      if (data != nullptr && data->shape.elements() == rows) *bias = floats(*data);
    }
    uint64_t cols = w.cols;
    OutTensor& out = w.part("quant_bias", Role::codes, DType::i32, Shape{rows});
    out.relaid_row_bytes = 4;
    out.relay = [deq, bias, offset, cols](const std::byte* in, uint64_t first, uint64_t count,
                                          std::byte* to) {
      for (uint64_t r = 0; r < count; ++r) {
        int64_t sum = 0;
        for (uint64_t c = 0; c < cols; ++c) sum += std::to_integer<int>(in[r * cols + c]) - 128;
        float v = std::nearbyint((*bias)[first + r] / (*deq)[first + r] -
                                 static_cast<float>(sum) * offset);
        auto q =
            static_cast<int32_t>(std::clamp(static_cast<double>(v), -2147483648.0, 2147483647.0));
        std::memcpy(to + r * 4, &q, 4);
      }
    };
    // The current saver leaves the scale to deq_scale; kept, it need not be derived, and old
    // readers want it.
    w.part("weight_scale", Role::scale, DType::f32, Shape{rows, 1});
    std::vector<float> zeros(rows, 0.0f);
    w.value("weight_offset", DType::f32, Shape{rows, 1}, std::as_bytes(std::span(zeros)));
  }

  // 8 times the sum of a row's weights; of its 16 parts where tensor parallelism splits rows.
  void scale_bias(LinearWriter& w) {
    const Tensor& t = w.tensor;
    bool whole =
        ends_with_any(w.module, {"up_proj", "gate_proj", "q_proj", "k_proj", "v_proj", "w1", "w3"});
    bool split = ends_with_any(w.module, {"down_proj", "o_proj", "w2"});
    uint64_t cols = t.shape[1], parts = split ? 16 : 1;
    if (!whole && !split)
      refuse(w, "is INT4 in a projection whose scale_bias no engine knows",
             "leave it out with --ignore, or use int8");
    if (cols % parts != 0) refuse(w, "has rows that cannot be cut into 16 parts");
    auto scale = std::make_shared<std::vector<float>>(floats(*t.part(Role::scale)));
    OutTensor& out = w.part("scale_bias", Role::codes, DType::f32, Shape{t.shape[0], parts});
    out.relaid_row_bytes = parts * 4;
    out.relay = [scale, cols, parts](const std::byte* in, uint64_t first, uint64_t count,
                                     std::byte* to) {
      uint64_t row_bytes = ceil_div(cols, 2), each = cols / parts;
      for (uint64_t r = 0; r < count; ++r) {
        for (uint64_t p = 0; p < parts; ++p) {
          int64_t sum = 0;
          for (uint64_t c = p * each; c < (p + 1) * each; ++c)
            sum += static_cast<int64_t>(layout::get(in + r * row_bytes, c, 4)) - 8;
          float v = 8.0f * (static_cast<float>(sum) * (*scale)[first + r]);
          std::memcpy(to + (r * parts + p) * 4, &v, 4);
        }
      }
    };
  }

  const Store& store_;
  const Model& m_;
  std::map<std::string_view, const Tensor*> index_;
  ExportPlan out_;
  std::vector<std::pair<std::string, std::string_view>> labels_;
  std::set<std::string_view> used_;
  int group_ = 0;
};

}  // namespace

ExportPlan plan(const Store& store, const ExportOptions& options) {
  return Writer(store).run(options);
}

}  // namespace qp::modelslim
