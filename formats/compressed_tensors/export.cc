#include <algorithm>
#include <map>
#include <set>

#include "formats/compressed_tensors/compressed_tensors.h"
#include "formats/hf/config.h"
#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/model/modules.h"
#include "lib/qmap/store.h"

namespace qp::ct {
namespace {

class Emitter {
 public:
  Emitter(const Tensor& t, const Scheme& s, ExportPlan& plan) : t_(t), s_(s), plan_(plan) {
    prefix_ = t.name;
    if (prefix_.ends_with(".weight")) prefix_.resize(prefix_.size() - 7);
    rows_ = t.shape.rows();
    cols_ = t.shape.cols();
  }

  void emit() {
    std::string_view format = format_of(s_);
    size_t before = plan_.tensors.size();
    if (format == "pack-quantized") {
      pack_quantized();
    } else if (format == "int-quantized") {
      if (s_.weights.num_bits != 8) throw limit_error("int-quantized holds 8-bit codes only").tensor(t_.name);
      lay_out(add("weight", Role::codes, DType::i8, t_.shape), dense_layout,
              {.rows = rows_, .cols = cols_, .is_signed = true});
      scale(t_.dtype);
    } else if (format == "mxfp4-pack-quantized" || format == "nvfp4-pack-quantized") {
      add("weight_packed", Role::codes, DType::u8, Shape{rows_, cols_ / 2});
      bool mx = format.front() == 'm';
      scale(mx ? DType::u8 : DType::f8_e4m3);
      if (!mx) add("weight_global_scale", Role::global_scale, DType::f32, Shape{1});
    } else {
      add("weight", Role::codes, DType::f8_e4m3, t_.shape);
      scale(s_.scale_kind() == ScaleKind::e8m0 ? DType::u8 : t_.dtype);
    }
    std::string names;
    for (size_t i = before; i < plan_.tensors.size(); ++i) {
      names += (names.empty() ? "" : " ") + plan_.tensors[i].name;
    }
    plan_.ledger.push_back({t_.name, "quantized", names});
  }

 private:
  OutTensor& add(const std::string& suffix, Role role, DType dtype, const Shape& shape) {
    const Part* p = t_.part(role);
    if (p == nullptr) throw defect_error("has no " + std::string(name_of(role))).tensor(t_.name);
    OutTensor& out = plan_.tensors.emplace_back();
    out.name = prefix_ + "." + suffix;
    out.dtype = dtype;
    out.shape = shape;
    out.part = p;
    return out;
  }
  void scale(DType dtype) {
    add("weight_scale", Role::scale, dtype, scale_shape(s_.weights, t_.shape));
  }

  void pack_quantized() {
    auto bits = static_cast<uint64_t>(s_.weights.num_bits);
    uint64_t words = ceil_div(cols_ * bits, 32);
    OutTensor& packed = add("weight_packed", Role::codes, DType::i32, Shape{rows_, words});
    int width = s_.weights.num_bits;
    if (packed.part->shape.cols() != words * 4) {
      lay_out(packed, words_layout, {.rows = rows_, .cols = cols_, .bits = width, .stored_bits = width});
    }
    scale(t_.dtype);
    OutTensor shape;
    shape.name = prefix_ + ".weight_shape";
    shape.dtype = DType::i64;
    shape.shape = Shape{2};
    for (uint64_t d : {rows_, cols_}) {
      auto bytes = std::as_bytes(std::span(&d, 1));
      shape.value.insert(shape.value.end(), bytes.begin(), bytes.end());
    }
    plan_.tensors.push_back(std::move(shape));
    if (s_.weights.symmetric) return;
    uint64_t groups = scale_shape(s_.weights, t_.shape).cols();
    lay_out(add("weight_zero_point", Role::zero_point, DType::i32, Shape{ceil_div(rows_ * bits, 32), groups}),
            packed_rows_layout, {.rows = rows_, .cols = groups, .stored_bits = width});
  }

  static void lay_out(OutTensor& out, const Layout& layout, const LayoutArgs& args) {
    out.layout = &layout;
    out.layout_args = args;
  }

