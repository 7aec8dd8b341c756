// GPTQ as AutoGPTQ and GPTQModel write it (reference/int4-formats.md 1.1, 1.2).
#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "formats/hf/config.h"
#include "formats/hf/int_modules.h"
#include "formats/hf/linear_writer.h"
#include "formats/hf/module_rules.h"
#include "formats/hf/quant_config.h"
#include "lib/base/error.h"
#include "lib/base/regex.h"
#include "lib/qmap/store.h"

namespace qp {
namespace {

// ---- reading

// One entry of `dynamic`: what other modules than most have.
struct Override {
  Regex pattern;
  bool negative;  // "-:": these modules are not quantized
  std::optional<int64_t> bits, group_size;
  std::optional<bool> sym, desc_act;
};

struct Config {
  IntArgs args;
  std::optional<bool> desc_act;
  std::string format;             // "gptq", "gptq_v2", "gptq_p", "marlin"
  bool by_gptqmodel = false;      // meta.quantizer
  std::vector<Override> dynamic;  // negative ones first, as GPTQModel orders them
};

bool said_marlin(const Json& q) {
  return string_of(q, {"quant_method", "method"}) == "marlin" ||
         bool_of(q, {"is_marlin_format"}).value_or(false);
}

std::string format_of(const Json& q) {
  if (said_marlin(q)) return "marlin";
  std::string format = string_of(q, {"checkpoint_format", "format", "version"});
  return format.empty() ? "gptq" : format;
}

bool from_gptqmodel(const Json& q) {
  auto meta = q.find("meta");
  if (meta == q.end() || !meta->is_object()) return false;
  auto by = meta->find("quantizer");
  if (by == meta->end()) return false;
  const Json& first = by->is_array() && !by->empty() ? by->front() : *by;
  return first.is_string() && first.get<std::string>().starts_with("gptqmodel:");
}

std::vector<Override> read_dynamic(const Json& q) {
  std::vector<Override> out;
  auto it = q.find("dynamic");
  if (it == q.end() || it->is_null()) return out;
  if (!it->is_object()) throw input_error("'dynamic' of the quantization config is no object");
  for (const auto& [key, value] : it->items()) {
    std::string_view pattern = key;
    bool negative = pattern.starts_with("-:");
    if (negative || pattern.starts_with("+:")) pattern.remove_prefix(2);
    if (!value.is_object())
      throw input_error("'dynamic' of the quantization config has an entry that is no object");
    out.push_back({Regex(pattern), negative, int_of(value, {"bits"}), int_of(value, {"group_size"}),
                   bool_of(value, {"sym"}), bool_of(value, {"desc_act"})});
  }
  std::stable_partition(out.begin(), out.end(), [](const Override& o) { return o.negative; });
  return out;
}

int bits_from(int64_t bits) { return static_cast<int>(std::clamp<int64_t>(bits, -1, 1000)); }

Config read_config(const Json& q) {
  Config c;
  auto bits = int_of(q, {"bits", "w_bit", "wbits"});
  if (!bits) throw input_error("the quantization config has no 'bits'");
  c.args.bits = bits_from(*bits);
  c.args.group_size = int_of(q, {"group_size", "q_group_size"}).value_or(-1);
  c.args.symmetric = bool_of(q, {"sym"}).value_or(true);
  c.desc_act = bool_of(q, {"desc_act"});
  c.format = format_of(q);
  c.by_gptqmodel = from_gptqmodel(q);
  c.dynamic = read_dynamic(q);
  std::string pack = string_of(q, {"pack_dtype"});
  if (!pack.empty() && pack != "int32")
    throw input_error("has pack_dtype " + printable(pack) +
                      ", which this version does not read (expected int32)");
  if (c.format != "gptq" && c.format != "gptq_v2" && c.format != "gptq_p" && c.format != "marlin") {
    throw input_error(
        "has checkpoint_format '" + printable(c.format) +
        "', which this version does not read (expected gptq, gptq_v2, gptq_p or marlin)");
  }
  return c;
}

// quantize_config.json must say the same.
void check_second_config(const Model& model, const Json& q) {
  constexpr std::string_view kFile = "quantize_config.json";
  Json other = companion_json(model, kFile);
  if (!other.is_object()) return;
  require_same(int_of(q, {"bits", "w_bit", "wbits"}), int_of(other, {"bits", "w_bit", "wbits"}),
               "bits", kFile);
  require_same(int_of(q, {"group_size", "q_group_size"}),
               int_of(other, {"group_size", "q_group_size"}), "group_size", kFile);
  require_same(bool_of(q, {"sym"}), bool_of(other, {"sym"}), "sym", kFile);
  require_same(bool_of(q, {"desc_act"}), bool_of(other, {"desc_act"}), "desc_act", kFile);
  bool both = !string_of(q, {"checkpoint_format", "format"}).empty() &&
              !string_of(other, {"checkpoint_format", "format"}).empty();
  if (both && format_of(q) != format_of(other)) contradiction("checkpoint_format", kFile);
  if (q.contains("dynamic") && other.contains("dynamic") && q.at("dynamic") != other.at("dynamic"))
    contradiction("dynamic", kFile);
}

GptqStored stored_as(const Config& c, const RawModule& m) {
  GptqStored s;
  s.args = c.args;
  std::optional<bool> desc_act = c.desc_act;
  for (const Override& o : c.dynamic) {
    if (!o.pattern.matches_start(m.name)) continue;
    if (o.negative)
      m.fail("has a qweight, but 'dynamic' of its config says that it is not quantized");
    if (o.bits) s.args.bits = bits_from(*o.bits);
    if (o.group_size) s.args.group_size = *o.group_size;
    if (o.sym) s.args.symmetric = *o.sym;
    if (o.desc_act) desc_act = o.desc_act;
    break;
  }
  s.planar = c.format == "gptq_p";
  s.marlin = c.format == "marlin";
  s.act_order = desc_act.value_or(true);
  int b = s.args.bits;
  if (b != 2 && b != 3 && b != 4 && b != 8 && !s.planar) {
    m.fail("has " + std::to_string(b) + "-bit codes in checkpoint_format " + c.format +
           " (expected 2, 3, 4 or 8)");
  }
  if (c.format != "gptq") {
    s.zeros = GptqStored::Zeros::v2;
  } else if (c.by_gptqmodel && !s.args.symmetric && b != 3) {
    s.zeros = GptqStored::Zeros::v1_words;
  }
  return s;
}

void adopt(Model& model, const Json& q, const LoadOptions& options) {
  Config c = read_config(q);
  check_second_config(model, q);
  assemble(model, {kIntRoot, kIntParts}, [&](const RawModule& m) {
    return read_gptq(model, m, stored_as(c, m), "gptq", options);
  });
  model.format = options.dequantize ? "safetensors" : "gptq";
}

// ---- writing

Json args_of(const IntWeight& w, bool act_order) {
  return {{"bits", w.bits()},
          {"group_size", w.group_size()},
          {"desc_act", act_order},
          {"sym", w.symmetric()}};
}

// The writer: tensors first, then a config whose exceptions are `dynamic`.
class Writer {
 public:
  Writer(const Store& store, const ExportOptions& options)
      : store_(store), m_(store.model()), options_(options) {}

