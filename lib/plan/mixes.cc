#include "lib/plan/mixes.h"

#include <vector>

#include "lib/base/error.h"
#include "lib/config/algorithms.h"
#include "lib/config/presets.h"
#include "lib/ggml/mix.h"
#include "lib/ggml/tensor_map.h"

namespace qp {
namespace {

using ggml::MappedTensor;

uint64_t number(const ggml::Metadata& metadata, const std::string& key) {
  const ggml::Value* v = metadata.find(key);
  if (v == nullptr) return 0;
  if (const auto* n = std::get_if<uint32_t>(v)) return *n;
  const auto* list = std::get_if<std::vector<int32_t>>(v);  // per layer: the first counts
  return list == nullptr || list->empty() ? 0 : static_cast<uint64_t>(list->front());
}

ggml::MixModel facts_of(const Model& model, const ggml::Family& family) {
  ggml::Metadata metadata{std::string(family.arch)};
  family.describe(ggml::Config(model.config), metadata);
  std::string arch = std::string(family.arch) + ".";
  ggml::MixModel facts;
  facts.arch = family.arch;
  facts.layers = number(metadata, arch + "block_count");
  facts.heads = number(metadata, arch + "attention.head_count");
  facts.kv_heads = number(metadata, arch + "attention.head_count_kv");
  if (facts.kv_heads == 0) facts.kv_heads = facts.heads;
  facts.experts = number(metadata, arch + "expert_count");
  return facts;
}

// Another rule, or an ignore, comes before rule `index` for this tensor.
bool decided(const Tensor& t, const Model& model, const Recipe& recipe, size_t index) {
  ModuleInfo info = classify(t.name, t.quantized() ? DType::bf16 : t.dtype, t.shape, model.config);
  for (const Match& m : recipe.ignore) {
    if (m(t.name, info)) return true;
  }
  for (size_t i = 0; i < index; ++i) {
    if (!recipe.rules[i].mix && reaches(recipe.rules[i], t.name, info)) return true;
  }
  const Rule& rule = recipe.rules[index];
  return !rule.match.empty() && !reaches(rule, t.name, info);
}

MixChoice choice_of(const MappedTensor& t, const char* type) {
  std::string what = "llama.cpp's " + t.name;
  if (type == nullptr) return {std::nullopt, what + " stays unquantized"};
  return {find_scheme("gguf:" + std::string(type)), what};
}

}  // namespace

void choose_mixes(const Model& model, const Recipe& recipe, const std::string& label, MixChoices& choices) {
  for (size_t i = 0; i < recipe.rules.size(); ++i) {
    const Rule& rule = recipe.rules[i];
    if (!rule.mix) continue;
    try {
      const ggml::Family& family = ggml::family_of(model);
      ggml::TensorMap map = ggml::map_tensors(model, family);
      std::vector<ggml::MixTensor> tensors;
      for (const MappedTensor& t : map.tensors) {
        const Tensor& first = model.tensors[t.pieces.front().tensor];
        tensors.push_back({t.name, t.shape, decided(first, model, recipe, i)});
      }
      bool importance = parse_algorithm(rule.algorithm).back().algorithm->name == "imatrix";
      std::vector<const char*> types =
          ggml::choose_types(*rule.mix, facts_of(model, family), importance, tensors);
      for (size_t k = 0; k < types.size(); ++k) {
        if (tensors[k].decided) continue;
        for (const ggml::Piece& p : map.tensors[k].pieces) {
          const Tensor& source = model.tensors[p.tensor];
          MixChoice choice = choice_of(map.tensors[k], types[k]);
          if (p.op != ggml::Op::key_b && p.op != ggml::Op::value_b) {
            choices.of[&source].emplace(i, std::move(choice));
            continue;
          }
          (p.op == ggml::Op::key_b ? choices.keys : choices.values)[&source].emplace(i, choice);
          choices.of[&source].emplace(i, MixChoice{std::nullopt, std::move(choice.why)});
        }
        bool refused = types[k] != nullptr && !importance &&
                       ggml::needs_importance(*rule.mix->mix, tensors[k].name, types[k]);
        if (!refused) continue;
        throw usage_error("llama-quantize makes " + std::string(types[k]) + " with an importance matrix only")
            .tensor(model.tensors[map.tensors[k].pieces.front().tensor].name)
            .hint("run qcalibrate on the model and add -a imatrix");
      }
    } catch (Error& e) {
      throw std::move(e).file(label);
    }
  }
}

}  // namespace qp
