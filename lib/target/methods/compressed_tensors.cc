// compressed-tensors: config_groups, targets and ignore. Facts: reference/compressed-tensors.md
// 1, 5.
#include <algorithm>
#include <unordered_map>

#include "lib/base/error.h"
#include "lib/target/methods/methods.h"

namespace qp::target {
namespace {

struct Args {
  bool is_float = false, symmetric = true, dynamic = false, e8m0 = false, act_order = false;
  int bits = 8;
  int64_t group = 0;
  std::string strategy;
  uint64_t block_n = 0, block_k = 0;
};

struct Group {
  std::string name;
  Scheme scheme;
};

// Keys that QuantizationArgs of 0.18 knows; others are a ValidationError (1.4).
constexpr std::string_view kArgKeys[] = {
    "num_bits", "type",     "symmetric",   "group_size", "strategy", "block_structure",
    "dynamic",  "actorder", "scale_dtype", "zp_dtype",   "observer", "observer_kwargs"};

std::vector<uint64_t> block_of(const Json& value) {
  std::vector<uint64_t> out;
  if (value.is_array()) {
    for (const Json& n : value) {
      if (n.is_number_integer() && n.get<int64_t>() > 0) out.push_back(n.get<uint64_t>());
    }
  } else if (value.is_string()) {
    std::string text = value.get<std::string>();
    auto x = text.find('x');
    if (x != text.npos && text.find_first_not_of("0123456789x") == text.npos && text.size() < 16 &&
        x > 0 && x + 1 < text.size()) {
      out = {std::stoul(text.substr(0, x)), std::stoul(text.substr(x + 1))};
    }
  }
  return out;
}

class Reader {
 public:
  Reader(Context& c, const Method& m)
      : context_(c), method_(m), sglang_(c.engine.name == "sglang"),
        hf_(c.engine.name == "transformers") {}

  void read() {
    const Json& q = context_.checkpoint.quant;
    format_ = text_at(q, {"format"});
    if (q.contains("sparsity_config") && list_at(q["sparsity_config"], {"targets"}) != nullptr) {
      add("ct-sparse", "", "sparsity_config has targets");
    }
    auto groups = q.find("config_groups");
    if (groups != q.end() && groups->is_object()) {
      for (const auto& [name, value] : groups->items()) read_group(name, value);
    }
    ignore_ = NameList(method_.left_out, strings_of(q.contains("ignore") ? q["ignore"] : Json()));
    for (const std::string& bad : ignore_.bad())
      add("bad-pattern", bad, "is no regular expression");
    check_kv(q);
  }

  std::optional<Scheme> choose(const Layer& layer) {
    if (ignored(layer)) return std::nullopt;
    if (hf_)
      return agreed(layer, context_.findings,
                    [&](const std::string& n) { return by_name_then_class(n, "Linear", layer); });
    if (layer.part == Part::experts) {
      auto s = agreed(layer, context_.findings,
                      [&](const std::string& n) { return by_name_then_class(n, "Linear", layer); });
      bool ascend = sglang_ && context_.options.hardware.starts_with('a');
      if (s && ascend && s->support == "pack") s->params = "ct-pack-ascend";
      return s;
    }
    if (auto g = by_name(layer.name)) return groups_[*g].scheme;
    // SGLang quantizes a head that is named, whatever its class.
    if (sglang_ && layer.part == Part::head) return std::nullopt;
    auto of_class = by_class(layer.class_name);
    if (sglang_ && of_class) return groups_[*of_class].scheme;
    if (layer.shards.front().name != layer.name && members_count(layer)) {  // fused
      std::vector<size_t> found;
      for (const Shard& s : layer.shards) {
        if (auto g = by_name(s.name)) found.push_back(*g);
      }
      if (found.size() == layer.shards.size()) {
        bool differ = std::ranges::any_of(
            found, [&](size_t g) { return !(groups_[g].scheme == groups_[found[0]].scheme); });
        if (differ) {
          add("fused-mixed", layer.name,
              "its shards are targeted by groups with different schemes; the engine takes the "
              "first one's");
        }
        return groups_[found[0]].scheme;
      }
    }
    if (of_class) return groups_[*of_class].scheme;
    if (layer.part == Part::linear)
      add("ct-no-target", layer.name, "is neither targeted nor ignored", layer.name);
    return std::nullopt;
  }

