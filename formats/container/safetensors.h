// The safetensors container: header parsing with every check of the reference, and header writing.
// Layout and checks: reference/architectures.md section 8.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/file.h"
#include "lib/tensor/dtype.h"

namespace qp {

struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::u8;
  Shape shape;
  uint64_t begin = 0, end = 0;  // relative to the data section
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // in the order of the data
  std::map<std::string, std::string> metadata;
  uint64_t data_offset = 0;  // of the data section in the file
};

// Errors: input, naming `path` and the tensor: truncated, oversized, overlapping, wrong sizes,
// duplicate names, unknown dtypes, extra bytes.
SafetensorsHeader parse_safetensors(std::span<const std::byte> file, std::string_view path);

// Header bytes (length prefix and padding included) for tensors stored back to back in this order;
// begin and end are filled in. Metadata is "format": "pt" and what is given.
std::string safetensors_header(std::vector<SafetensorsEntry>& entries,
                               std::span<const std::pair<std::string, std::string>> metadata = {});

}  // namespace qp
