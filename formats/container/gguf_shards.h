// A GGUF with its other shards, if it has any.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "formats/container/gguf.h"
#include "lib/base/file.h"

namespace qp {

struct GgufShards {
  std::vector<std::shared_ptr<const MappedFile>> mappings;
  std::vector<GgufFile> shards;
};

GgufShards open_gguf(const std::string& path);
// The others of a first shard. Errors: input, one that does not belong to it; system, one is
// missing.
void open_other_shards(const std::string& path, GgufShards& files);

}  // namespace qp
