#include "cmd/qquantize/target.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>

#include "formats/hf/prepare.h"
#include "formats/verify/fit_target.h"
#include "formats/verify/target.h"
#include "lib/algorithm/activations.h"
#include "lib/algorithm/gptq_matrix.h"
#include "lib/base/error.h"
#include "lib/config/algorithms.h"

namespace qp {
namespace {

// A store whose tensors are those of a result that is not made yet: parts that will be written lie
// in a file that is nothing but a hole.
class Planned {
 public:
  Planned(const Store& store, const Plan& plan, bool kv_cache) {
    ActivationScales activations(store, plan);
    Model m = store.model();
    m.tensors.clear();
    m.files.push_back({});
    for (const PlanEntry& e : plan.entries) {
      Tensor t = *e.tensor;
      int32_t index = e.scheme >= 0 ? e.scheme : e.retag;
      if (index >= 0) {
        const Scheme& scheme = plan.schemes[static_cast<size_t>(index)];
        if (e.scheme >= 0) {
          std::erase_if(t.parts, [](const Part& p) { return p.role != Role::pre_scale; });
          t.dequantize = false;
          t.transposed = e.source != e.tensor;
          t.ggml = scheme.ggml;
          for (const PartSpec& spec : part_specs(scheme, e.source->shape, t.dtype)) add(t, spec, m);
          AlgorithmStep step = parse_algorithm(e.algorithm).back();
          if (step.algorithm->name == "gptq") {
            for (const PartSpec& spec : gptq::parts_of(step, scheme, e.source->shape))
              add(t, spec, m);
          }
        }
        t.scheme = scheme.ggml.empty() ? m.scheme_index(scheme) : -1;
        for (const ComputedPart& c : activations.parts(e, scheme)) add(t, c.spec, m);
      }
      m.tensors.push_back(std::move(t));
    }
    if (kv_cache) {
      for (const CacheScale& c : cache_scales(store, "compressed-tensors", DType::bf16)) {
        Tensor t;
        t.name = c.name;
        t.dtype = DType::f32;
        t.shape = Shape{1};
        add(t, {Role::data, DType::f32, t.shape}, m);
        if (m.find(t.name) == nullptr) m.tensors.push_back(std::move(t));
      }
      m.kv_cache = QuantArgs{.num_bits = 8, .type = NumType::floating, .scale_dtype = {}};
    }
    hole_ = Fd(memfd_create("qpipe-plan", MFD_CLOEXEC));
    if (!hole_ || ftruncate(hole_.get(), static_cast<off_t>(end_)) != 0)
      throw system_error("cannot make a file in memory", errno);
    m.files.back() = {"/proc/self/fd/" + std::to_string(hole_.get()), end_, 0};
    store_ = store.with(std::move(m));
  }

  const Store& store() const { return *store_; }

 private:
  // Second stages are ones: writers divide by them while they plan.
  void add(Tensor& t, const PartSpec& spec, Model& m) {
    Part p{spec.role, spec.dtype, spec.shape, {}, nullptr};
    if (spec.dtype == DType::f32 && spec.shape.elements() == 1u) {
      const float one = 1;
      p.extent = {.file = kBlob, .offset = m.blobs.size(), .length = sizeof one, .xxh3 = {}};
      m.blobs.emplace_back(reinterpret_cast<const char*>(&one), sizeof one);
      t.parts.push_back(std::move(p));
      return;
    }
    p.extent = {.file = static_cast<uint32_t>(m.files.size()),
                .offset = end_,
                .length = byte_size(spec.dtype, spec.shape).value_or(0),
                .xxh3 = {}};
    end_ += p.extent.length;
    t.parts.push_back(std::move(p));
  }

  Fd hole_;
  uint64_t end_ = 0;
  std::unique_ptr<Store> store_;
};

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& w : words) text += (text.empty() ? "" : ", ") + w;
  return text;
}

}  // namespace

void PlanTarget::declare(CLI::App& app) {
  target_.declare(app, "Before the work, say whether this engine would load the result");
}

void PlanTarget::check_arguments() { target_.check(); }

void PlanTarget::check(const Store& store, const Plan& plan, bool kv_cache, Tool& tool) const {
  if (target_.engine == nullptr) return;
  target_.warn_of_version(tool);
  std::string name(target::name_of(*target_.engine));
  bool ggml = std::ranges::any_of(plan.entries, [&](const PlanEntry& e) {
    return e.scheme >= 0 && !plan.schemes[static_cast<size_t>(e.scheme)].ggml.empty();
  });
  if (ggml != (name == "llama.cpp"))
    throw limit_error(
        name + (ggml ? " loads no GGUF that is known here" : " loads nothing but ggml's types"))
        .hint(ggml ? "--target llama.cpp, or choose another scheme" : "choose one such as q4_k_m");
  if (ggml) return tool.say("llama.cpp loads this as gguf");
  Planned planned(store, plan, kv_cache);
  std::vector<std::string> loads;
  std::optional<Error> objection;
  // As they are, or, if no family passes so, with what qexport would change.
  for (bool change : {false, true}) {
    for (const Format& f : formats()) {
      bool plain = f.quant_method.empty();
      if (f.plan == nullptr || f.name == "diffusers" || f.to_stdout || f.name == "mmproj" ||
          plain != (plan.quantized == 0))
        continue;
      try {
        auto other = prepared(planned.store(), f);
        const Store& whole = other ? *other : planned.store();
        ExportOptions options;
        options.target = name;
        if (!change) {
          ExportPlan as_it_is = plan_fitted(whole, f, options, {}).plan;
          target::Result found =
              check_target(as_it_is, &whole, *target_.engine, target_.options).result;
          bool known = std::ranges::none_of(found.findings, [](const target::Finding& finding) {
            return finding.rule->effect == target::Effect::notes;
          });
          if (known && found.outcome == target::Outcome::loads) loads.emplace_back(f.name);
          continue;
        }
        FittedPlan fitted = plan_fitted(whole, f, options, {}, *target_.engine, target_.options);
        loads.push_back(std::string(f.name) + " (" + joined(fitted.changes) + ")");
        break;
      } catch (Error& e) {
        if (e.kind() != ErrorKind::limit && e.kind() != ErrorKind::usage) throw;
        if (!objection && e.reason().starts_with(name)) objection = std::move(e);
      }
    }
    if (!loads.empty()) return tool.say(name + " loads this as " + joined(loads));
  }
  if (objection) throw std::move(*objection);
  throw limit_error("no family that " + name + " loads can hold the result")
      .hint("qexport --list-formats shows what families hold");
}

}  // namespace qp
