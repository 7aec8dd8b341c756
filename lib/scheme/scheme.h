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

enum class NumType : uint8_t { integer, floating };  // "int", "float"
// tensor: one scale; channel: one per row; group: per group_size columns of a row; block: per
// rows x cols tile; tensor_group: group scales under one global scale; token: per activation row.
enum class Strategy : uint8_t { tensor, channel, group, block, tensor_group, token };
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
  bool operator==(const QuantArgs&) const = default;
};

// How weights are held in the canonical form. Derived from QuantArgs, never stored.
enum class CodeKind : uint8_t { integer, e4m3, e2m1 };
enum class ScaleKind : uint8_t { source, e4m3_global, e8m0 };

struct Scheme {
  std::string name;                              // of the preset, for people
  std::string numerics = "compressed-tensors";  // whose arithmetic chose the numbers
  QuantArgs weights;
  std::optional<QuantArgs> input_activations;
  bool operator==(const Scheme&) const = default;

  CodeKind code_kind() const;
  ScaleKind scale_kind() const;
  // Columns that share a scale in a row of `cols` (cols itself for tensor and channel).
  uint64_t group_of(uint64_t cols) const;
  // Bits per weight, scales included, for a matrix of this shape and source dtype.
  double bits_per_weight(const Shape& shape, DType source) const;
};

// Parts of a tensor in canonical form (design.md section 3). Names are on disk: never rename.
enum class Role : uint8_t {
  data,          // a float tensor's elements
  codes,         // unsigned codes, little-endian bit stream per row; U8 [rows, ceil(cols*b/8)]
  scale,         // source dtype, F8_E4M3 or F8_E8M0; multiplied; see scale_shape()
  zero_point,    // U8, unit of the unsigned codes, shape of scale
  global_scale,  // F32 [1]; value = code * scale / global_scale (compressed-tensors' sense)
  input_scale,
  input_global_scale,
  g_idx,
  blocks,        // native ggml blocks; U8 [rows, bytes per row]
};
std::string_view name_of(Role role);
std::optional<Role> role_from_name(std::string_view name);

struct PartSpec {
  Role role;
  DType dtype;
  Shape shape;
};
// The parts of a weight of `shape` (>= 2 dimensions) and float dtype `source` under a scheme.
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
