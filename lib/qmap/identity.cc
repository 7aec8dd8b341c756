#include "lib/qmap/identity.h"

#include <filesystem>

#include "lib/qmap/manifest.h"

namespace qp {

Hash128 identity(const Model& model) {
  // The manifest's text with every file's directory left out.
  Model bare;
  bare.format = model.format;
  bare.architecture = model.architecture;
  bare.files = model.files;
  for (FileRef& f : bare.files) f.path = "/" + std::filesystem::path(f.path).filename().string();
  bare.schemes = model.schemes;
  bare.dropped = model.dropped;
  bare.provenance = model.provenance;
  Hasher128 hasher;
  auto feed = [&](std::string_view text) { hasher.update(std::as_bytes(std::span(text))); };
  write_manifest(bare, "/", feed);
  // Tensors one at a time: no copy of a big table.
  for (const Tensor& t : model.tensors) {
    Model one;
    one.tensors.push_back(t);
    write_manifest(one, "/", feed);
  }
  for (const Companion& c : model.companions) {
    feed(c.name + ":" + std::to_string(c.extent.length) + "\n");
    if (c.extent.file == kBlob) feed(model.blobs.at(c.extent.offset));
  }
  return hasher.digest();
}

}  // namespace qp
