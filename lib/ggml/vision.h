// The vision part of a model as llama.cpp has it, in a file of its own ("mmproj"): names, cuts,
// types and metadata. Facts: llama.cpp's conversion/qwenvl.py, gemma.py and base.py, June 2026.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "lib/ggml/tensor_map.h"
#include "lib/tensor/dtype.h"

namespace qp::ggml {

struct VisionTensor {
  MappedTensor mapped;
  DType dtype;  // F32, F16 or BF16
};

struct VisionMap {
  std::vector<VisionTensor> tensors;  // in the model's order
  std::vector<std::pair<size_t, std::string>> dropped;
  DType dtype = DType::f32;  // of the matrices
};

// Errors: limit (an architecture whose vision part is not known, quantized tensors), input (names
// or shapes that do not fit).
VisionMap map_vision(const Model& model);

// clip.* keys. `preprocessor`: preprocessor_config.json and processor_config.json in one object.
// Errors: input, what is missing or wrong.
void describe_vision(const Model& model, const Json& preprocessor, Metadata& out);

}  // namespace qp::ggml
