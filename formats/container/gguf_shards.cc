#include "formats/container/gguf_shards.h"

#include "formats/container/gguf_writer.h"
#include "lib/base/error.h"

namespace qp {
namespace {

constexpr uint64_t kMaxShards = 99999;  // five digits

void add(const std::string& path, GgufShards& files) {
  files.mappings.push_back(MappedFile::open(path));
  files.shards.push_back(parse_gguf(files.mappings.back()->bytes(), path));
}

}  // namespace

GgufShards open_gguf(const std::string& path) {
  GgufShards files;
  add(path, files);
  return files;
}

void open_other_shards(const std::string& path, GgufShards& files) {
  uint64_t count = files.shards[0].uint_at("split.count").value_or(1);
  uint64_t number = files.shards[0].uint_at("split.no").value_or(0);
  auto expected = files.shards[0].uint_at("split.tensors.count");
  if (count <= 1) return;
  if (count > kMaxShards) {
    throw input_error("claims to be one of " + std::to_string(count) + " shards").file(path);
  }
  if (number != 0) {
    throw input_error("is shard " + std::to_string(number + 1) + " of " + std::to_string(count))
        .file(path)
        .hint("give the first one, named ..." + gguf_shard_name("", 1, count));
  }
  std::string suffix = gguf_shard_name("", 1, count);
  if (!path.ends_with(suffix)) {
    throw input_error("is the first of " + std::to_string(count) +
                      " shards, but its name does not say where the others are")
        .file(path)
        .hint("rename it to end in " + suffix);
  }
  std::string prefix = path.substr(0, path.size() - suffix.size());
  for (uint64_t i = 1; i < count; ++i) {
    add(gguf_shard_name(prefix, i + 1, count), files);
    const GgufFile& shard = files.shards.back();
    if (shard.uint_at("split.no") != i || shard.uint_at("split.count") != count) {
      throw input_error("is not shard " + std::to_string(i + 1) + " of " + std::to_string(count) +
                        " (its split.no or split.count differs)")
          .file(shard.path);
    }
  }
  uint64_t found = 0;
  for (const GgufFile& shard : files.shards) found += shard.tensors.size();
  if (expected && *expected != found) {
    throw input_error("shards hold " + std::to_string(found) + " tensors (expected " +
                      std::to_string(*expected) + ")")
        .file(path);
  }
}

}  // namespace qp