 private:
  void add(std::string_view topic, const std::string& subject, std::string what,
           std::string_view slot = {}) {
    context_.findings.add(topic, subject, std::move(what), slot);
  }

  Args read_args(const std::string& group, const Json& j) {
    Args a;
    for (const auto& [key, value] : j.items()) {
      if (std::ranges::find(kArgKeys, key) == std::end(kArgKeys)) {
        add("ct-unknown-key", group,
            "has the key '" + printable(key) + "', which compressed-tensors does not know", key);
      }
    }
    a.bits = static_cast<int>(std::clamp<int64_t>(int_at(j, {"num_bits"}).value_or(8), 1, 32));
    a.is_float = text_at(j, {"type"}) == "float";
    a.symmetric = bool_at(j, {"symmetric"}).value_or(true);
    a.group = int_at(j, {"group_size"}).value_or(0);
    a.strategy = text_at(j, {"strategy"});
    if (a.strategy.empty())
      a.strategy = a.group > 0 ? "group" : a.group == -1 ? "channel" : "tensor";
    a.dynamic = bool_at(j, {"dynamic"}).value_or(false) || text_at(j, {"dynamic"}) == "local";
    a.e8m0 = text_at(j, {"scale_dtype"}).ends_with("uint8");
    std::string order = text_at(j, {"actorder"});
    a.act_order =
        order == "group" || order == "dynamic" || bool_at(j, {"actorder"}).value_or(false);
    if (j.contains("block_structure")) {
      auto block = block_of(j["block_structure"]);
      if (block.size() == 2) a.block_n = block[0], a.block_k = block[1];
    }
    validate(group, a);
    return a;
  }

  // reference 1.5
  void validate(const std::string& group, const Args& a) {
    auto wrong = [&](const std::string& what) { add("ct-invalid-args", group, what); };
    bool grouped = a.strategy == "group" || a.strategy == "tensor_group";
    if (a.group < -1) wrong("group_size is " + std::to_string(a.group));
    if (grouped && a.group <= 0) wrong("strategy " + a.strategy + " needs a group_size");
    if (a.group > 0 && !grouped)
      wrong("group_size " + std::to_string(a.group) + " with strategy " + a.strategy);
    if ((a.strategy == "block") != (a.block_n > 0))
      wrong("strategy block and block_structure go together");
    if (a.strategy == "token" && !a.dynamic) wrong("strategy token must be dynamic");
    if (a.is_float && a.bits == 4 && !a.symmetric) wrong("4-bit floats cannot be asymmetric");
  }

  void read_group(const std::string& name, const Json& value) {
    if (value.is_array()) return add("ct-bare-list", name, "is a list of targets without a scheme");
    if (!value.is_object()) return add("ct-invalid-args", name, "is no object");
    std::vector<std::string> targets =
        strings_of(value.contains("targets") ? value["targets"] : Json());
    bool attention = targets.size() == 1 && targets[0].ends_with("Attention");
    if (attention && !sglang_) return;  // of the KV cache
    auto weights = value.find("weights");
    if (weights == value.end() || !weights->is_object())
      return add("ct-null-weights", name, "has no 'weights'");
    Args w = read_args(name, *weights);
    if (w.act_order) add("ct-act-order", name, "orders columns by their activations");
    std::optional<Args> in;
    auto inputs = value.find("input_activations");
    if (inputs != value.end() && inputs->is_object()) in = read_args(name, *inputs);
    std::string format = text_at(value, {"format"});
    if (format.empty()) format = format_;
    bool out = value.contains("output_activations") && value["output_activations"].is_object();
    groups_.push_back({name, scheme_of(name, w, in, out, format)});
    for (const std::string& t : targets) add_target(t, groups_.size() - 1);
  }

