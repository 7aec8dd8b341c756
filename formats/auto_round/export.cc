#include <algorithm>
#include <cstring>
#include <set>
#include <vector>

#include "formats/auto_round/auto_round.h"
#include "formats/hf/config.h"
#include "formats/hf/int_modules.h"
#include "formats/hf/linear_writer.h"
#include "formats/hf/module_rules.h"
#include "formats/hf/second_stage.h"
#include "lib/base/error.h"
#include "lib/qmap/store.h"

namespace qp::auto_round {
namespace {

// The version whose layouts and spelling of the config are written.
constexpr const char* kVersion = "0.14.0";

class Writer {
 public:
  Writer(const Store& store, const ExportOptions& options)
      : store_(store), m_(store.model()), options_(options) {}

  ExportPlan run() {
    refuse_kv_cache(store_, "auto-round");
    choose_packing();
    for (const Tensor& t : m_.tensors) {
      size_t first = plan_.tensors.size();
      if (!t.quantized()) {
        keep_tensor(t, plan_);
        continue;
      }
      if (packing_ == Packing::llm_compressor) {
        add_float(t);
      } else {
        add_int(t);
      }
      note_quantized(t, first, plan_);
    }
    Json q = quantization_config();
    finish_plan(store_, options_, q, plan_);
    plan_.files.push_back({"quantization_config.json", config_text(q)});
    return std::move(plan_);
  }

 private:
  const Scheme& scheme_of(const Tensor& t) const {
    return m_.schemes[static_cast<size_t>(t.scheme)];
  }

  // One for the whole checkpoint, by what is in it.
  void choose_packing() {
    bool floats = false, symmetric = false, asymmetric = false, four = true;
    for (const Tensor& t : m_.tensors) {
      if (!t.quantized()) continue;
      if (!t.ggml.empty()) IntWeight(store_, t, options_, "auto-round");  // says why not
      const Scheme& s = scheme_of(t);
      bool integer = s.code_kind() == CodeKind::integer;
      floats = floats || !integer;
      if (floats && (symmetric || asymmetric || integer)) {
        throw limit_error("is " + std::string(integer ? "of integers" : "of floats") +
                          " where others are not, and auto-round has one packing for all")
            .tensor(t.name)
            .hint("choose -f compressed-tensors, which can mix them");
      }
      symmetric = symmetric || (integer && s.weights.symmetric);
      asymmetric = asymmetric || (integer && !s.weights.symmetric);
      int bits = options_.num_bits != 0 ? options_.num_bits : s.weights.num_bits;
      four = four && bits == 4;
    }
    if (!floats && !symmetric && !asymmetric)
      throw limit_error("nothing is quantized").hint("-f safetensors writes the model as it is");
    if (floats && options_.num_bits != 0)
      throw limit_error("--num-bits is for integer codes, which are not here");
    if (floats) {
      packing_ = Packing::llm_compressor;
    } else if (!asymmetric) {
      packing_ = Packing::gptq;
    } else {
      packing_ = four && !symmetric ? Packing::awq : Packing::gptq_v2;
    }
  }

  void add_int(const Tensor& t) {
    IntWeight w(store_, t, options_, "auto-round");
    if (packing_ == Packing::awq) {
      write_awq(w, plan_);
    } else {
      write_gptq(w, packing_ == Packing::gptq_v2, false, plan_);
    }
    settings_.push_back({{"bits", w.bits()},
                         {"group_size", w.group_size()},
                         {"sym", w.symmetric()},
                         {"data_type", "int"}});
  }

  [[noreturn]] void refuse(const Tensor& t, const std::string& why) const {
    throw limit_error(why + ", which auto-round cannot hold")
        .file(store_.label())
        .tensor(t.name)
        .hint(
            "choose -f compressed-tensors, or load it with qload --dequantize and quantize it "
            "again");
  }

  // What of `s` auto-round's own schemes are: MXFP4, MXFP8, NVFP4, with or without activations.
  void check_float(const Tensor& t, const Scheme& s) const {
    bool nv = s.scale_kind() == ScaleKind::e4m3_global, mx = s.scale_kind() == ScaleKind::e8m0;
    int64_t group = nv ? 16 : 32;
    bool known =
        (s.code_kind() == CodeKind::e2m1 && (nv || mx)) || (s.code_kind() == CodeKind::e4m3 && mx);
    if (!known || s.weights.group_size != group) refuse(t, "is neither MXFP4, MXFP8 nor NVFP4");
    if (t.shape.rank() != 2) refuse(t, "has " + std::to_string(t.shape.rank()) + " dimensions");
    bool global =
        t.part(Role::input_global_scale) != nullptr || t.part(Role::input_scale) != nullptr;
    for (const Part& p : t.parts) {
      bool second = p.role == Role::global_scale || p.role == Role::scale_2 ||
                    p.role == Role::input_global_scale || p.role == Role::input_scale;
      if (p.role != Role::codes && p.role != Role::scale && !(nv && second))
        refuse(t, "has a " + std::string(name_of(p.role)));
    }
    if (!s.input_activations) return;
    const QuantArgs& a = *s.input_activations;
    bool fits = a.num_bits == s.weights.num_bits && a.type == NumType::floating &&
                a.group_size == group &&
                (nv ? a.dynamic == Dynamic::local && global : a.dynamic == Dynamic::yes);
    if (!fits) refuse(t, "quantizes its activations in another way");
  }

