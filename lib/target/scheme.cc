#include "lib/target/scheme.h"

#include <algorithm>

#include "lib/base/error.h"

namespace qp::target {
namespace {

// reference: compressed-tensors 3.2
constexpr Param kCtPack[] = {
    {"weight_packed", "I32", "N K*b/32"},
    {"weight_scale", "model", "N G"},
    {"weight_zero_point", "I32", "N*b/32 G", Need::asymmetric},
    {"weight_g_idx", "I32", "K", Need::act_order},
    {"weight_shape", "I64", "2", Need::optional},
};
// compressed_tensors_wNa16_moe.py of SGLang, on Ascend.
constexpr Param kCtPackAscend[] = {{"weight", "I32", "N K*b/32"},
                                   {"weight_scale", "model", "N G"},
                                   {"weight_offset", "model", "N G", Need::optional},
                                   {"weight_shape", "I64", "2", Need::optional}};
constexpr Param kCtIntTensor[] = {{"weight", "I8", "N K"},
                                  {"weight_scale", "F32", "1"},
                                  {"input_scale", "F32", "1", Need::static_in},
                                  {"input_zero_point", "I8", "1", Need::optional}};
constexpr Param kCtIntChannel[] = {{"weight", "I8", "N K"},
                                   {"weight_scale", "F32", "N 1"},
                                   {"input_scale", "F32", "1", Need::static_in},
                                   {"input_zero_point", "I8", "1", Need::optional}};
constexpr Param kCtIntGroup[] = {{"weight", "I8", "N K"}, {"weight_scale", "F32", "N G"}};
constexpr Param kCtFp8Tensor[] = {{"weight", "F8_E4M3", "N K"},
                                  {"weight_scale", "F32", "1"},
                                  {"input_scale", "F32", "1", Need::static_in}};
constexpr Param kCtFp8Channel[] = {{"weight", "F8_E4M3", "N K"},
                                   {"weight_scale", "F32", "N 1"},
                                   {"input_scale", "F32", "1", Need::static_in}};
constexpr Param kCtFp8Block[] = {{"weight", "F8_E4M3", "N K"}, {"weight_scale", "F32", "NB KB"}};
constexpr Param kCtNvfp4[] = {{"weight_packed", "U8", "N K/2"},
                              {"weight_scale", "F8_E4M3", "N K/16"},
                              {"weight_global_scale", "F32", "1"},
                              {"input_global_scale", "F32", "1", Need::static_in}};
constexpr Param kCtMxfp4[] = {{"weight_packed", "U8", "N K/2"}, {"weight_scale", "U8", "N K/32"}};
constexpr Param kCtMxfp8[] = {{"weight", "F8_E4M3", "N K"}, {"weight_scale", "U8", "N K/32"}};

// reference: int4-formats 1.1, 1.3, 1.4
constexpr Param kGptq[] = {{"qweight", "I32", "K*b/32 N"},
                           {"qzeros", "I32", "G N*b/32"},
                           {"scales", "model", "G N"},
                           {"g_idx", "I32", "K", Need::if_ordered}};
constexpr Param kAwq[] = {
    {"qweight", "I32", "K N*b/32"}, {"qzeros", "I32", "G N*b/32"}, {"scales", "model", "G N"}};
constexpr Param kBnb4[] = {{"weight", "any", "*"},
                           {"weight.absmax", "any", "*"},
                           {"weight.quant_map", "F32", "16"},
                           {"weight.nested_absmax", "F32", "*", Need::optional},
                           {"weight.nested_quant_map", "F32", "256", Need::optional},
                           {"weight.quant_state.bitsandbytes__nf4", "U8", "*", Need::optional},
                           {"weight.quant_state.bitsandbytes__fp4", "U8", "*", Need::optional}};
constexpr Param kBnb8[] = {
    {"weight", "I8", "N K"}, {"SCB", "F32", "N"}, {"weight_format", "U8", "1", Need::optional}};

// reference: fp8-torchao-quark-modelslim 1.2, 4.2, 5.3, 6
constexpr Param kFp8Block[] = {{"weight", "F8_E4M3", "N K"}, {"weight_scale_inv", "F32", "NB KB"}};
constexpr Param kFp8Tensor[] = {{"weight", "F8_E4M3", "N K"},
                                {"weight_scale", "F32", "1"},
                                {"input_scale", "F32", "1", Need::static_in}};
constexpr Param kFp8Mx[] = {{"weight", "F8_E4M3", "N K"}, {"weight_scale_inv", "U8", "N K/32"}};
constexpr Param kInt8Row[] = {{"weight", "I8", "N K"}, {"weight_scale", "F32", "N 1"}};
constexpr Param kInt8Block[] = {{"weight", "I8", "N K"}, {"weight_scale_inv", "F32", "NB KB"}};
constexpr Param kFp8Row[] = {{"weight", "F8_E4M3", "N K"}, {"weight_scale", "F32", "N 1"}};
constexpr Param kQuarkFp8Channel[] = {{"weight", "F8_E4M3", "N K"},
                                      {"weight_scale", "F32", "N"},
                                      {"input_scale", "F32", "1", Need::static_in}};
constexpr Param kQuarkMxfp4[] = {{"weight", "U8", "N K/2"},
                                 {"weight_scale", "U8", "N K/32"},
                                 {"input_scale", "F32", "1", Need::static_in}};
constexpr Param kSlimStatic[] = {{"weight", "I8", "N K"},
                                 {"input_scale", "float", "1"},
                                 {"input_offset", "float", "1"},
                                 {"quant_bias", "I32", "N"},
                                 {"deq_scale", "any", "N"},
                                 {"weight_scale", "float", "N 1", Need::optional},
                                 {"weight_offset", "float", "N 1", Need::optional}};
constexpr Param kSlimDynamic[] = {
    {"weight", "I8", "N K"}, {"weight_scale", "float", "N 1"}, {"weight_offset", "float", "N 1"}};
constexpr Param kSlimW4a8[] = {{"weight", "I8", "N/2 K"},
                               {"weight_scale", "float", "N 1"},
                               {"weight_offset", "float", "N 1"},
                               {"scale_bias", "float", "*"}};

// reference: modelopt 1.6, 4.1, 4.3
constexpr Param kOptFp8[] = {
    {"weight", "F8_E4M3", "N K"}, {"weight_scale", "F32", "1"}, {"input_scale", "F32", "1"}};
constexpr Param kOptFp8Channel[] = {{"weight", "F8_E4M3", "N K"}, {"weight_scale", "F32", "N"}};
constexpr Param kOptFp8Block[] = {{"weight", "F8_E4M3", "N K"},
                                  {"weight_scale", "F32", "NB 1 KB 1"}};
constexpr Param kOptNvfp4[] = {{"weight", "U8", "N K/2"},
                               {"weight_scale", "F8_E4M3", "N K/16"},
                               {"weight_scale_2", "F32", "1"},
                               {"input_scale", "F32", "1", Need::static_in}};
constexpr Param kOptNvfp4Awq[] = {{"weight", "U8", "N K/2"},
                                  {"weight_scale", "F8_E4M3", "N K/16"},
                                  {"weight_scale_2", "F32", "1"},
                                  {"input_scale", "F32", "1", Need::static_in},
                                  {"pre_quant_scale", "model", "K", Need::optional}};
constexpr Param kOptMxfp8[] = {{"weight", "F8_E4M3", "N K"}, {"weight_scale", "U8", "N K/32"}};
constexpr Param kW4afp8Expert[] = {
    {"weight", "I8", "N K/2"}, {"weight_scale_inv", "F32", "N G"}, {"input_scale", "F32", "1"}};

constexpr ParamSet kSets[] = {
    {"ct-pack", kCtPack},
    {"ct-pack-ascend", kCtPackAscend},
    {"ct-int-tensor", kCtIntTensor},
    {"ct-int-channel", kCtIntChannel},
    {"ct-int-group", kCtIntGroup},
    {"ct-fp8-tensor", kCtFp8Tensor},
    {"ct-fp8-channel", kCtFp8Channel},
    {"ct-fp8-block", kCtFp8Block},
    {"ct-nvfp4", kCtNvfp4},
    {"ct-mxfp4", kCtMxfp4},
    {"ct-mxfp8", kCtMxfp8},
    {"gptq", kGptq},
    {"awq", kAwq},
    {"bnb4", kBnb4},
    {"bnb8", kBnb8},
    {"fp8-block", kFp8Block},
    {"fp8-tensor", kFp8Tensor},
    {"fp8-mx", kFp8Mx},
    {"int8-row", kInt8Row},
    {"int8-block", kInt8Block},
    {"fp8-row", kFp8Row},
    {"quark-fp8-channel", kQuarkFp8Channel},
    {"quark-mxfp4", kQuarkMxfp4},
    {"modelslim-static", kSlimStatic},
    {"modelslim-dynamic", kSlimDynamic},
    {"modelslim-w4a8", kSlimW4a8},
    {"modelopt-fp8", kOptFp8},
    {"modelopt-fp8-channel", kOptFp8Channel},
    {"modelopt-fp8-block", kOptFp8Block},
    {"modelopt-nvfp4", kOptNvfp4},
    {"modelopt-nvfp4-awq", kOptNvfp4Awq},
    {"modelopt-mxfp8", kOptMxfp8},
    {"w4afp8-expert", kW4afp8Expert},
};

uint64_t cdiv(uint64_t a, uint64_t b) { return b == 0 ? 0 : (a + b - 1) / b; }

template <class Visit>
void each_word(std::string_view text, Visit visit) {
  for (size_t at = 0; at < text.size();) {
    size_t end = std::min(text.find(' ', at), text.size());
    visit(text.substr(at, end - at));
    at = end + 1;
  }
}

uint64_t number(std::string_view word) {
  uint64_t n = 0;
  for (char c : word) n = 10 * n + static_cast<uint64_t>(c - '0');
  return n;
}

// A dimension's size; 0 when it is not known.
uint64_t size_of(std::string_view word, const Scheme& s, Dims d) {
  auto bits = static_cast<uint64_t>(s.bits);
  if (word == "N") return d.n;
  if (word == "K") return d.k;
  if (word == "G") return s.group == 0 ? 1 : cdiv(d.k, s.group);
  if (word == "NB") return cdiv(d.n, s.block_n);
  if (word == "KB") return cdiv(d.k, s.block_k);
  if (word == "K*b/32") return cdiv(d.k * bits, 32);
  if (word == "N*b/32") return cdiv(d.n * bits, 32);
  if (word.starts_with("K/")) return cdiv(d.k, number(word.substr(2)));
  if (word.starts_with("N/")) return cdiv(d.n, number(word.substr(2)));
  return number(word);
}

// What a stored size says of N or K, when it says it exactly.
uint64_t back(std::string_view word, const Scheme& s, uint64_t size) {
  if (word == "N" || word == "K") return size;
  if (word.substr(1) == "*b/32") return s.bits == 0 ? 0 : size * 32 / static_cast<uint64_t>(s.bits);
  if (word.size() > 2 && word[1] == '/') return size * number(word.substr(2));
  return 0;
}

bool mentions(std::string_view shape, char dim) {
  bool found = false;
  each_word(shape,
            [&](std::string_view w) { found |= w.front() == dim || (w == "G" && dim == 'K'); });
  return found;
}

}  // namespace

const ParamSet& param_set(std::string_view name) {
  for (const ParamSet& set : kSets) {
    if (set.name == name) return set;
  }
  throw defect_error("no parameters called " + std::string(name));
}

bool needed(const Param& p, const Scheme& s) {
  switch (p.need) {
    case Need::always: return true;
    case Need::asymmetric: return !s.symmetric;
    case Need::act_order:
    case Need::if_ordered: return s.act_order;
    case Need::static_in: return s.static_in;
    case Need::optional:
    case Need::fallback: break;
  }
  return false;
}

bool created(const Param& p, const Scheme& s) {
  bool always = p.need == Need::optional || p.need == Need::fallback || p.need == Need::if_ordered;
  return always || needed(p, s);
}

std::optional<Shape> shape_of(const Param& p, const Scheme& s, Dims dims) {
  if (p.shape == "*") return std::nullopt;
  Shape out;
  bool known = true;
  each_word(p.shape, [&](std::string_view w) {
    uint64_t n = size_of(w, s, dims);
    known &= n != 0 && out.push(n);
  });
  return known ? std::optional(out) : std::nullopt;
}

bool fits(const Param& p, const Shape& stored, const Shape& expected) {
  if (p.shape == "1") return stored.rank() <= 1 && stored.elements() == 1;
  return stored == expected;
}

Dims dims_from(const Param& p, const Scheme& s, const Shape& stored) {
  Dims out;
  size_t i = 0;
  each_word(p.shape, [&](std::string_view w) {
    if (i < stored.rank()) {
      uint64_t n = back(w, s, stored[i]);
      if (n != 0 && w.front() == 'N') out.n = n;
      if (n != 0 && w.front() == 'K') out.k = n;
    }
    ++i;
  });
  return out;
}

bool along_n(const Param& p) { return mentions(p.shape, 'N'); }
bool along_k(const Param& p) { return mentions(p.shape, 'K'); }

}  // namespace qp::target
