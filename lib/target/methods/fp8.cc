// fp8, mxfp8, w8a8_int8, w8a8_fp8, blockwise_int8. Facts: fp8-torchao-quark-modelslim.md 1 and 6.
#include <algorithm>
#include <memory>

#include "lib/base/error.h"
#include "lib/target/methods/methods.h"

namespace qp::target {
namespace {

std::pair<uint64_t, uint64_t> block_of(const Json& q) {
  const Json* list = list_at(q, {"weight_block_size"});
  if (list == nullptr || list->size() != 2) return {0, 0};
  auto one = [](const Json& n) {
    return n.is_number_integer() && n.get<int64_t>() > 0 ? n.get<uint64_t>() : 0;
  };
  return {one((*list)[0]), one((*list)[1])};
}

// SGLang calls the vision tower's "attn.qkv" "attn.qkv_proj", and looks for its members in lists.
std::string asked(const Context& c, const std::string& name) {
  bool renamed = c.engine.name == "sglang" && name.ends_with(".attn.qkv");
  return renamed ? name.substr(0, name.size() - 3) + "q_proj" : name;
}

}  // namespace

Chooser choose_fp8(Context& c, const Method& method) {
  const Json& q = c.checkpoint.quant;
  std::string activation = text_at(q, {"activation_scheme"});
  if (activation.empty())
    c.findings.add("fp8-activation-scheme", "", "the config has no 'activation_scheme'",
                   "activation_scheme");
  Scheme s;
  s.bits = 8;
  auto [n, k] = block_of(q);
  s.block_n = n;
  s.block_k = k;
  s.static_in = activation == "static";
  if (n > 0 && s.static_in)
    c.findings.add("fp8-static-block", "",
                   "activation_scheme is static, and weights are in blocks");
  if (n == 0) c.findings.add("fp8-tensor-scale", "", "the config has no 'weight_block_size'");
  if (s.static_in) c.findings.add("fp8-static", "", "activation_scheme is static");
  bool mx = method.name == "mxfp8", scale = mx && c.engine.name == "vllm";
  s.params = scale ? "modelopt-mxfp8" : mx ? "fp8-mx" : n > 0 ? "fp8-block" : "fp8-tensor";
  bool transformers = c.engine.name == "transformers";  // it makes floats of them on the way in
  s.support = transformers ? "fp8" : scale ? "MXFP8" : s.params;
  const Json* list = list_at(q, {"ignored_layers", "modules_to_not_convert"});
  auto left = std::make_shared<NameList>(
      method.left_out, list == nullptr ? std::vector<std::string>{} : strings_of(*list));
  bool inner = c.engine.name == "sglang";  // an entry that goes on inside the experts counts, too
  return [&c, s, left, inner, head = transformers](const Layer& layer) -> std::optional<Scheme> {
    if (layer.part == Part::embedding || (layer.part == Part::head && !head)) return std::nullopt;
    if (left->covers(asked(c, layer.name))) return std::nullopt;
    if (inner && layer.part == Part::experts) {
      for (const std::string& entry : left->entries()) {
        if (entry.find(layer.name) != entry.npos) return std::nullopt;
      }
    }
    return agreed(layer, c.findings, [&](const std::string& name) {
      return left->covers(asked(c, name)) ? std::nullopt : std::optional(s);
    });
  };
}

Chooser choose_w8a8(Context& c, const Method& method) {
  const Json& q = c.checkpoint.quant;
  Scheme s;
  s.bits = 8;
  bool block = method.name == "blockwise_int8", int8 = method.name == "w8a8_int8";
  if (block) std::tie(s.block_n, s.block_k) = block_of(q);
  s.params = block ? "int8-block" : int8 ? "int8-row" : "fp8-row";
  s.support = method.name;
  const Json* list = list_at(q, {"ignore", "ignored_layers"});
  bool all = method.name == "w8a8_fp8";  // it reads no list
  if (all && c.model.kv_lora > 0)
    c.findings.add("w8a8-latents", "", "the method is w8a8_fp8, and the model has latents");
  auto left = std::make_shared<NameList>(
      method.left_out, list == nullptr || all ? std::vector<std::string>{} : strings_of(*list));
  return [&c, s, left](const Layer& layer) -> std::optional<Scheme> {
    if (layer.part == Part::embedding || layer.part == Part::head) return std::nullopt;
    return agreed(layer, c.findings, [&](const std::string& n) {
      return left->covers(asked(c, n)) ? std::nullopt : std::optional(s);
    });
  };
}

}  // namespace qp::target
