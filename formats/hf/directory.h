// A checkpoint directory: which files carry weights, which travel along.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "formats/format.h"

namespace qp {

// What diffusers calls a component's weights; transformers calls them "model".
constexpr const char* kDiffusersWeights = "diffusion_pytorch_model";

struct Directory {
  std::string path;                // absolute
  std::vector<std::string> files;  // relative, sorted; files in hidden folders left out

  bool has(std::string_view name) const;
  // Top-level files that match a shell pattern with '*' ("*.safetensors").
  std::vector<std::string> glob(std::string_view pattern) const;
  std::string full(std::string_view name) const { return path + "/" + std::string(name); }
};

// Errors: system, input (not a directory).
Directory read_directory(const std::string& path);

bool glob_match(std::string_view pattern, std::string_view name);

// True for files that hold weights in some container (safetensors, bin, pt, pth, gguf, h5,
// msgpack, onnx ..) and for their indexes and checksums.
bool is_weight_file(std::string_view name);

// Adds every other file of the directory to the model, as references. Files over 1 GiB are left
// out and said so in Model::dropped.
void add_companions(const Directory& directory, Model& model);
// One file of the directory as a companion, whatever it is.
void add_companion(const Directory& directory, const std::string& name, Model& model);

// The index of safetensors shards, "" when there is none.
std::string_view weights_index(const Directory& directory);

// The safetensors of a directory without an index: not Mistral's consolidated*.safetensors beside
// the same weights in HF names, not NAME.fp16.safetensors (a variant) beside NAME.safetensors.
std::vector<std::string> unindexed_safetensors(const Directory& directory);

// weight_map of an index.json: tensor -> file. Errors: input (escaping names, no weight_map).
std::vector<std::pair<std::string, std::string>> read_index(const Directory& directory,
                                                            std::string_view index_name);

// The model's file number (Extent::file) for a path, added when new.
uint32_t file_number(Model& model, const MappedFile& file);

}  // namespace qp
