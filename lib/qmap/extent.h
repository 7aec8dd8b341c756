// A range of bytes of a qmap or of a file that it refers to.
#pragma once

#include <cstdint>
#include <optional>

namespace qp {

// A byte range. file 0 is the qmap itself (inline); file i > 0 is Model::files[i - 1]; file
// kBlob is Model::blobs[offset], which only exists in memory: writers store it inline.
constexpr uint32_t kBlob = 0xffffffff;
struct Extent {
  uint32_t file = 0;
  uint64_t offset = 0;
  uint64_t length = 0;           // bytes stored
  std::optional<uint64_t> xxh3;  // of the bytes stored; every inline extent has it
  bool zstd = false;             // stored as independent zstd frames (man/qmap.5, COMPRESSION)
};

}  // namespace qp
