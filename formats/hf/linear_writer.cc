#include "formats/hf/linear_writer.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "formats/hf/config.h"
#include "lib/base/error.h"
#include "lib/qmap/decode.h"
#include "lib/qmap/store.h"
#include "lib/tensor/minifloat.h"

namespace qp {
namespace {

std::string module_of(const Tensor& t) {
  std::string name = t.name;
  if (name.ends_with(".weight")) name.resize(name.size() - 7);
  return name;
}

}  // namespace

LinearWriter::LinearWriter(const Store& store, const Tensor& t, ExportPlan& plan)
    : tensor(t), scheme(store.model().schemes[static_cast<size_t>(t.scheme)]), module(module_of(t)),
      rows(t.coded_shape().rows()), cols(t.coded_shape().cols()), store_(store), plan_(plan),
      first_(plan.tensors.size()) {}

OutTensor& LinearWriter::part(std::string_view suffix, Role role, DType dtype, const Shape& shape) {
  const Part* p = tensor.part(role);
  if (p == nullptr) {
    refuse("has no " + std::string(name_of(role)) + ", which its scheme needs",
           "calibrate the model (qcalibrate), or choose a dynamic scheme");
  }
  OutTensor& out = plan_.tensors.emplace_back();
  out.name = module + "." + std::string(suffix);
  out.dtype = dtype;
  out.shape = shape;
  out.part = p;
  return out;
}

OutTensor& LinearWriter::part_as_is(std::string_view suffix, Role role, const Shape& shape) {
  const Part* p = tensor.part(role);
  return part(suffix, role, p ? p->dtype : DType::f32, shape);
}

OutTensor& LinearWriter::laid_out(std::string_view suffix, Role role, DType dtype,
                                  const Shape& shape, const Layout& layout, LayoutArgs args) {
  OutTensor& out = part(suffix, role, dtype, shape);
  args.rows = rows;
  args.cols = cols;
  args.bits = args.stored_bits = scheme.weights.num_bits;
  out.layout = &layout;
  out.layout_args = args;
  return out;
}

OutTensor& LinearWriter::scale_f32(std::string_view suffix, const Shape& shape) {
  OutTensor& out = part(suffix, Role::scale, DType::f32, shape);
  uint64_t n = out.part->shape.cols();
  if (out.part->dtype == DType::f8_e8m0) {
    out.relaid_row_bytes = n * 4;
    out.relay = [n](const std::byte* in, uint64_t, uint64_t count, std::byte* to) {
      for (uint64_t i = 0; i < count * n; ++i) {
        float v = e8m0_to_f32(std::to_integer<uint8_t>(in[i]));
        std::memcpy(to + 4 * i, &v, 4);
      }
    };
  } else if (out.part->shape.elements() == 1 && shape.elements() != 1) {
    uint64_t copies = shape.elements().value();
    out.relaid_row_bytes = copies * 4;
    out.relay = [copies](const std::byte* in, uint64_t, uint64_t, std::byte* to) {
      for (uint64_t i = 0; i < copies; ++i) std::memcpy(to + 4 * i, in, 4);
    };
  }
  return out;
}

void LinearWriter::value(std::string_view suffix, DType dtype, const Shape& shape,
                         std::span<const std::byte> bytes) {
  OutTensor& out = plan_.tensors.emplace_back();
  out.name = module + "." + std::string(suffix);
  out.dtype = dtype;
  out.shape = shape;
  out.value.assign(bytes.begin(), bytes.end());
}

void LinearWriter::scalar(std::string_view suffix, float v, const Shape& shape) {
  value(suffix, DType::f32, shape, std::as_bytes(std::span(&v, 1)));
}

std::string LinearWriter::finish() {
  std::string names;
  for (size_t i = first_; i < plan_.tensors.size(); ++i) {
    names += (names.empty() ? "" : " ") + plan_.tensors[i].name;
  }
  plan_.ledger.push_back({tensor.name, "quantized", names});
  return names;
}

float LinearWriter::read_scalar(Role role) const {
  const Part* p = tensor.part(role);
  if (p == nullptr || !is_float(p->dtype) || p->shape.elements() != 1) {
    throw defect_error("has no single " + std::string(name_of(role))).tensor(tensor.name);
  }
  std::vector<std::byte> bytes = store_.read(*p);
  float v = 0;
  cast_floats(p->dtype, bytes.data(), 1, DType::f32, reinterpret_cast<std::byte*>(&v));
  return v;
}

void LinearWriter::refuse(const std::string& what, const std::string& hint) const {
  throw limit_error(what).file(store_.label()).tensor(tensor.name).hint(hint);
}

void LinearWriter::refuse_roles(std::initializer_list<Role> roles, std::string_view family) const {
  for (Role role : roles) {
    if (!has(role)) continue;
    refuse(
        "has a part '" + std::string(name_of(role)) + "', for which " + std::string(family) +
            " has no place",
        "export with -f compressed-tensors, or load it with qload --dequantize and quantize again");
  }
}

void refuse_ggml(const Store& store, const Tensor& t, std::string_view family) {
  if (t.ggml.empty()) return;
  throw limit_error("is " + t.ggml + ", which " + std::string(family) + " cannot hold")
      .file(store.label())
      .tensor(t.name)
      .hint("load it with qload --dequantize and quantize it again");
}

std::vector<std::string> unquantized_names(
    const Model& m, const std::function<std::string(const ModuleInfo&)>& said) {
  std::vector<std::string> out;
  bool head = false;
  for (const Tensor& t : m.tensors) {
    ModuleInfo info = classify(t.name, t.dtype, t.shape, m.config);
    head = head || info.kind == ModuleKind::head;
    if (t.quantized() || info.kind == ModuleKind::conv) continue;
    if (info.kind == ModuleKind::stack) {
      info.module.resize(std::min(info.module.rfind('.'), info.module.size()));
    } else if (!t.name.ends_with(".weight") || t.shape.rank() < 2) {
      continue;
    }
    if (std::string name = said(info); !name.empty()) out.push_back(std::move(name));
  }
  // A tied head has no tensor, yet engines build it.
  if (!head && !is_diffusion_model(m.config)) out.push_back("lm_head");
  std::ranges::sort(out);
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

std::vector<std::string> unquantized_linears(const Model& m, bool embeddings) {
  std::vector<std::string> out = unquantized_names(m, [embeddings](const ModuleInfo& info) {
    return info.kind == ModuleKind::embedding && !embeddings ? "" : info.module;
  });
  // A Flux's "proj_out" would take "single_transformer_blocks.0.proj_out" along; engines leave what
  // is outside the blocks alone by themselves.
  if (is_diffusion_model(m.config)) {
    std::erase_if(out, [&](const std::string& entry) {
      return std::ranges::any_of(m.tensors, [&](const Tensor& t) {
        return t.quantized() && names_module(entry, module_of(t));
      });
    });
  }
  return out;
}

void refuse_quantized_tied_head(const Store& store) {
  const Model& m = store.model();
  if (!m.config.is_object() || !json_bool(m.config, "tie_word_embeddings", false)) return;
  for (const Tensor& t : m.tensors) {
    if (!t.quantized()) continue;
    ModuleInfo info = classify(t.name, t.dtype, t.shape, m.config);
    if (info.kind != ModuleKind::head) continue;
    throw limit_error("is tied to the embedding: engines would not load a quantized head")
        .file(store.label())
        .tensor(t.name)
        .hint("leave it out with --ignore " + info.module);
  }
}

void finish_plan(const Store& store, const ExportOptions& options, const Json& quantization_config,
                 ExportPlan& plan) {
  const Model& m = store.model();
  refuse_quantized_tied_head(store);
  keep_companions(m, plan);
  if (std::ranges::none_of(m.tensors, &Tensor::quantized)) {
    options.warn("nothing is quantized; -f safetensors writes the same tensors");
  }
  if (m.config.is_null()) {
    options.warn("the source has no config.json: the one written holds only quantization_config");
  }
  Json config = unquantized_config_json(m);
  if (!quantization_config.is_null()) config["quantization_config"] = quantization_config;
  plan.config = config_text(config);
}

bool names_module(std::string_view entry, std::string_view module) {
  if (entry.empty()) return false;
  for (size_t at = module.find(entry); at != std::string_view::npos;
       at = module.find(entry, at + 1)) {
    size_t end = at + entry.size();
    if ((at == 0 || module[at - 1] == '.') && (end == module.size() || module[end] == '.')) {
      return true;
    }
  }
  return false;
}

}  // namespace qp
