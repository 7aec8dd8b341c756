#include "lib/config/presets.h"

#include <strings.h>

#include <algorithm>
#include <charconv>
#include <cstdio>

#include "lib/base/error.h"
#include "lib/scheme/numerics.h"
#include "lib/tensor/ggml_type.h"

namespace qp {
namespace {

// Weight arguments as compressed-tensors' presets have them (reference/compressed-tensors.md 2).
QuantArgs int_group(int bits, bool symmetric = true, int group_size = 128) {
  return {.num_bits = bits, .symmetric = symmetric, .strategy = Strategy::group,
          .group_size = group_size, .scale_dtype = {}};
}
QuantArgs int_channel(int bits) {
  return {.num_bits = bits, .strategy = Strategy::channel, .scale_dtype = {}};
}
QuantArgs fp8(Strategy strategy) {
  return {.num_bits = 8, .type = NumType::floating, .strategy = strategy, .scale_dtype = {}};
}
QuantArgs fp8_block() {
  QuantArgs a = fp8(Strategy::block);
  a.block_rows = a.block_cols = 128;
  return a;
}
QuantArgs mx(int bits) {
  return {.num_bits = bits, .type = NumType::floating, .strategy = Strategy::group,
          .group_size = 32, .scale_dtype = DType::f8_e8m0};
}
QuantArgs nvfp4() {
  return {.num_bits = 4, .type = NumType::floating, .strategy = Strategy::tensor_group,
          .group_size = 16, .scale_dtype = DType::f8_e4m3};
}
QuantArgs dynamic(QuantArgs args, Strategy strategy, int group_size = 0) {
  args.strategy = strategy;
  args.group_size = group_size;
  args.block_rows = args.block_cols = 0;
  args.dynamic = Dynamic::yes;
  return args;
}

Scheme make(std::string_view name, QuantArgs weights, std::optional<QuantArgs> input = {}) {
  return {.name = std::string(name), .weights = weights, .input_activations = input};
}

bool same(std::string_view a, std::string_view b) {
  // '-' and '_' are alike: fp8_dynamic, FP8-DYNAMIC.
  return std::ranges::equal(a, b, [](char x, char y) {
    auto fold = [](char c) { return c == '_' ? '-' : (c >= 'A' && c <= 'Z') ? char(c + 32) : c; };
    return fold(x) == fold(y);
  });
}

std::vector<Preset> build() {
  std::vector<Preset> p;
  auto add = [&](std::string_view summary, Scheme scheme, std::vector<std::string_view> aliases) {
    p.push_back({scheme.name, std::string(summary), scheme, std::move(aliases), {}});
  };
  QuantArgs f8 = fp8(Strategy::tensor), i8 = int_channel(8);
  add("FP8 weights per channel, FP8 activations per token at run time",
      make("fp8-dynamic", fp8(Strategy::channel), dynamic(f8, Strategy::token)),
      {"FP8_DYNAMIC", "fp8", "w8a8_fp8", "fp8_per_channel", "fp8dq-per_row", "float8dq-per_row",
       "PTPC_FP8", "fp8_pc_pt"});
  add("FP8 weights per tensor, FP8 activations per tensor at run time",
      make("fp8-tensor", f8, dynamic(f8, Strategy::tensor)),
      {"fp8dq-per_tensor", "float8dq-per_tensor", "FP8_TENSOR", "fp8_per_tensor"});
  add("FP8 weights in 128x128 blocks, FP8 activations in groups of 128 at run time",
      make("fp8-block", fp8_block(), dynamic(f8, Strategy::group, 128)),
      {"FP8_BLOCK", "deepseek_fp8", "fp8_block_scaled", "fp8_pb_wo"});
  add("INT8 weights per channel, INT8 activations per token at run time",
      make("int8", i8, dynamic(i8, Strategy::token)),
      {"W8A8", "INT8", "int8dq", "w8a8_int8", "W8A8_INT8", "int8_dynamic"});
  add("INT8 weights in groups of 128, activations as they are", make("w8a16", int_group(8)),
      {"W8A16", "int8wo", "int8_weight_only"});
  add("INT4 weights in groups of 128, activations as they are", make("w4a16", int_group(4)),
      {"W4A16", "int4", "INT4", "int4wo-128", "int4_weight_only", "gptq_int4", "W4A16_SYM"});
  add("INT4 weights in groups of 32", make("w4a16-g32", int_group(4, true, 32)), {"int4wo-32"});
  add("INT4 weights in groups of 64", make("w4a16-g64", int_group(4, true, 64)), {"int4wo-64"});
  add("INT4 weights in groups of 256", make("w4a16-g256", int_group(4, true, 256)), {"int4wo-256"});
  add("INT4 weights with zero points in groups of 128", make("w4a16-asym", int_group(4, false)),
      {"W4A16_ASYM", "awq_int4", "int4_asym"});
  add("INT3 weights in groups of 128", make("w3a16", int_group(3)), {"W3A16", "int3"});
  add("INT2 weights in groups of 128", make("w2a16", int_group(2)), {"W2A16", "int2"});
  add("NVFP4 weights (E2M1, E4M3 scales of 16, one global scale), activations as they are",
      make("nvfp4a16", nvfp4()), {"NVFP4A16", "nvfp4_weight_only", "nvfp4_wo", "W4A16_NVFP4"});
  add("MXFP4 weights and activations (E2M1, E8M0 scales of 32), activations at run time",
      make("mxfp4", mx(4), dynamic(mx(4), Strategy::group, 32)), {"MXFP4", "w4a4_mxfp4"});
  add("MXFP4 weights, activations as they are", make("mxfp4a16", mx(4)),
      {"MXFP4A16", "mxfp4_weight_only"});
  add("MXFP8 weights and activations (E4M3, E8M0 scales of 32), activations at run time",
      make("mxfp8", mx(8), dynamic(mx(8), Strategy::group, 32)), {"MXFP8", "w8a8_mxfp8"});
  add("MXFP8 weights, activations as they are", make("mxfp8a16", mx(8)), {"MXFP8A16"});

  QuantArgs local = nvfp4();
  local.dynamic = Dynamic::local;
  add("NVFP4 weights and activations, the activations' global scale from calibration",
      make("nvfp4", nvfp4(), local), {"NVFP4", "modelopt_fp4", "W4A4_NVFP4"});
  add("FP8 weights and activations per tensor, the activations' scale from calibration",
      make("fp8-static", f8, f8), {"FP8_STATIC", "fp8_static", "modelopt_fp8"});
  QuantArgs i8_tensor = {.num_bits = 8, .strategy = Strategy::tensor, .scale_dtype = {}};
  add("INT8 weights per channel, INT8 activations per tensor, their scale from calibration",
      make("int8-static", i8, i8_tensor), {"W8A8_STATIC", "INT8_STATIC"});
  add("INT4 weights in groups of 128, INT8 activations per token at run time",
      make("w4a8", int_group(4), dynamic(i8, Strategy::token)), {"W4A8", "w4a8_int8"});
  add("INT4 weights in groups of 128, FP8 activations per token at run time",
      make("w4afp8", int_group(4), dynamic(f8, Strategy::token)), {"W4AFP8", "w4a8_fp8"});
  QuantArgs i4 = int_channel(4);
  add("INT4 weights in groups of 128, INT4 activations per token at run time",
      make("w4a4", int_group(4), dynamic(i4, Strategy::token)), {"W4A4", "w4a4_int4", "W4A4_DYNAMIC"});

  // bitsandbytes: reference/int4-formats.md 1.4. Blocks of 64 elements, across rows.
  auto codebook = [&](std::string_view name, std::string_view summary, bool nested, std::vector<std::string_view> aliases) {
    Scheme s = make(name, {.num_bits = 4, .type = NumType::codebook, .strategy = Strategy::flat, .group_size = 64,
                           .scale_dtype = {}, .nested_scale = nested});
    s.numerics = "bitsandbytes";
    add(summary, std::move(s), std::move(aliases));
  };
  codebook("bnb-nf4", "bitsandbytes' NF4, scales of 64 elements", false, {"nf4", "bnb_4bit"});
  codebook("bnb-nf4-dq", "the same with quantized scales", true, {"nf4-dq", "nf4_double_quant"});
  codebook("bnb-fp4", "bitsandbytes' FP4, scales of 64 elements", false, {"bnb_fp4"});
  codebook("bnb-fp4-dq", "the same with quantized scales", true, {"fp4-dq"});
  Scheme llm_int8 = make("bnb-int8", i8);
  llm_int8.weights.amax_scale = true;
  llm_int8.numerics = "bitsandbytes";
  add("bitsandbytes' LLM.int8(): INT8 weights per row", llm_int8, {"llm_int8", "bnb_8bit"});

  // torchao: reference/fp8-torchao-quark-modelslim.md 3.2. Its flags, where --numerics torchao is given.
  auto torchao = [&](std::string_view name, std::string_view summary, QuantArgs weights, std::optional<QuantArgs> input = {}) {
    Scheme s = make(name, weights, input);
    s.numerics = "torchao";
    add(summary, std::move(s), {});
  };
  torchao("torchao-int8wo", "torchao's INT8 weights per row", i8);
  torchao("torchao-int8dq", "torchao's INT8 weights per row, INT8 activations per token at run time", i8, dynamic(i8, Strategy::token));
  torchao("torchao-int4wo-32", "torchao's INT4 weights with float zero points in groups of 32", int_group(4, false, 32));
  torchao("torchao-int4wo-64", "torchao's INT4 weights with float zero points in groups of 64", int_group(4, false, 64));
  torchao("torchao-int4wo-128", "torchao's INT4 weights with float zero points in groups of 128", int_group(4, false, 128));
  torchao("torchao-int4wo-256", "torchao's INT4 weights with float zero points in groups of 256", int_group(4, false, 256));
  torchao("torchao-fp8wo", "torchao's FP8 weights per row", fp8(Strategy::channel));
  torchao("torchao-fp8dq-per_row", "torchao's FP8 weights per row, FP8 activations per token at run time",
          fp8(Strategy::channel), dynamic(f8, Strategy::token));
  torchao("torchao-fp8dq-per_tensor", "torchao's FP8 weights and run-time activations per tensor", f8, dynamic(f8, Strategy::tensor));

  // SGLang's online scheme for ROCm, as Quark stores it: fp8-torchao-quark-modelslim.md 4.4.
  Scheme quark_fp8 = make("quark_int4fp8_moe", fp8(Strategy::channel), dynamic(f8, Strategy::token));
  Scheme int4fp8 = make("int4fp8", i4, dynamic(f8, Strategy::token));
  int4fp8.weights.fp8_stage = true;
  quark_fp8.numerics = int4fp8.numerics = "quark";
  add("experts in INT4 per row under FP8, other linears in FP8 per row; FP8 activations at run time",
      quark_fp8, {"int4fp8_moe", "quark_int4_fp8_moe"});
  p.back().experts = int4fp8;

  for (const GgmlType& type : ggml_types()) {
    if (type.block == 1 && !type.is_float()) continue;
    if (type.name == "q8_1" || type.name == "q8_k") continue;  // of run time
    Scheme scheme;
    // Two of them are others' names, too.
    bool others = std::ranges::any_of(p, [&](const Preset& o) { return same(o.scheme.name, type.name); });
    scheme.name = (others || type.is_float() ? "gguf:" : "") +
                  std::string(type.name);
    scheme.ggml = type.name;
    char bits[16];
    std::snprintf(bits, sizeof bits, "%g", 8.0 * type.bytes / type.block);
    std::string what = "ggml's " + std::string(type.name) + ": ";
    what += type.is_float() ? "floats, nothing more" : std::string(bits) + " bits per weight in blocks of " + std::to_string(type.block);
    p.push_back({scheme.name, what, scheme, {}, {}});
  }
  return p;
}

}  // namespace

std::span<const Preset> presets() {
  static const std::vector<Preset> all = build();
  return all;
}

Scheme find_scheme(std::string_view name) {
  if (name.size() > 5 && same(name.substr(0, 5), "gguf:")) {
    const GgmlType* type = ggml_type(name.substr(5));
    for (const Preset& p : presets()) {
      if (type != nullptr && p.scheme.ggml == type->name) return p.scheme;
    }
  }
  const Preset* found = nullptr;
  std::vector<std::string_view> names;
  for (const Preset& p : presets()) {
    if (same(p.name, name)) found = &p;
    names.push_back(p.name);
  }
  for (const Preset& p : presets()) {
    for (std::string_view alias : p.aliases) {
      if (found == nullptr && same(alias, name)) found = &p;
      names.push_back(alias);
    }
  }
  if (found == nullptr) {
    std::string hint = did_you_mean(name, names);
    throw usage_error("unknown scheme '" + printable(name) + "'")
        .hint(hint + (hint.empty() ? "" : " ") + "qquantize --list-schemes shows all");
  }
  return found->scheme;
}

std::optional<Scheme> expert_scheme(std::string_view name) {
  for (const Preset& p : presets()) {
    bool is = same(p.name, name) || std::ranges::any_of(p.aliases, [&](auto a) { return same(a, name); });
    if (is) return p.experts;
  }
  return std::nullopt;
}

bool accepts(const Scheme& scheme, ModuleKind kind) {
  if (!scheme.ggml.empty() && kind == ModuleKind::embedding) return true;
  if (kind == ModuleKind::linear || kind == ModuleKind::expert || kind == ModuleKind::head ||
      kind == ModuleKind::conditioning) {
    return true;
  }
  return kind == ModuleKind::embedding && scheme.code_kind() == CodeKind::integer &&
         !scheme.input_activations;
}

Scheme compose_scheme(std::string_view base, const SchemeOverrides& o) {
  // "int8wo" is another scheme under torchao's arithmetic: its own.
  std::string own = o.numerics == "torchao" && !base.empty() ? "torchao-" + std::string(base) : "";
  bool known = std::ranges::any_of(presets(), [&](const Preset& p) { return same(p.name, own); });
  Scheme s = base.empty() ? make("custom", int_group(4)) : find_scheme(known ? own : base);
  if (!o.numerics.empty()) s.numerics = numerics::rules(o.numerics).name;
  if (!o.any()) return s;
  QuantArgs& w = s.weights;
  if (w.type != NumType::integer || w.amax_scale || !s.ggml.empty()) {
    throw usage_error("scheme '" + s.name + "' has a fixed layout")
        .hint("--num-bits, --group-size and --symmetric compose integer schemes");
  }
  if (o.num_bits != 0) {
    if (o.num_bits < 2 || o.num_bits > 8) {
      throw usage_error("--num-bits (expected 2 to 8, found " + std::to_string(o.num_bits) + ")");
    }
    w.num_bits = o.num_bits;
  }
  if (!o.symmetric.empty()) w.symmetric = o.symmetric == "true";
  if (!w.symmetric && s.input_activations) {
    throw usage_error("scheme '" + s.name + "' quantizes activations: weights must be symmetric");
  }
  if (o.group_size == "channel" || o.group_size == "-1") {
    w.strategy = Strategy::channel;
    w.group_size = 0;
  } else if (o.group_size == "tensor") {
    w.strategy = Strategy::tensor;
    w.group_size = 0;
  } else if (!o.group_size.empty()) {
    int size = 0;
    const std::string& g = o.group_size;
    auto [end, ec] = std::from_chars(g.data(), g.data() + g.size(), size);
    if (ec != std::errc() || end != g.data() + g.size() || size < 16 || size > 65536 ||
        size % 16 != 0) {
      throw usage_error("--group-size (expected 32, 64, 128, 256, channel or tensor, found '" +
                        printable(g) + "')");
    }
    if (s.input_activations) {
      throw usage_error("scheme '" + s.name + "' quantizes activations: weights are per channel")
          .hint("use w8a16 or w4a16 with --group-size");
    }
    w.strategy = Strategy::group;
    w.group_size = size;
  }
  return s;
}

}  // namespace qp
