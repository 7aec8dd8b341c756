// What an engine sees of a checkpoint before it reads a weight: names, dtypes, shapes, configs.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/json.h"
#include "lib/tensor/dtype.h"

namespace qp::target {

struct StoredTensor {
  std::string name;
  DType dtype = DType::u8;
  Shape shape;
  uint64_t bytes = 0;
};

struct Checkpoint {
  std::string path;
  std::vector<StoredTensor> tensors;
  Json config;         // config.json, or null
  std::string method;  // quant_method in lower case; "" when none is declared
  std::string place;   // where the quantization is declared: "config.json quantization_config"
  Json quant;          // that object, or null
  // The value of tensor i, an F32 of one element; nothing when it is none, or cannot be read. Null:
  // there are headers alone.
  std::function<std::optional<float>(uint32_t i)> scalar;
};

}  // namespace qp::target
