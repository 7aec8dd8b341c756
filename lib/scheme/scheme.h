// What the numbers of a quantized tensor mean. Pure description: no loops over data.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/json.h"
#include "lib/tensor/dtype.h"

namespace qp {

enum class NumType : uint8_t { integer, floating, codebook };  // "int", "float", "codebook"
// tensor: one scale; channel: one per row; group: per group_size columns of a row; block: per
// rows x cols tile; tensor_group: group scales under one global scale; token: per activation row;
// flat: per group_size elements of the whole matrix, across rows (bitsandbytes).
enum class Strategy : uint8_t { tensor, channel, group, block, tensor_group, token, flat };
enum class Dynamic : uint8_t { no, yes, local };

std::string_view name_of(NumType type);
std::string_view name_of(Strategy strategy);
std::optional<Strategy> strategy_from_name(std::string_view name);

// One side of a scheme; the fields of compressed-tensors' QuantizationArgs that change numbers.
struct QuantArgs {
  int num_bits = 8;
  NumType type = NumType::integer;
  bool symmetric = true;
  Strategy strategy = Strategy::tensor;
  int group_size = 0;                  // columns per scale for group and tensor_group
  int block_rows = 0, block_cols = 0;  // for block
  Dynamic dynamic = Dynamic::no;
  std::optional<DType> scale_dtype;  // none: the dtype of the weight
  bool amax_scale = false;           // a stored scale s stands for s / 127 (bitsandbytes' SCB)
  // Scales are 8-bit codes under scales of 256 of their own (bitsandbytes' double quantization).
  bool nested_scale = false;
  // Scales stand under one of the whole tensor, its amax / 448 (Quark's INT4 under FP8).
  bool fp8_stage = false;
  bool operator==(const QuantArgs&) const = default;
};

// How weights are held in the canonical form. Derived from QuantArgs, never stored.
enum class CodeKind : uint8_t { integer, e4m3, e2m1, codebook };
enum class ScaleKind : uint8_t { source, e4m3_global, e8m0 };

struct Scheme {
  std::string name;                              // of the preset, for people
  std::string numerics = "compressed-tensors";  // whose arithmetic chose the numbers
  QuantArgs weights;
  std::optional<QuantArgs> input_activations;
  // A ggml type ("q4_k"): weights are its blocks, and `weights` and `numerics` say nothing.
  std::string ggml = {};
  bool operator==(const Scheme&) const = default;

  CodeKind code_kind() const;
  ScaleKind scale_kind() const;
  // Columns that share a scale in a row of `cols` (cols itself for tensor and channel).
  uint64_t group_of(uint64_t cols) const;
  // Bits per weight, scales included, for a matrix of this shape and source dtype.
  double bits_per_weight(const Shape& shape, DType source) const;
};

// Parts of a tensor in canonical form (design.md section 3). Names are on disk: never rename.
// value = (code - zero_point) * scale * scale_2 / global_scale + offset, then * pre_scale[column].
enum class Role : uint8_t {
  data,          // a float tensor's elements
  codes,         // unsigned codes, little-endian bit stream per row; U8 [rows, ceil(cols*b/8)]
  scale,         // source dtype, F8_E4M3 or F8_E8M0; multiplied; see scale_shape(). U8: an index, see nested_scale
  zero_point,    // U8, unit of the unsigned codes, shape of scale
  global_scale,  // F32 [1]; value = code * scale / global_scale (compressed-tensors' sense)
  input_scale,   // of the activations, multiplied; a float, [1]
  input_global_scale,  // the same, divided (compressed-tensors' NVFP4)
  g_idx,         // I32 [cols]: the group of each column, when it is not column / group_size
  blocks,        // native ggml blocks; U8 [rows, bytes per row]
  scale_2,       // a float, [1] or [rows, 1]: second stage, multiplied (ModelOpt's weight_scale_2)
  offset,        // a float, shape of scale: added (torchao's zero_point in its plain int4)
  pre_scale,     // a float, [cols]: the input is multiplied by it (ModelOpt's pre_quant_scale)
  input_zero_point,  // a float or integer, [1]: in the unit of the signed codes
  codebook,      // F32 [2^bits]: the value of each code
  nested_scale,  // F32 per 256 scales; scale = nested_codebook[index] * nested_scale + nested_offset
  nested_codebook,  // F32 [256]
  nested_offset,    // F32 [1]
  requantize_scale,  // F32 [1]: carried for engines, no part of the value (ModelOpt's W4A8)
};
std::string_view name_of(Role role);
std::optional<Role> role_from_name(std::string_view name);

struct PartSpec {
  Role role;
  DType dtype;
  Shape shape;
};
// The parts that a weight of `shape` (>= 2 dimensions) and float dtype `source` must have under a
// scheme; others are optional. NVFP4's second stage is a global_scale in compressed-tensors'
// numerics and a scale_2 in all others.
std::vector<PartSpec> part_specs(const Scheme& scheme, const Shape& shape, DType source);
// tensor: [1]; channel: [rows, 1]; group: [rows, ceil(cols/group)]; block: [ceil(rows/bh), ceil(cols/bw)].
Shape scale_shape(const QuantArgs& weights, const Shape& shape);
// Why this scheme cannot hold a matrix of this shape, or "" when it can: the text completes
// "cannot be quantized: ..." and says what to do.
std::string why_not(const Scheme& scheme, const Shape& shape);

Json to_json(const QuantArgs& args);
Json to_json(const Scheme& scheme);
// Errors: input, naming the key.
QuantArgs quant_args_from_json(const Json& json);
Scheme scheme_from_json(const Json& json);

}  // namespace qp