  void add_target(const std::string& target, size_t group) {
    if (target.starts_with("re:")) {
      for (auto& [text, pattern, g] : patterns_) {
        if (text == target)
          return static_cast<void>(g = group);  // the later group wins, in the first place
      }
      try {
        patterns_.push_back({target, Regex(target.substr(3)), group});
      } catch (const Error&) {
        add("bad-pattern", target, "is no regular expression");
      }
      order_.push_back(target);
      return;
    }
    names_[target] = group;
    order_.push_back(target);
  }

  bool activation_format(const std::string& f) const {
    return f == "naive-quantized" || f == "int-quantized" || f == "float-quantized" ||
           f == "nvfp4-pack-quantized" || (sglang_ && f == "pack-quantized");
  }

  // The order of tests is vLLM's (5.1); SGLang reads inputs only in formats of its list.
  Scheme scheme_of(const std::string& group, const Args& w, std::optional<Args> in, bool out,
                   const std::string& format) {
    Scheme s;
    s.bits = w.bits;
    s.group = w.group > 0 ? static_cast<uint64_t>(w.group) : 0;
    s.block_n = w.block_n;
    s.block_k = w.block_k;
    s.symmetric = w.symmetric;
    s.act_order = w.act_order;
    if (sglang_ && !activation_format(format)) in.reset();
    s.static_in = in && !in->dynamic;
    if (activation_format(format) && !in && !w.is_float && format != "pack-quantized") {
      add("ct-weight-only-int", group, "integers without input_activations under format " + format);
    }
    auto become = [&](std::string_view params, std::string_view support) {
      s.params = params;
      s.support = support;
      return s;
    };
    bool by16 = w.group == 16, by32 = w.group == 32;
    if (w.is_float && w.bits == 4 && by16) {
      s.static_in = in.has_value();  // its global scale is stored
      return become("ct-nvfp4", in ? "nvfp4" : "nvfp4a16");
    }
    if (w.is_float && w.bits == 4 && by32)
      return s.static_in = false, become("ct-mxfp4", in ? "mxfp4" : "mxfp4a16");
    if (w.is_float && w.bits == 8 && by32 && w.e8m0)
      return s.static_in = false, become("ct-mxfp8", in ? "mxfp8" : "mxfp8a16");
    bool pack = format == "pack-quantized";
    if (!w.is_float && pack && in && in->is_float) return become("ct-pack", "w4afp8");
    if (!w.is_float && out) return become("ct-int-channel", "int8-static-out");
    if (!w.is_float && pack && in) return become("ct-pack", "pack-int-act");
    bool strategy = w.strategy == "group" || w.strategy == "channel";
    if (sglang_ && !w.is_float && !in && !out && strategy &&
        !(pack && (w.bits == 4 || w.bits == 8)))
      return become("ct-pack", "pack-odd");
    if (!w.is_float && pack) {
      bool common = w.bits == 4 || w.bits == 8;
      return become("ct-pack", !w.symmetric ? (common ? "pack-asym" : "pack-odd-asym")
                               : common     ? "pack"
                                            : "pack-odd");
    }
    if (!activation_format(format) && !hf_) return become("ct-pack", "none");
    if (w.is_float && w.bits == 8) return float8(s, w, in.has_value());
    if (!w.is_float && in && !in->is_float && w.bits == 8 && w.strategy != "group") {
      return become(w.strategy == "tensor" ? "ct-int-tensor" : "ct-int-channel",
                    s.static_in ? "int8-static" : "int8");
    }
    if (!w.is_float && in && w.bits == 4 && !in->is_float)
      return become(s.group > 0 ? "ct-int-group" : "ct-int-channel", "w4a8-int");
    return become("ct-int-group", "none");
  }

