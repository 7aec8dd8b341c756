// qexport -f mmproj: the vision part of a model, as llama.cpp loads it beside the language model.
#include <map>
#include <set>

#include "formats/gguf.h"
#include "formats/gguf/write.h"
#include "lib/base/error.h"
#include "lib/ggml/vision.h"
#include "lib/qmap/store.h"

namespace qp {
namespace {

constexpr uint64_t kMaxFile = 1 << 20;

const GgmlType& type_for(DType dtype) {
  return *ggml_type(dtype == DType::f16 ? "f16" : dtype == DType::bf16 ? "bf16" : "f32");
}

// What preparing an image takes: the newer file's settings before the older's.
Json preprocessor_of(const Store& store) {
  Json all = Json::object();
  for (auto [file, inner] : {std::pair("preprocessor_config.json", "media_proc_cfg"),
                             std::pair("processor_config.json", "image_processor")}) {
    const Companion* c = store.model().companion(file);
    if (c == nullptr || c->extent.length > kMaxFile) continue;
    Json config = parse_json(store.text(c->extent), file);
    if (!config.is_object()) throw input_error("is no JSON object").file(file);
    all.update(config);
    if (auto it = config.find(inner); it != config.end() && it->is_object()) all.update(*it);
  }
  return all;
}

GgufPlan plan_mmproj(const Store& store, const ExportOptions& options, ggml::VisionMap map) {
  GgufPlan plan;
  for (ggml::VisionTensor& t : map.tensors) {
    GgufOut& out = plan.tensors.emplace_back();
    const GgmlType& type = type_for(t.dtype);
    uint64_t bytes = gguf_bytes(t.mapped.name, type, t.mapped.shape);
    out.entry = {std::move(t.mapped.name), &type, t.mapped.shape, bytes};
    out.pieces = std::move(t.mapped.pieces);
    out.plus_one = t.mapped.plus_one;
  }
  plan.metadata = ggml::Metadata("clip.vision");
  plan.metadata.set("general.architecture", std::string("clip"));
  describe_model(store, options, plan.tensors, plan.metadata);
  plan.metadata.set("general.type", std::string("mmproj"));
  uint32_t file_type = map.dtype == DType::f16 ? 1 : map.dtype == DType::bf16 ? 32 : 0;
  plan.metadata.set("general.file_type", file_type);
  ggml::describe_vision(store.model(), preprocessor_of(store), plan.metadata);
  plan.metadata.set("general.quantization_version", uint32_t{2});
  return plan;
}

}  // namespace

ExportPlan export_mmproj(const Store& store, const ExportOptions& options) {
  const Model& m = store.model();
  ggml::VisionMap map = ggml::map_vision(m);
  ExportPlan out;
  std::map<size_t, std::string> made;
  for (const ggml::VisionTensor& t : map.tensors) {
    OutTensor& shown = out.tensors.emplace_back();
    shown.name = t.mapped.name;
    shown.dtype = t.dtype;
    shown.shape = t.mapped.shape;
    std::string& names = made[t.mapped.pieces[0].tensor];
    names += (names.empty() ? "" : ", ") + t.mapped.name;
  }
  for (const auto& [i, names] : made) out.ledger.push_back({m.tensors[i].name, "renamed", names});
  for (const auto& [i, why] : map.dropped)
    out.ledger.push_back({m.tensors[i].name, "dropped", why});
  const std::set<std::string_view> used = {"config.json", "preprocessor_config.json",
                                           "processor_config.json", "generation_config.json",
                                           "README.md"};
  for (const Companion& c : m.companions) {
    bool is_used = used.contains(c.name);
    out.ledger.push_back({c.name, is_used ? "merged" : "dropped",
                          is_used ? "into the metadata" : "a vision part has no place for it"});
  }
  for (const auto& [name, why] : m.dropped) out.ledger.push_back({name, "dropped", why});
  auto gguf = std::make_shared<GgufPlan>(plan_mmproj(store, options, std::move(map)));
  out.write = [&store, gguf](const WriteOptions& write, Progress& progress) {
    return write_gguf(store, *gguf, write, progress);
  };
  return out;
}

}  // namespace qp
