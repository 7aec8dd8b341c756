#include "formats/hf/folders.h"

#include <algorithm>
#include <memory>

#include "formats/hf/directory.h"
#include "lib/base/error.h"
#include "lib/model/modules.h"
#include "lib/qmap/store.h"

namespace qp {
namespace {

bool inside(std::string_view name, const std::string& folder) {
  return name.size() > folder.size() && name[folder.size()] == '/' && name.starts_with(folder);
}

// Where an extent of a part is in the whole: files and blobs got other numbers.
struct Renumber {
  std::vector<uint32_t> files;  // of the part, from 1
  uint64_t first_blob = 0;

  void operator()(Extent& e) const {
    if (e.file == kBlob) {
      e.offset += first_blob;
    } else if (e.file != 0) {
      e.file = files.at(e.file - 1);
    }
  }
};

Renumber take_files(Model& whole, Model& part) {
  Renumber out;
  for (FileRef& f : part.files) {
    auto it = std::ranges::find(whole.files, f.path, &FileRef::path);
    out.files.push_back(static_cast<uint32_t>(it - whole.files.begin()) + 1);
    if (it == whole.files.end())
      whole.files.push_back(std::move(f));
  }
  out.first_blob = whole.blobs.size();
  std::ranges::move(part.blobs, std::back_inserter(whole.blobs));
  return out;
}

void join(const Model& whole, const std::string& folder, ExportPlan part, ExportPlan& out) {
  std::string in = folder + "/";
  for (OutTensor& t : part.tensors) {
    t.name.insert(0, in);
    out.tensors.push_back(std::move(t));
  }
  for (const Companion* c : part.companions)
    out.companions.push_back(whole.companion(in + c->name));
  for (OutFile& f : part.files) out.files.push_back({in + f.name, std::move(f.text)});
  if (!part.config.empty())
    out.files.push_back({in + "config.json", std::move(part.config)});
  for (LedgerEntry& e : part.ledger) {
    out.ledger.push_back({in + e.source, std::move(e.fate), std::move(e.detail)});
  }
  out.folders.push_back({folder, std::move(part.weights_name), std::move(part.metadata)});
}

}  // namespace

std::string_view folder_of(std::string_view tensor) {
  auto slash = tensor.rfind('/');
  return slash == tensor.npos ? std::string_view() : tensor.substr(0, slash);
}

std::vector<std::string> folders_of(const Model& model) {
  std::vector<std::string> out;
  for (const Tensor& t : model.tensors) {
    std::string_view folder = folder_of(t.name);
    if (!folder.empty() && std::ranges::find(out, folder) == out.end())
      out.emplace_back(folder);
  }
  return out;
}

void add_folder(Model& whole, Model part, const std::string& folder) {
  Renumber renumber = take_files(whole, part);
  std::string in = folder + "/";
  for (Tensor& t : part.tensors) {
    t.name.insert(0, in);
    if (t.scheme >= 0)
      t.scheme = whole.scheme_index(part.schemes[static_cast<size_t>(t.scheme)]);
    for (Part& p : t.parts) renumber(p.extent);
    whole.tensors.push_back(std::move(t));
  }
  for (Companion& c : part.companions) {
    c.name.insert(0, in);
    renumber(c.extent);
    whole.companions.push_back(std::move(c));
  }
  for (auto& [name, why] : part.dropped) whole.dropped.emplace_back(in + name, std::move(why));
}

Model folder_view(const Model& whole, const std::string& folder) {
  Model out;
  out.format = whole.format;
  out.schemes = whole.schemes;
  out.files = whole.files;
  out.blobs = whole.blobs;
  size_t skip = folder.size() + 1;
  for (const Tensor& t : whole.tensors) {
    if (folder_of(t.name) == folder)
      out.tensors.emplace_back(t).name.erase(0, skip);
  }
  for (const Companion& c : whole.companions) {
    if (inside(c.name, folder))
      out.companions.emplace_back(c).name.erase(0, skip);
  }
  for (const auto& [name, why] : whole.dropped) {
    if (inside(name, folder))
      out.dropped.emplace_back(name.substr(skip), why);
  }
  return out;
}

ExportPlan plan_folders(const Store& store, const std::function<ExportPlan(const Store&)>& plan) {
  const Model& m = store.model();
  std::vector<std::string> folders = folders_of(m);
  ExportPlan out;
  for (const Tensor& t : m.tensors) {
    if (!folder_of(t.name).empty())
      continue;
    throw limit_error("is in no folder, and others are").file(store.label()).tensor(t.name);
  }
  for (const std::string& folder : folders) {
    // The caller's store outlives the plan, so its qmap need not be shared.
    std::shared_ptr<const MappedFile> self(std::shared_ptr<void>(), store.self());
    auto view = std::make_shared<const Store>(folder_view(m, folder), self, store.label());
    try {
      join(m, folder, plan(*view), out);
    } catch (const Error& e) {
      throw Error(e.kind(), e.reason())
          .file(e.file())
          .tensor(e.tensor().empty() ? "" : folder + "/" + e.tensor())
          .hint(e.hint());
    }
    out.views.push_back(std::move(view));
  }
  auto elsewhere = [&](const std::string& name) {
    return std::ranges::none_of(folders, [&](const auto& f) { return inside(name, f); });
  };
  for (const Companion& c : m.companions) {
    if (!elsewhere(c.name))
      continue;
    out.companions.push_back(&c);
    out.ledger.push_back({c.name, "kept", "byte for byte"});
  }
  for (const auto& [name, why] : m.dropped) {
    if (elsewhere(name))
      out.ledger.push_back({name, "dropped", why});
  }
  return out;
}

ExportPlan plan_export(const Format& format, const Store& store, const ExportOptions& options) {
  auto one = [&](const Store& part) {
    ExportPlan out = format.plan(part, options);
    if (is_diffusion_model(part.model().config))
      out.weights_name = kDiffusersWeights;
    return out;
  };
  return folders_of(store.model()).empty() ? one(store) : plan_folders(store, one);
}

}  // namespace qp
