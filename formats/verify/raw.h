// A safetensors checkpoint directory as it lies on disk, before any format gave it a meaning.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/json.h"
#include "lib/tensor/dtype.h"
#include "lib/verify/numbers.h"

namespace qp {

struct RawTensor {
  std::string name;
  DType dtype = DType::u8;
  Shape shape;
  uint64_t bytes = 0;
  uint32_t file = 0;  // into RawCheckpoint::files
  uint64_t offset = 0;  // of its first byte in that file
};

struct RawCheckpoint {
  std::string path;
  std::vector<std::string> files;   // shards, as the loader would take them
  std::vector<RawTensor> tensors;   // that count: named by the index, where there is one
  Json config;                      // config.json, or null
};

// Reads headers and config; what is wrong with them, and between index and shards, is added to
// `findings` (rules: config, index, missing-shard, shard, shard-names, missing-tensor, stray-tensor,
// duplicate-tensor, stray-shard, total-size, metadata-format). Only problems of the operating
// system other than missing shards are thrown.
RawCheckpoint read_raw(const std::string& directory, std::vector<Finding>& findings);

}  // namespace qp
