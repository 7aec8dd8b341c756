// Writing: one scheme for all linears, since the config has one. Always E4M3FN: engines on FNUZ
// hardware convert it themselves when they load.
#include <cmath>
#include <cstring>

#include "formats/fp8/fp8.h"
#include "formats/hf/config.h"
#include "formats/hf/kv_cache.h"
#include "formats/hf/linear_writer.h"
#include "lib/base/error.h"
#include "lib/qmap/store.h"

namespace qp::fp8 {
namespace {

enum class Kind { none, block, tensor, tensor_static, mx };

constexpr const char* kOthers = "use -f compressed-tensors, which holds it";

Kind kind_of(const LinearWriter& w) {
  const QuantArgs& a = w.scheme.weights;
  if (w.scheme.code_kind() != CodeKind::e4m3) {
    w.refuse("is " + w.scheme.name + ", which fp8 cannot hold (expected FP8)", kOthers);
  }
  if (a.strategy == Strategy::block) return Kind::block;
  if (a.strategy == Strategy::group && a.group_size == 32 &&
      w.scheme.scale_kind() == ScaleKind::e8m0) {
    return Kind::mx;
  }
  if (a.strategy == Strategy::tensor) {
    return w.has(Role::input_scale) ? Kind::tensor_static : Kind::tensor;
  }
  w.refuse("has one scale per " + std::string(name_of(a.strategy)) +
               ", which fp8 has no place for (expected 128x128 blocks or one per tensor)",
           "use -f compressed-tensors, -f w8a8_fp8 or -s fp8-block");
}

// Every F32 or E8M0 scale of blocks a power of two: then scale_fmt says so.
bool powers_of_two(const Store& store, const Tensor& t) {
  const Part& p = *t.part(Role::scale);
  if (p.dtype == DType::f8_e8m0) return true;
  if (p.dtype != DType::f32) return false;
  std::vector<std::byte> bytes = store.read(p);
  for (size_t i = 0; i + 4 <= bytes.size(); i += 4) {
    uint32_t bits;
    std::memcpy(&bits, &bytes[i], 4);
    if ((bits & 0x007fffffu) != 0) return false;
  }
  return true;
}

class Planner {
 public:
  explicit Planner(const Store& store) : store_(store), m_(store.model()) {}

  ExportPlan run(const ExportOptions& options) {
    for (const Tensor& t : m_.tensors) {
      refuse_ggml(store_, t, "fp8");
      if (!t.quantized()) {
        keep_tensor(t, out_);
      } else {
        add(t);
      }
    }
    finish_plan(store_, options, quantization_config(), out_);
    return std::move(out_);
  }

 private:
  void add(const Tensor& t) {
    LinearWriter w(store_, t, out_);
    Kind kind = kind_of(w);
    const QuantArgs& a = w.scheme.weights;
    if (first_ == nullptr) {
      kind_ = kind;
      first_ = &t;
      block_rows_ = a.block_rows;
      block_cols_ = a.block_cols;
    } else if (kind != kind_ || a.block_rows != block_rows_ || a.block_cols != block_cols_) {
      w.refuse(
          "has another scheme than " + first_->name + ", and fp8 has one for the whole checkpoint",
          kOthers);
    }
    w.refuse_roles({Role::pre_scale, Role::scale_2, Role::global_scale, Role::zero_point}, "fp8");
    w.part("weight", Role::codes, DType::f8_e4m3, t.shape);
    switch (kind) {
      case Kind::block:
        w.scale_f32("weight_scale_inv", scale_shape(a, t.shape));
        ue8m0_ = ue8m0_ && powers_of_two(store_, t);
        break;
      case Kind::mx:
        w.part("weight_scale_inv", Role::scale, DType::u8, scale_shape(a, t.shape));
        break;
      case Kind::tensor_static:
        w.part("input_scale", Role::input_scale, DType::f32, Shape{1});
        [[fallthrough]];
      default: w.scale_f32("weight_scale", Shape{1});
    }
    w.finish();
  }

  Json quantization_config() const {
    Json q;
    q["activation_scheme"] = kind_ == Kind::tensor_static ? "static" : "dynamic";
    q["fmt"] = "e4m3";
    // Full paths: vLLM matches exactly, SGLang by dotted parts, both know this key.
    q["modules_to_not_convert"] = unquantized_linears(m_);
    q["quant_method"] = kind_ == Kind::mx ? "mxfp8" : "fp8";
    if (kind_ == Kind::mx || (kind_ == Kind::block && ue8m0_)) q["scale_fmt"] = "ue8m0";
    if (kind_ == Kind::mx) q["weight_block_size"] = {1, 32};
    if (kind_ == Kind::block) q["weight_block_size"] = {block_rows_, block_cols_};
    return q;
  }

  const Store& store_;
  const Model& m_;
  ExportPlan out_;
  Kind kind_ = Kind::none;
  const Tensor* first_ = nullptr;
  int block_rows_ = 0, block_cols_ = 0;
  bool ue8m0_ = true;
};

}  // namespace

ExportPlan plan(const Store& store, const ExportOptions& options) {
  return Planner(store).run(options);
}

}  // namespace qp::fp8
