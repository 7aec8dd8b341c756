// gpt-oss, quant_method "mxfp4": stacks of experts in MXFP4, everything else as it is
// (reference/fp8-torchao-quark-modelslim.md 2). NAME_blocks U8 [E, out, in / 32, 16] and
// NAME_scales U8 [E, out, in / 32] are the canonical rows of codes and scales; the float tensor
// NAME is stored transposed, [E, in, out], and so the canonical tensor is, too
// (Tensor::transposed). Gate and up stay interleaved as they are stored.
#include <algorithm>
#include <map>

#include "formats/hf/config.h"
#include "formats/hf/linear_writer.h"
#include "formats/hf/modules.h"
#include "formats/verify/raw.h"
#include "lib/base/error.h"
#include "lib/qmap/store.h"

namespace qp {
namespace {

constexpr std::string_view kBlocks = "_blocks", kScales = "_scales";

Scheme scheme() {
  Scheme s;
  s.name = "mxfp4a16";
  s.weights.num_bits = 4;
  s.weights.type = NumType::floating;
  s.weights.strategy = Strategy::group;
  s.weights.group_size = 32;
  s.weights.scale_dtype = DType::f8_e8m0;
  return s;
}

std::string found(const Tensor& t) {
  return "found " + std::string(dtype_name(t.dtype)) + " " + t.shape.str();
}

Tensor stack(const std::string& name, const Tensor& blocks, const Tensor* scales, Model& m,
             const LoadOptions& options) {
  if (scales == nullptr) throw input_error("has no " + name + "_scales").tensor(blocks.name);
  const Shape& b = blocks.shape;
  if (blocks.dtype != DType::u8 || b.rank() != 4 || b[3] != 16 || b[2] > (uint64_t{1} << 40)) {
    throw input_error("is no stack of blocks (expected U8 [experts, out, in / 32, 16], " +
                      found(blocks) + ")")
        .tensor(blocks.name);
  }
  bool bytes = scales->dtype == DType::u8 || scales->dtype == DType::f8_e8m0;
  if (!bytes || scales->shape != Shape{b[0], b[1], b[2]}) {
    throw input_error("does not fit its blocks (expected U8 " + Shape{b[0], b[1], b[2]}.str() +
                      ", " + found(*scales) + ")")
        .tensor(scales->name);
  }
  Tensor t;
  t.name = name;
  t.dtype = model_dtype(m);
  t.transposed = true;
  t.shape = Shape{b[0], b[2] * 32, b[1]};
  Part codes = blocks.parts.front(), scale = scales->parts.front();
  codes.role = Role::codes;
  codes.shape = Shape{b[0] * b[1], b[2] * 16};
  scale.role = Role::scale;
  scale.dtype = DType::f8_e8m0;
  scale.shape = Shape{b[0] * b[1], b[2]};
  t.parts = {codes, scale};
  t.scheme = m.scheme_index(scheme());
  finish_quantized(t, options, "mxfp4");
  return t;
}

void adopt(Model& m, const Json&, const LoadOptions& options) {
  std::map<std::string, const Tensor*, std::less<>> scales;
  for (const Tensor& t : m.tensors) {
    if (t.name.ends_with(kScales)) {
      scales.emplace(t.name.substr(0, t.name.size() - kScales.size()), &t);
    }
  }
  std::vector<Tensor> out;
  out.reserve(m.tensors.size());
  std::map<std::string, Tensor> made;  // by the name of the blocks
  for (const Tensor& t : m.tensors) {
    if (!t.name.ends_with(kBlocks)) continue;
    std::string name = t.name.substr(0, t.name.size() - kBlocks.size());
    auto it = scales.find(name);
    made.emplace(t.name, stack(name, t, it == scales.end() ? nullptr : it->second, m, options));
    if (it != scales.end()) scales.erase(it);
  }
  for (const auto& [name, t] : scales) {
    if (t->dtype == DType::u8) throw input_error("has no " + name + "_blocks").tensor(t->name);
  }
  for (Tensor& t : m.tensors) {
    if (auto it = made.find(t.name); it != made.end()) {
      out.push_back(std::move(it->second));
    } else if (!t.name.ends_with(kScales) || t.dtype != DType::u8) {
      out.push_back(std::move(t));
    }
  }
  m.tensors = std::move(out);
  m.format = options.dequantize ? "safetensors" : "mxfp4";
}

void add(const Store& store, const Tensor& t, ExportPlan& plan) {
  LinearWriter w(store, t, plan);
  const QuantArgs& a = w.scheme.weights;
  bool mx = w.scheme.code_kind() == CodeKind::e2m1 && w.scheme.scale_kind() == ScaleKind::e8m0 &&
            a.group_size == 32;
  if (!mx || !t.transposed || t.shape.rank() != 3 || w.cols % 32 != 0) {
    w.refuse("is " + w.scheme.name + " " + t.shape.str() +
                 ", but gpt-oss's mxfp4 holds stacks of experts in MXFP4 only",
             "use -f compressed-tensors for other models, or leave the tensor out with --ignore");
  }
  uint64_t experts = t.shape[0], out = w.rows / std::max<uint64_t>(experts, 1),
           blocks = w.cols / 32;
  w.part("blocks", Role::codes, DType::u8, Shape{experts, out, blocks, 16}).name =
      t.name + std::string(kBlocks);
  w.part("scales", Role::scale, DType::u8, Shape{experts, out, blocks}).name =
      t.name + std::string(kScales);
  w.finish();
}

ExportPlan plan(const Store& store, const ExportOptions& options) {
  const Model& m = store.model();
  ExportPlan out;
  bool any = false;
  for (const Tensor& t : m.tensors) {
    refuse_ggml(store, t, "mxfp4");
    if (t.quantized()) {
      add(store, t, out);
      any = true;
    } else {
      keep_tensor(t, out);
    }
  }
  if (!any) {
    throw limit_error("has no MXFP4 experts: gpt-oss's mxfp4 is for them alone")
        .file(store.label())
        .hint("use -f safetensors");
  }
  Json q = {
      {"modules_to_not_convert",
       {"model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"}},
      {"quant_method", "mxfp4"}};
  finish_plan(store, options, q, out);
  return out;
}

}  // namespace

const Format& mxfp4_format() {
  static const Format format = {.name = "mxfp4",
                                .summary = "gpt-oss: stacks of experts in MXFP4; vLLM, SGLang, transformers",
                                .plan = plan,
                                .quant_method = "mxfp4",
                                .adopt = adopt,
                                .stacks = true};
  return format;
}

}  // namespace qp