  static Scheme float8(Scheme s, const Args& w, bool inputs) {
    bool tensor = w.strategy == "tensor", block = w.strategy == "block";
    s.params = tensor ? "ct-fp8-tensor" : block ? "ct-fp8-block" : "ct-fp8-channel";
    s.support = tensor  ? (inputs ? "fp8-tensor" : "fp8-weights-tensor")
                : block ? (inputs ? "fp8-block" : "fp8-weights-block")
                        : (inputs ? "fp8-channel" : "fp8-weights-channel");
    return s;
  }

  bool members_count(const Layer& layer) const {
    return by_member(context_.engine, context_.model.architecture, layer.name);
  }

  bool ignored(const Layer& layer) {
    if (!members_count(layer) && layer.part != Part::experts) return ignore_.covers(layer.name);
    if (layer.part == Part::experts) {
      auto names = asked_names(layer);
      return ignore_.covers(layer.name) ||
             std::ranges::all_of(names, [&](const std::string& n) { return ignore_.covers(n); });
    }
    size_t n = 0;
    for (const Shard& s : layer.shards) n += ignore_.covers(s.name) ? 1u : 0u;
    if (n != 0 && n != layer.shards.size()) {
      add("fused-disagree", layer.name,
          std::to_string(n) + " of its " + std::to_string(layer.shards.size()) +
              " shards are in 'ignore', the others are not",
          layer.name);
    }
    return n == layer.shards.size();
  }

  std::optional<size_t> by_name(const std::string& name) const {
    auto it = names_.find(name);
    // The first target in the order of the config that fits.
    for (const auto& [text, pattern, group] : patterns_) {
      if (!pattern.matches_start(name)) continue;
      if (it == names_.end()) return group;
      return std::ranges::find(order_, text) < std::ranges::find(order_, name) ? group : it->second;
    }
    return it == names_.end() ? std::nullopt : std::optional(it->second);
  }

  // Case-free, and contained: "Linear" is in "QKVParallelLinear".
  std::optional<size_t> by_class(std::string_view class_name) const {
    auto lower = [](std::string_view t) {
      std::string out(t);
      for (char& c : out) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
      return out;
    };
    std::string name = lower(class_name);
    for (const std::string& target : order_) {
      bool plain = !target.starts_with("re:") && target.find('.') == target.npos;
      if (plain && name.find(lower(target)) != name.npos) return names_.at(target);
    }
    return std::nullopt;
  }

  std::optional<Scheme> by_name_then_class(const std::string& name, std::string_view class_name,
                                           const Layer& layer) {
    auto g = by_name(name);
    bool linear = layer.part == Part::linear || layer.part == Part::experts ||
                  (hf_ && layer.part == Part::head);
    if (!g && linear) g = by_class(class_name);
    return g ? std::optional(groups_[*g].scheme) : std::nullopt;
  }

  void check_kv(const Json& q) {
    auto kv = q.find("kv_cache_scheme");
    if (kv == q.end() || !kv->is_object()) return;
    std::string strategy = text_at(*kv, {"strategy"});
    bool fine = text_at(*kv, {"type"}) == "float" && int_at(*kv, {"num_bits"}).value_or(8) == 8 &&
                bool_at(*kv, {"symmetric"}).value_or(true) &&
                (strategy.empty() || strategy == "tensor" || strategy == "attn_head");
    if (!fine)
      add("ct-kv-scheme", "", "kv_cache_scheme is not symmetric 8-bit float per tensor or head");
    add("ct-kv-ignored", "", "config.json has a kv_cache_scheme");
  }

  Context& context_;
  const Method& method_;
  bool sglang_, hf_;
  std::string format_;
  std::vector<Group> groups_;
  struct Pattern {
    std::string text;
    Regex pattern;
    size_t group;
  };
  std::vector<Pattern> patterns_;
  std::unordered_map<std::string, size_t> names_;
  std::vector<std::string> order_;
  NameList ignore_;
};

}  // namespace

Chooser choose_compressed_tensors(Context& context, const Method& method) {
  auto reader = std::make_shared<Reader>(context, method);
  reader->read();
  return [reader](const Layer& layer) { return reader->choose(layer); };
}

}  // namespace qp::target
