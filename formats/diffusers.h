// Diffusers pipelines: a folder per component, named by model_index.json. The transformers
// (transformer/, Wan 2.2's transformer_2/) are read and written, everything else is carried.
#pragma once

#include <string>
#include <vector>

#include "formats/format.h"
#include "formats/hf/directory.h"

namespace qp {

constexpr const char* kModelIndex = "model_index.json";

// A component that model_index.json names, with its class ("FluxTransformer2DModel"). Components
// that it gives as [null, null] are left out.
struct PipelineComponent {
  std::string folder, type;
  bool transformer() const { return folder.starts_with("transformer"); }
};
struct Pipeline {
  std::string type;  // _class_name: "FluxPipeline"
  std::vector<PipelineComponent> components;
};

// Reads model_index.json. Errors: input (no JSON object, a component that is no folder's name).
Pipeline read_pipeline(const Directory& directory);

// Some file of the component is there.
bool has_component(const Directory& directory, const PipelineComponent& component);

// All transformers as one model (formats/hf/folders.h), each read as its directory alone would be;
// every other file of the pipeline is a companion, weights of VAE and text encoders included.
// Errors: input (no transformer, its folder or config.json is missing), those of loading a folder.
Model load_pipeline(const Directory& directory, const LoadOptions& options);

}  // namespace qp
