// Which GGUF tensors a model with Hugging Face's names makes, and of which of its values. The same
// for float tensors and for ggml blocks: rows move whole, and blocks run along them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "lib/ggml/family.h"
#include "lib/qmap/model.h"

namespace qp::ggml {

// Elements of a tensor: element (i0, i1, ..) of `shape` is element first + sum(ik * strides[k]) of
// it, in row-major order. No strides: all of it, in order.
struct View {
  Shape shape;
  uint64_t first = 0;
  std::vector<uint64_t> strides;
};

struct Piece {
  size_t tensor;  // in Model::tensors
  Op op;
  View view;      // of Tensor::coded_shape() when the tensor is quantized, else of its shape
};

// One tensor of the GGUF: its pieces one after the other.
struct MappedTensor {
  std::string name;
  Shape shape;  // PyTorch order: [experts, out, in]
  std::vector<Piece> pieces;
  bool plus_one = false;  // values + 1
};

struct TensorMap {
  std::vector<MappedTensor> tensors;  // in llama-quantize's order (reference/gguf.md 15.37)
  std::vector<std::pair<size_t, std::string>> dropped;  // tensors without a place, and why
};

// The family of a model by its config.json. Errors: limit, when llama.cpp's name for it is not
// known here (naming those that are).
const Family& family_of(const Model& model);

// Errors: input, naming the tensor: it has no place in the GGUF, has a shape that does not fit
// config.json, or an expert is missing; limit: a quantized tensor would have to be taken apart
// inside its blocks.
TensorMap map_tensors(const Model& model, const Family& family);

// The other way: where the values of a GGUF tensor go.
struct HfTarget {
  // "model.layers.3.mlp.experts.*.up_proj.weight": a tensor for each expert, or of one tensor.
  std::string name;
  Op op = Op::plain;
  bool experts = false;  // `name` has the '*'
  std::optional<uint64_t> layer;
};
class HfNames {
 public:
  explicit HfNames(const Family& family);
  std::optional<HfTarget> find(std::string_view gguf_name) const;

 private:
  struct Row {
    std::string hf;
    Op op;
  };
  std::string_view stack_, prefix_;
  std::unordered_map<std::string, Row> model_, layer_;
};

// Whether llama.cpp wants a tensor in F32, whatever the file's type: norms, routers, biases ..
bool always_f32(std::string_view gguf_name, const Shape& shape);

}  // namespace qp::ggml