  ExportPlan run() {
    refuse_kv_cache(store_, "gptq");
    // Asymmetric data is written as v2: what v1 means for a zero point of 0 depends on the reader,
    // and GPTQModel takes asymmetric v1 from itself only.
    for (const Scheme& s : m_.schemes) v2_ = v2_ || !s.weights.symmetric;
    for (const Tensor& t : m_.tensors) {
      if (t.quantized()) {
        add(t);
      } else {
        keep_tensor(t, plan_);
      }
    }
    Json q = quantization_config();
    finish_plan(store_, options_, q, plan_);
    plan_.files.push_back({"quantize_config.json", config_text(q)});
    return std::move(plan_);
  }

 private:
  void add(const Tensor& t) {
    IntWeight w(store_, t, options_, "gptq");
    size_t first = plan_.tensors.size();
    write_gptq(w, v2_, true, plan_);
    note_quantized(t, first, plan_);
    settings_.push_back(args_of(w, w.g_idx() != nullptr));
  }

  Json quantization_config() {
    std::vector<ModuleChoice> modules = module_choices(m_, settings_, kinds_);
    int32_t common = most_common(modules);
    if (common < 0)
      throw limit_error("nothing is quantized").hint("-f safetensors writes the model as it is");
    bool head = false;
    Json dynamic = Json::object();
    for (const ModuleRule& r : module_rules(without_head(modules, head), common)) {
      if (r.choice < 0) {
        dynamic["-:" + r.pattern + "$"] = Json::object();
        continue;
      }
      Json differs = Json::object();
      for (const auto& [key, value] : kinds_[static_cast<size_t>(r.choice)].items()) {
        if (kinds_[static_cast<size_t>(common)].at(key) != value) differs[key] = value;
      }
      dynamic["+:" + r.pattern + "$"] = std::move(differs);
    }
    Json q = kinds_[static_cast<size_t>(common)];
    if (!dynamic.empty()) q["dynamic"] = std::move(dynamic);
    q["lm_head"] = head;
    q["quant_method"] = "gptq";
    q["checkpoint_format"] = v2_ ? "gptq_v2" : "gptq";
    q["pack_dtype"] = "int32";
    return q;
  }

  // A head that is not quantized is what lm_head says already.
  static std::vector<ModuleChoice> without_head(std::vector<ModuleChoice> modules,
                                                bool& quantized) {
    for (const ModuleChoice& m : modules)
      quantized = quantized || (m.info.kind == ModuleKind::head && m.choice >= 0);
    std::erase_if(modules, [](const ModuleChoice& m) {
      return m.info.kind == ModuleKind::head && m.choice < 0;
    });
    return modules;
  }

  const Store& store_;
  const Model& m_;
  const ExportOptions& options_;
  ExportPlan plan_;
  bool v2_ = false;
  std::vector<Json> settings_;  // of the quantized tensors, in their order
  std::vector<Json> kinds_;     // those that differ
};

ExportPlan plan(const Store& store, const ExportOptions& options) {
  return Writer(store, options).run();
}

}  // namespace

const Format& gptq_format() {
  static const Format format = {.name = "gptq",
                                .summary = "GPTQModel, vLLM, SGLang: 2, 3, 4 and 8 bits, weights only",
                                .plan = plan,
                                .quant_method = "gptq marlin gptq_marlin",
                                .adopt = adopt,
                                .groups = true,
                                .widens = true,
                                .conv1d = true};
  return format;
}

}  // namespace qp
