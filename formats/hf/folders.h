// Parts of a checkpoint in folders of their own (transformer/, transformer_2/ of a pipeline): one
// Model, whose tensors are named FOLDER/NAME. '/' occurs in no name inside a part, so names tell
// the folder. A part by itself is a checkpoint like any other, so every family reads and writes it.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/format.h"

namespace qp {

// "transformer" of "transformer/proj_out.weight"; "" for a tensor of no folder.
std::string_view folder_of(std::string_view tensor);

// The folders that tensors are in, in the order of the tensors.
std::vector<std::string> folders_of(const Model& model);

// Adds what was loaded from a folder: tensors, companions and dropped names under FOLDER/.
void add_folder(Model& whole, Model part, const std::string& folder);

// The other way: the part as if its folder had been loaded alone. Extents keep their meaning.
Model folder_view(const Model& whole, const std::string& folder);

// The plan of every part by `plan`, joined; what is in no folder of tensors is copied. Errors:
// those of `plan`, with the tensor's full name.
ExportPlan plan_folders(const Store& store, const std::function<ExportPlan(const Store&)>& plan);

// What qexport writes in a format: by folders where the model has them, under the names that the
// component's library uses for weights. Errors: usage, limit.
ExportPlan plan_export(const Format& format, const Store& store, const ExportOptions& options);

}  // namespace qp
