// model.safetensors.index.json, read as it goes by: an index has 100,000 entries.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace qp {

struct WeightIndex {
  std::vector<std::pair<std::string, std::string>> weight_map;  // tensor -> file; "" for what names none
  std::optional<double> total_size;                             // of its metadata
};

// Errors: input, naming `path`: no JSON, nested too deep, no object 'weight_map', a tensor twice.
WeightIndex parse_weight_index(const std::string& text, const std::string& path);

}  // namespace qp
