// How a layer is quantized, as an engine's loader sees it: which parameters it creates, of which
// shapes and dtypes.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "lib/tensor/dtype.h"

namespace qp::target {

// What happens to a parameter that no tensor fills.
enum class Need : uint8_t {
  always,      // uninitialised
  asymmetric,  // the same, where the scheme has zero points
  act_order,   // the same, where columns have an order
  if_ordered,  // the same, and it may be there without one
  static_in,   // the same, where inputs have a stored scale
  optional,    // the engine does without
  fallback,    // it starts as 1.0 (or ones)
};

// One parameter of a linear. Dimensions are words: N and K of the weight, G groups along K, NB and
// KB blocks, "K*b/32" words of codes, "K/2"; "1": one element of any rank up to 1; "*": anything.
struct Param {
  std::string_view suffix;
  std::string_view dtype;  // of safetensors; "model": the model's float; "float": any
  std::string_view shape;
  Need need = Need::always;
};

struct ParamSet {
  std::string_view name;
  std::span<const Param> params;
};
// Errors: defect, when there is none.
const ParamSet& param_set(std::string_view name);

struct Scheme {
  std::string_view params;   // name of a ParamSet
  std::string_view support;  // row of the engine's support table
  int bits = 16;
  uint64_t group = 0;  // along K; 0: one per row
  uint64_t block_n = 0, block_k = 0;
  bool symmetric = true, act_order = false, static_in = false;
  bool operator==(const Scheme&) const = default;
};

// Weight dimensions; 0 while not known.
struct Dims {
  uint64_t n = 0, k = 0;
};

bool needed(const Param& param, const Scheme& scheme);
// Whether the engine creates it at all.
bool created(const Param& param, const Scheme& scheme);
// The parameter's shape. Nothing for "*", or when a dimension it needs is not known.
std::optional<Shape> shape_of(const Param& param, const Scheme& scheme, Dims dims);
// Whether a stored shape fits: equal, or one element where one is wanted.
bool fits(const Param& param, const Shape& stored, const Shape& expected);
// N and K that a stored tensor implies; 0 what it does not tell.
Dims dims_from(const Param& param, const Scheme& scheme, const Shape& stored);
// Which of its dimensions come from N (column-parallel layers cut them) or from K (row-parallel).
bool along_n(const Param& param);
bool along_k(const Param& param);

}  // namespace qp::target
