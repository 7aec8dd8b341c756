#include "formats/diffusers.h"

#include <algorithm>

#include "formats/hf/folders.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/model/modules.h"
#include "lib/qmap/store.h"

namespace qp {
namespace {

constexpr uint64_t kMaxIndex = uint64_t{16} << 20;

// One component of a path, inside the directory and not hidden.
bool is_folder_name(std::string_view s) {
  return !s.empty() && s.front() != '.' && s.find_first_of(std::string_view("/\\\0", 3)) == s.npos;
}

std::string label_of(const Directory& d, const PipelineComponent& c) {
  return d.full(c.folder);
}

void check_transformer(const Directory& d, const PipelineComponent& c) {
  if (!has_component(d, c)) {
    throw input_error("is named by model_index.json, but it is not there")
        .file(label_of(d, c))
        .hint("the download is incomplete; fetch it again");
  }
  if (d.has(c.folder + "/" + kModelIndex)) {
    throw input_error("is a pipeline inside a pipeline").file(label_of(d, c));
  }
  if (!d.has(c.folder + "/config.json")) {
    throw input_error("has no config.json")
        .file(label_of(d, c))
        .hint("the download is incomplete; fetch it again");
  }
}

Model load_transformer(const Directory& d, const PipelineComponent& c, const LoadOptions& options) {
  check_transformer(d, c);
  Model m = load_checkpoint(d.full(c.folder), options);
  if (!is_diffusion_model(m.config)) {
    throw input_error("has no '_class_name', which diffusers writes")
        .file(label_of(d, c) + "/config.json");
  }
  for (const Tensor& t : m.tensors) {
    if (t.name.find('/') != t.name.npos) {
      throw input_error("'/' in a tensor's name has no meaning inside a pipeline")
          .file(label_of(d, c))
          .tensor(t.name);
    }
  }
  return m;
}

// The family in which engines take such a transformer: diffusers loads torchao's and bitsandbytes',
// SGLang the others.
std::string_view family_of(const Scheme& s) {
  for (std::string_view own : {"torchao", "bitsandbytes"}) {
    if (s.numerics == own)
      return own;
  }
  Strategy strategy = s.weights.strategy;
  if (s.code_kind() == CodeKind::codebook)
    return "bitsandbytes";
  if (s.code_kind() == CodeKind::e2m1 && s.scale_kind() == ScaleKind::e4m3_global)
    return "modelopt";
  bool blocks = strategy == Strategy::tensor || strategy == Strategy::block;
  return s.code_kind() == CodeKind::e4m3 && blocks ? "fp8" : "modelslim";
}

// -f diffusers
ExportPlan plan(const Store& store, const ExportOptions& options) {
  const Model& m = store.model();
  if (!is_diffusion_model(m.config)) {
    throw usage_error("is no diffusers pipeline and no component of one")
        .file(store.label())
        .hint("qexport --list-formats shows what other models are written in");
  }
  auto quantized = std::ranges::find_if(m.tensors, &Tensor::quantized);
  std::string_view family = "safetensors";
  if (quantized != m.tensors.end() && quantized->scheme >= 0) {
    family = family_of(m.schemes[static_cast<size_t>(quantized->scheme)]);
  }
  return find_format(family)->plan(store, options);
}

}  // namespace

Pipeline read_pipeline(const Directory& d) {
  std::string path = d.full(kModelIndex);
  Json json = parse_json(read_text_file(path, kMaxIndex), path);
  if (!json.is_object())
    throw input_error("is no JSON object").file(path);
  Pipeline out;
  out.type = json_string(json, "_class_name", "");
  for (const auto& [name, value] : json.items()) {
    // What is no [library, class] is an option of the pipeline.
    if (name.starts_with('_') || !value.is_array() || value.size() < 2 || !value[1].is_string())
      continue;
    if (!is_folder_name(name)) {
      throw input_error("its component '" + printable(name) + "' leaves the directory").file(path);
    }
    out.components.push_back({name, value[1].get<std::string>()});
  }
  return out;
}

bool has_component(const Directory& d, const PipelineComponent& c) {
  std::string in = c.folder + "/";
  auto it = std::ranges::lower_bound(d.files, in);
  return it != d.files.end() && it->starts_with(in);
}

Model load_pipeline(const Directory& d, const LoadOptions& options) {
  Pipeline pipeline = read_pipeline(d);
  Model out;
  out.format = "diffusers";
  out.architecture = pipeline.type;
  std::vector<std::string> read;
  for (const PipelineComponent& c : pipeline.components) {
    if (c.transformer()) {
      add_folder(out, load_transformer(d, c, options), c.folder);
      read.push_back(c.folder + "/");
    } else if (!has_component(d, c)) {
      options.warn(d.path + ": model_index.json names " + printable(c.folder) +
                   ", which is not there");
    }
  }
  if (read.empty()) {
    throw input_error("names no transformer")
        .file(d.full(kModelIndex))
        .hint("pipelines around a UNet are not supported; give the directory of one of its models");
  }
  for (const std::string& name : d.files) {
    if (std::ranges::any_of(read, [&](const std::string& in) { return name.starts_with(in); }))
      continue;
    if (name.find('/') == name.npos && is_weight_file(name)) {
      out.dropped.emplace_back(name, "in no component's folder: the same weights in another form");
    } else {
      add_companion(d, name, out);
    }
  }
  return out;
}

const Format& diffusers_format() {
  static const Format format = {"diffusers",
                                "a pipeline, its transformers in the family that fits their scheme",
                                plan, "", nullptr};
  return format;
}

}  // namespace qp
