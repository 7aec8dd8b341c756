#include "lib/qmap/reader.h"

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/qmap/layout.h"
#include "lib/qmap/manifest.h"

namespace qp {
namespace {

Hash128 hash_of(std::span<const std::byte> bytes) {
  Hasher128 h;
  h.update(bytes);
  return h.digest();
}

QmapHeader read_header(const MappedFile& file) {
  QmapHeader h{};
  if (file.size() < sizeof h) {
    throw input_error("is too short for a qmap (expected at least 64 bytes, found " +
                      std::to_string(file.size()) + ")")
        .file(file.path());
  }
  std::memcpy(&h, file.bytes().data(), sizeof h);
  if (h.magic != kQmapMagic) {
    bool unfinished = std::ranges::all_of(h.magic, [](uint8_t b) { return b == 0; });
    throw input_error(unfinished ? "is an unfinished qmap (its magic is written last)"
                                 : "is not a qmap (bad magic)")
        .file(file.path())
        .hint("make it again");
  }
  if (h.version != kQmapVersion) {
    throw input_error("is a qmap of version " + std::to_string(h.version) + " (expected " +
                      std::to_string(kQmapVersion) + ")")
        .file(file.path())
        .hint("update qpipe, or write it again with this version");
  }
  auto end = checked_add(h.manifest_offset, h.manifest_length);
  if (end) end = checked_add(*end, h.trailer_length);
  if (h.file_length != file.size() || !end || *end > file.size() ||
      h.manifest_offset < sizeof h || h.manifest_length > kQmapMaxManifest) {
    throw input_error("is truncated or damaged (header says " + std::to_string(h.file_length) +
                      " bytes, found " + std::to_string(file.size()) + ")")
        .file(file.path())
        .hint("copy or make it again");
  }
  return h;
}

}  // namespace

bool has_qmap_magic(std::span<const std::byte> first) {
  return first.size() >= kQmapMagic.size() &&
         std::memcmp(first.data(), kQmapMagic.data(), kQmapMagic.size()) == 0;
}

Model read_qmap(const std::shared_ptr<const MappedFile>& file, const std::string& base) {
  QmapHeader h = read_header(*file);
  auto manifest = file->bytes().subspan(h.manifest_offset, h.manifest_length);
  auto trailer_bytes =
      file->bytes().subspan(h.manifest_offset + h.manifest_length, h.trailer_length);
  Hash128 id = hash_of(manifest);
  if (id != Hash128{h.manifest_hash_low, h.manifest_hash_high}) {
    throw input_error("its manifest does not match its checksum")
        .file(file->path())
        .hint("the file is damaged; make it again");
  }
  Json trailer = parse_json({reinterpret_cast<const char*>(trailer_bytes.data()),
                             trailer_bytes.size()}, file->path());
  // An unnamed file carries the directory its paths start from.
  std::string from = json_string(trailer, "base", base);
  Model m = read_manifest(manifest, file->path(), from);
  file->drop(h.manifest_offset, h.manifest_length);
  m.id = id;
  if (auto times = trailer.find("mtimes"); times != trailer.end() && times->is_array()) {
    for (size_t i = 0; i < m.files.size() && i < times->size(); ++i) {
      if ((*times)[i].is_number_integer()) m.files[i].mtime_ns = (*times)[i].get<int64_t>();
    }
  }
  for (FileRef& f : m.files) f.path = std::filesystem::path(f.path).lexically_normal();
  return m;
}

}  // namespace qp
