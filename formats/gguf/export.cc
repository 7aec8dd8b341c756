// qexport -f gguf: a model with Hugging Face's names as llama.cpp loads it, one file.
#include <set>

#include "formats/gguf/write.h"
#include "lib/base/error.h"
#include "lib/qmap/store.h"

namespace qp {
namespace {

DType shown_dtype(const GgmlType& type) {
  return type.name == "f32"    ? DType::f32
         : type.name == "f16"  ? DType::f16
         : type.name == "bf16" ? DType::bf16
                               : DType::u8;
}

void add_shown(const GgufOut& t, ExportPlan& out) {
  OutTensor& shown = out.tensors.emplace_back();
  shown.name = t.entry.name;
  shown.dtype = shown_dtype(*t.entry.type);
  shown.shape = t.entry.shape;
  if (shown.dtype == DType::u8) {
    shown.shape[shown.shape.rank() - 1] =
        t.entry.shape.cols() / t.entry.type->block * t.entry.type->bytes;
  }
}

void fill_ledger(const Model& m, const GgufPlan& plan, ExportPlan& out) {
  std::map<size_t, std::string> made;
  for (const GgufOut& t : plan.tensors) {
    for (const ggml::Piece& p : t.pieces) {
      std::string& names = made[p.tensor];
      names +=
          (names.empty() ? "" : ", ") + t.entry.name + " (" + std::string(t.entry.type->name) + ")";
    }
  }
  for (const auto& [i, names] : made) out.ledger.push_back({m.tensors[i].name, "renamed", names});
  for (const auto& [i, why] : ggml::map_tensors(m, ggml::family_of(m)).dropped) {
    out.ledger.push_back({m.tensors[i].name, "dropped", why});
  }
  const std::set<std::string_view> used = {
      "config.json",           "tokenizer.json",         "tokenizer.model",
      "tokenizer_config.json", "generation_config.json", "added_tokens.json",
      "chat_template.jinja",   "chat_template.json",     "README.md"};
  for (const Companion& c : m.companions) {
    bool is_used = used.contains(c.name);
    out.ledger.push_back({c.name, is_used ? "merged" : "dropped",
                          is_used ? "into the metadata" : "a GGUF has no place for it"});
  }
  for (const auto& [name, why] : m.dropped) out.ledger.push_back({name, "dropped", why});
}

ExportPlan plan(const Store& store, const ExportOptions& options) {
  auto gguf = std::make_shared<GgufPlan>(plan_gguf(store, options));
  ExportPlan out;
  for (const GgufOut& t : gguf->tensors) add_shown(t, out);
  fill_ledger(store.model(), *gguf, out);
  out.write = [&store, gguf](const WriteOptions& write, Progress& progress) {
    return write_gguf(store, *gguf, write, progress);
  };
  return out;
}

}  // namespace

const Format& gguf_format() {
  static const Format format = {.name = "gguf",
                                .summary = "llama.cpp's GGUF, one file or standard output",
                                .plan = plan,
                                .quant_method = "",
                                .adopt = nullptr,
                                .target = "llama.cpp",
                                .to_stdout = true};
  return format;
}

}  // namespace qp