  void add_float(const Tensor& t) {
    const Scheme& s = scheme_of(t);
    check_float(t, s);
    std::string module = t.name.ends_with(".weight") ? t.name.substr(0, t.name.size() - 7) : t.name;
    bool packed = s.weights.num_bits == 4, nv = s.scale_kind() == ScaleKind::e4m3_global;
    auto add = [&](const std::string& suffix, Role role, DType dtype, const Shape& shape) {
      OutTensor& out = plan_.tensors.emplace_back();
      out.name = module + "." + suffix;
      out.dtype = dtype;
      out.shape = shape;
      out.part = t.part(role);
    };
    uint64_t cols = t.shape.cols();
    add(packed ? "weight_packed" : "weight", Role::codes, packed ? DType::u8 : DType::f8_e4m3,
        Shape{t.shape.rows(), packed ? cols / 2 : cols});
    add("weight_scale", Role::scale, nv ? DType::f8_e4m3 : DType::u8,
        scale_shape(s.weights, t.shape));
    auto computed = [&](const std::string& suffix, float value) {
      OutTensor& out = plan_.tensors.emplace_back();
      out.name = module + "." + suffix;
      out.dtype = DType::f32;
      out.shape = Shape{1};
      auto bytes = std::as_bytes(std::span(&value, 1));
      out.value.assign(bytes.begin(), bytes.end());
    };
    if (nv && t.part(Role::global_scale) != nullptr) {
      add("weight_global_scale", Role::global_scale, DType::f32, Shape{1});
    } else if (nv) {
      computed("weight_global_scale", other_second_stage(store_, t));
    }
    if (t.part(Role::input_global_scale) != nullptr) {
      add("input_global_scale", Role::input_global_scale, DType::f32, Shape{1});
    } else if (const Part* in = t.part(Role::input_scale)) {
      if (in->dtype != DType::f32 || in->shape.elements() != 1)
        refuse(t, "has an input scale that is no single F32");
      float x = 0;
      std::memcpy(&x, store_.read(*in).data(), 4);
      computed("input_global_scale", reciprocal(x));
    }
    settings_.push_back(float_settings(s, nv));
  }

  static Json float_settings(const Scheme& s, bool nv) {
    Json j = {{"bits", s.weights.num_bits},
              {"group_size", s.weights.group_size},
              {"sym", true},
              {"data_type", nv ? "nv_fp" : "mx_fp"}};
    if (!s.input_activations) return j;
    j["act_bits"] = s.input_activations->num_bits;
    j["act_data_type"] = nv ? "nv_fp4_with_static_gs" : "mx_fp";
    j["act_dynamic"] = true;
    j["act_group_size"] = s.weights.group_size;
    j["act_sym"] = true;
    return j;
  }

  // ---- config

  // "model.layers" of "model.layers.3.mlp.up_proj": modules under it are quantized unless said
  // otherwise.
  static std::string block_of(const std::string& module) {
    std::string_view layer = layer_prefix(module);
    return std::string(layer.substr(0, layer.empty() ? 0 : layer.rfind('.')));
  }

  Json quantization_config() {
    std::vector<ModuleChoice> modules = module_choices(m_, settings_, kinds_);
    int32_t common = most_common(modules);
    std::set<std::string> blocks;
    for (const ModuleChoice& c : modules) {
      if (std::string b = block_of(c.info.module); c.choice >= 0 && !b.empty()) blocks.insert(b);
    }
    Json extra = Json::object();
    std::vector<ModuleChoice> inside;
    for (const ModuleChoice& c : modules) {
      if (blocks.contains(block_of(c.info.module))) {
        inside.push_back(c);
      } else if (c.choice >= 0) {  // the head: the whole set, as nothing is said of it
        extra[c.info.module] = kinds_[static_cast<size_t>(c.choice)];
      }
    }
    const Json& usual = kinds_[static_cast<size_t>(common)];
    for (const ModuleRule& r : module_rules(inside, common)) {
      Json differs = Json::object();
      if (r.choice < 0) {
        differs = {{"bits", 16}, {"data_type", "float"}};
        if (usual.contains("act_bits")) differs["act_bits"] = 16;
      } else {
        for (const auto& [key, value] : kinds_[static_cast<size_t>(r.choice)].items()) {
          if (!usual.contains(key) || usual.at(key) != value) differs[key] = value;
        }
        if (usual.contains("act_bits") &&
            !kinds_[static_cast<size_t>(r.choice)].contains("act_bits"))
          differs["act_bits"] = 16;
      }
      extra["^" + r.pattern + "$"] = std::move(differs);
    }
    Json q = usual;
    q["quant_method"] = "auto-round";
    q["packing_format"] = name_of(packing_);
    q["autoround_version"] = kVersion;
    std::string names;
    for (const std::string& b : blocks) names += (names.empty() ? "" : ",") + b;
    q["block_name_to_quantize"] = names;
    if (!extra.empty()) q["extra_config"] = std::move(extra);
    return q;
  }

  const Store& store_;
  const Model& m_;
  const ExportOptions& options_;
  ExportPlan plan_;
  Packing packing_ = Packing::gptq;
  std::vector<Json> settings_;  // of the quantized tensors, in their order
  std::vector<Json> kinds_;     // those that differ
};

}  // namespace

ExportPlan plan(const Store& store, const ExportOptions& options) {
  return Writer(store, options).run();
}

}  // namespace qp::auto_round

namespace qp {

const Format& auto_round_format() {
  static const Format format = {.name = "auto-round",
                                .summary = "Intel AutoRound, vLLM, SGLang: 2, 3, 4 and 8 bits, MXFP4, MXFP8, NVFP4",
                                .plan = auto_round::plan,
                                .quant_method = "auto-round auto_round intel/auto-round",
                                .adopt = auto_round::adopt,
                                .groups = true,
                                .widens = true,
                                .conv1d = true};
  return format;
}

}  // namespace qp
