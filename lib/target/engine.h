// An engine is tables: the rules it was read to follow, the methods it knows, what it fuses, which
// scheme runs where. engines/NAME.cc has one each.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string_view>

#include "lib/target/layers.h"
#include "lib/target/match.h"
#include "lib/target/rule.h"
#include "lib/target/scheme.h"
#include "lib/target/target.h"

namespace qp::target {

struct Context {
  const Checkpoint& checkpoint;
  const ModelShape& model;
  const Layers& layers;
  const Engine& engine;
  const Options& options;
  Findings& findings;
};

// How a layer is quantized; nothing: not at all. A chooser reports what it refuses.
using Chooser = std::function<std::optional<Scheme>(const Layer&)>;

// A quant_method: who reads its config, and how the list of modules left out is matched.
struct Method {
  std::string_view name;
  Chooser (*make)(Context&, const Method&);
  Dialect left_out = Dialect::exact;
  bool whole_names = false;  // `dynamic` and exclusions see the fused name first
};

enum class Where : uint8_t { any, linear, experts, embedding };

// A scheme of Scheme::support in one place. First row that fits wins; a scheme without a row is not
// known to run.
struct Support {
  std::string_view scheme;
  Where where;
  int capability = 0;           // least CUDA compute capability; 0: none is asked for
  std::string_view error = {};  // not empty: the engine refuses, and prints this
  int exactly = 0;              // runs on this capability alone
};

// Modules that one architecture builds otherwise than the rest.
struct Special {
  std::string_view architecture;  // begins with it
  std::string_view member;        // last component, "mlp.gate"
  bool takes_config;              // quantized as the config says, or never
};

// What an architecture's class does with a tensor that fits no parameter, and in the lists of
// the config. Begins with `architecture`; the first row that fits wins.
struct Loader {
  std::string_view architecture;
  bool fused_stops, experts_stop, plain_stops;  // else such a tensor is passed over
  // Fused layers whose members are looked up in config lists, apart by spaces; others are looked
  // up by the name of the whole alone.
  std::string_view by_member;
  bool kv_scales = false;        // self_attn.k_scale finds its parameter
  bool renames_inverse = false;  // weight_scale_inv is taken for weight_scale
};

enum class Cell : uint8_t { yes, no, open };  // open: to be decided, or in work
struct HardwareRow {
  std::string_view hardware, methods;  // methods apart by spaces
  std::string_view label;              // as the documents call it: "W8A8 dynamic"; or the error
  std::string_view scheme;             // Scheme::support
  int bits;
  Where where;
  Cell cell;
  bool code = false;  // read from the code; else from the documents
};

struct Engine {
  std::string_view name, version, command;
  std::span<const Rule> rules;
  std::span<const Fused> fused;
  std::span<const Method> methods;
  std::span<const Support> support;
  std::span<const Special> specials;
  std::span<const HardwareRow> hardware;
  std::string_view tp_flag, ep_flag, pp_flag;
  bool head_by_config = true;            // the head takes the quantization config
  std::span<const Loader> loaders = {};  // none: fused layers and experts stop, others do not
  // Architectures that want no more ranks than experts; names begin with one of these.
  std::span<const std::string_view> rank_per_expert = {};
};

// Nothing when the engine has no rows: then all fused layers are looked up by their members, too.
const Loader* loader_of(const Engine& engine, std::string_view architecture);
bool by_member(const Engine& engine, std::string_view architecture, std::string_view whole);

extern const Engine kVllm, kSglang, kTransformers, kLlamaCpp;

const Support* support_of(const Engine& engine, std::string_view scheme, Where where);

}  // namespace qp::target
