// Weights of a checkpoint directory or file, as tensors that refer to byte ranges.
#pragma once

#include <string>
#include <vector>

#include "formats/format.h"
#include "formats/hf/directory.h"

namespace qp {

// Adds the tensors of one safetensors / PyTorch file. `wanted` restricts to the tensors an index
// assigns to this file (null: all). Tensors that are there but not wanted go to Model::dropped.
using Wanted = std::vector<std::string>;
void add_safetensors(const std::string& path, const Wanted* wanted, const LoadOptions& options,
                     Model& model);
void add_pytorch(const std::string& path, const Wanted* wanted, const LoadOptions& options,
                 Model& model);

using AddFile = void (*)(const std::string&, const Wanted*, const LoadOptions&, Model&);
// All shards an index names, each checked to hold what the index promises.
void add_indexed(const Directory& directory, std::string_view index, AddFile add,
                 const LoadOptions& options, Model& model);

// A float tensor cast to options.dtype when it is read.
void apply_dtype(Part& part, DType& dtype, const LoadOptions& options);

}  // namespace qp