  const Tensor& t_;
  const Scheme& s_;
  ExportPlan& plan_;
  std::string prefix_;
  uint64_t rows_, cols_;
};

// ---- config

std::string escape_regex(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (std::string_view(".^$*+?()[]{}|\\").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

// Modules the engines build as Linear but that are stored unquantized: all must be named
// (SGLang refuses a Linear that is neither targeted nor ignored).
std::vector<std::string> ignore_list(const Model& m, const std::vector<ModuleInfo>& infos) {
  std::vector<std::string> out;
  bool head = false, mtp_prefix = false;
  for (size_t i = 0; i < m.tensors.size(); ++i) {
    const Tensor& t = m.tensors[i];
    const ModuleInfo& info = infos[i];
    if (info.kind == ModuleKind::head) head = true;
    if (t.quantized() || !t.name.ends_with(".weight") || t.shape.rank() < 2) {
      if (info.kind == ModuleKind::stack) {
        auto at = info.module.rfind('.');
        out.push_back("re:" + escape_regex(info.module.substr(0, at)) + "\\..*");
      }
      continue;
    }
    if (info.kind == ModuleKind::embedding || info.kind == ModuleKind::conv) continue;
    if (info.kind == ModuleKind::mtp && t.name.starts_with("mtp.")) {
      if (!mtp_prefix) out.push_back("re:^mtp.*");
      mtp_prefix = true;
    } else {
      out.push_back(info.module);
    }
  }
  // A tied head has no tensor, yet it is a Linear to transformers.
  if (!head) out.push_back("lm_head");
  std::ranges::sort(out);
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

std::vector<Group> groups_of(const Model& m, const std::vector<ModuleInfo>& infos) {
  std::map<int32_t, std::vector<std::string>> names;
  bool plain = true;
  for (size_t i = 0; i < m.tensors.size(); ++i) {
    if (!m.tensors[i].quantized()) continue;
    names[m.tensors[i].scheme].push_back(infos[i].module);
    plain = plain && (infos[i].kind == ModuleKind::linear || infos[i].kind == ModuleKind::expert);
  }
  std::vector<Group> groups;
  for (auto& [scheme, targets] : names) {
    std::ranges::sort(targets);
    groups.push_back({&m.schemes[static_cast<size_t>(scheme)], std::move(targets)});
  }
  // One scheme for all: the class name says it. Otherwise exact names: disjoint under every
  // engine's own matching order (section 1.7).
  if (groups.size() == 1 && plain) groups.front().targets = {"Linear"};
  return groups;
}

void refuse_tied_head(const Store& store, const Model& m, const std::vector<ModuleInfo>& infos) {
  if (!m.config.is_object() || !json_bool(m.config, "tie_word_embeddings", false)) return;
  for (size_t i = 0; i < m.tensors.size(); ++i) {
    if (m.tensors[i].quantized() && infos[i].kind == ModuleKind::head) {
      throw limit_error("is tied to the embedding: engines would not load a quantized head")
          .file(store.label())
          .tensor(m.tensors[i].name)
          .hint("leave it out with --ignore " + infos[i].module);
    }
  }
}

}  // namespace

ExportPlan plan(const Store& store, const ExportOptions& options) {
  const Model& m = store.model();
  ExportPlan out;
  std::vector<ModuleInfo> infos;
  infos.reserve(m.tensors.size());
  for (const Tensor& t : m.tensors) {
    if (!t.ggml.empty()) {
      throw limit_error("is " + t.ggml + ", which compressed-tensors cannot hold")
          .file(store.label())
          .tensor(t.name)
          .hint("load it with qload --dequantize and quantize it again");
    }
    infos.push_back(classify(t.name, t.dtype, t.shape, m.config));
    if (!t.quantized()) {
      keep_tensor(t, out);
    } else {
      Emitter(t, m.schemes[static_cast<size_t>(t.scheme)], out).emit();
    }
  }
  refuse_tied_head(store, m, infos);
  keep_companions(m, out);
  if (m.config.is_null()) {
    options.warn("the source has no config.json: the one written holds only quantization_config");
  }
  auto groups = groups_of(m, infos);
  if (groups.empty()) {
    options.warn("nothing is quantized; -f safetensors writes the same without quantization_config");
  }
  Json config = unquantized_config_json(m);
  config["quantization_config"] = quantization_config(groups, ignore_list(m, infos));
  out.config = config_text(config);
  return out;
}

}  // namespace qp::ct
