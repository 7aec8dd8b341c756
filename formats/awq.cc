// AWQ as AutoAWQ and its successors write it (reference/int4-formats.md 1.3).
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
#include "lib/qmap/store.h"

namespace qp {
namespace {

// ---- reading

AwqStored::Version version_of(const Json& q) {
  using Version = AwqStored::Version;
  std::string v = string_of(q, {"version", "checkpoint_format", "format"});
  if (v.empty() || v == "gemm") return Version::gemm;
  if (v == "gemv") return Version::gemv;
  if (v == "gemv_fast" || v == "llm-awq") return Version::gemv_fast;
  if (v == "marlin") return Version::marlin;
  throw input_error(
      "has AWQ version '" + printable(v) +
      "', which this version does not read (expected gemm, gemv, gemv_fast or marlin)");
}

AwqStored read_config(const Model& model, const Json& q) {
  AwqStored s;
  s.version = version_of(q);
  int64_t bits = int_of(q, {"bits", "w_bit"}).value_or(4);
  if (bits != 4 && bits != 8) {
    throw input_error("'bits' of an AWQ config (expected 4 or 8, found " + std::to_string(bits) +
                      ")");
  }
  s.args.bits = static_cast<int>(bits);
  s.args.group_size = int_of(q, {"group_size", "q_group_size"}).value_or(128);
  // zero_point false is symmetric. So is true, when every zero point is the centre: version gemm
  // has no other way to store symmetric data.
  bool gemm = s.version == AwqStored::Version::gemm;
  bool zeros = bool_of(q, {"zero_point"}).value_or(!bool_of(q, {"sym"}).value_or(false));
  s.args.symmetric = s.version == AwqStored::Version::marlin ||
                     (gemm && (!zeros || centred_zeros(model, s.args.bits)));
  return s;
}

// The files that carry the config a second time must say the same.
void check_second_config(const Model& model, const Json& q) {
  for (std::string_view file : {"quantize_config.json", "quant_config.json"}) {
    Json other = companion_json(model, file);
    if (!other.is_object()) continue;
    require_same(int_of(q, {"bits", "w_bit"}), int_of(other, {"bits", "w_bit"}), "bits", file);
    require_same(int_of(q, {"group_size", "q_group_size"}),
                 int_of(other, {"group_size", "q_group_size"}), "group_size", file);
    require_same(bool_of(q, {"zero_point"}), bool_of(other, {"zero_point"}), "zero_point", file);
    std::string here = string_of(q, {"version"}), there = string_of(other, {"version"});
    if (!here.empty() && !there.empty() && here != there) contradiction("version", file);
  }
}

// Modules that the config leaves out must not be quantized: matched by substring.
std::vector<std::string> left_out(const Json& q) {
  std::vector<std::string> out;
  auto it = q.find("modules_to_not_convert");
  if (it == q.end() || !it->is_array()) return out;
  for (const Json& word : *it) {
    if (word.is_string() && !word.get<std::string>().empty())
      out.push_back(word.get<std::string>());
  }
  return out;
}

void adopt(Model& model, const Json& q, const LoadOptions& options) {
  check_second_config(model, q);
  AwqStored s = read_config(model, q);
  std::vector<std::string> skipped = left_out(q);
  assemble(model, {kIntRoot, kIntParts}, [&](const RawModule& m) {
    for (const std::string& word : skipped) {
      if (m.name.find(word) == std::string::npos) continue;
      m.fail("has a qweight, but modules_to_not_convert names it ('" + printable(word) + "')");
    }
    return read_awq(model, m, s, "awq", options);
  });
  model.format = options.dequantize ? "safetensors" : "awq";
}

// ---- writing

class Writer {
 public:
  Writer(const Store& store, const ExportOptions& options)
      : store_(store), m_(store.model()), options_(options) {}

  ExportPlan run() {
    refuse_kv_cache(store_, "awq");
    for (const Tensor& t : m_.tensors) {
      if (t.quantized()) {
        add(t);
      } else {
        keep_tensor(t, plan_);
      }
    }
    if (!args_)
      throw limit_error("nothing is quantized").hint("-f safetensors writes the model as it is");
    finish_plan(store_, options_, quantization_config(), plan_);
    return std::move(plan_);
  }

 private:
  void add(const Tensor& t) {
    IntWeight w(store_, t, options_, "awq");
    IntArgs mine{w.bits(), w.group_size(), w.symmetric()};
    if (!args_) args_ = mine;
    if (mine.bits != args_->bits || mine.group_size != args_->group_size) {
      w.refuse("is quantized otherwise than those before it (" + said(mine) + ", they " +
                   said(*args_) + ")",
               "choose -f gptq or -f auto-round, which can mix");
    }
    size_t first = plan_.tensors.size();
    write_awq(w, plan_);
    note_quantized(t, first, plan_);
  }

  static std::string said(const IntArgs& a) {
    return std::to_string(a.bits) + " bits, group " + std::to_string(a.group_size);
  }

  Json quantization_config() {
    std::vector<ModuleChoice> modules = module_choices(m_);
    bool head = std::ranges::any_of(modules, [](const ModuleChoice& m) {
      return m.info.kind == ModuleKind::head && m.choice >= 0;
    });
    std::vector<std::string> missed, skip = substrings(modules, missed);
    if (!missed.empty()) {
      options_.warn(std::to_string(missed.size()) +
                    " modules are not quantized, and modules_to_not_convert cannot say so "
                    "without naming quantized ones, too (first: " +
                    missed.front() + ")");
    }
    Json q = {{"quant_method", "awq"}, {"bits", args_->bits}, {"group_size", args_->group_size},
              {"zero_point", true},    {"version", "gemm"},   {"lm_head", head}};
    q["modules_to_not_convert"] = nullptr;
    if (!skip.empty()) q["modules_to_not_convert"] = skip;
    return q;
  }

  const Store& store_;
  const Model& m_;
  const ExportOptions& options_;
  ExportPlan plan_;
  std::optional<IntArgs> args_;
};

ExportPlan plan(const Store& store, const ExportOptions& options) {
  return Writer(store, options).run();
}

}  // namespace

const Format& awq_format() {
  static const Format format = {.name = "awq",
                                .summary = "AutoAWQ's gemm version, for vLLM, SGLang: 4 bits, weights only",
                                .plan = plan,
                                .quant_method = "awq awq_marlin",
                                .adopt = adopt,
                                .groups = true,
                                .widens = true};
  return format;
}

}  // namespace qp
