// Writes a qmap: places extents, receives their bytes in any order, closes with the manifest.
// The magic is written last, so an unfinished file is refused by every reader.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "lib/qmap/model.h"

namespace qp {

class QmapWriter {
 public:
  // Writes to `fd` from offset 0; `label` names it in messages. `begin` > 0 continues a partial
  // file whose extents up to there are already placed.
  QmapWriter(int fd, std::string label);

  // The next inline range of `length` bytes (page-aligned from 64 KiB up, 64-byte aligned below).
  // Placement depends only on the lengths asked for before, so a plan fixes all offsets.
  Extent place(uint64_t length);
  uint64_t end() const { return end_; }
  void grow_to(uint64_t end) { end_ = end; }  // for extents whose length was not known
  // Reserves the disk space of everything placed so far.
  void reserve();
  void write(uint64_t offset, std::span<const std::byte> bytes);
  // XXH3 of what the file holds there, or 0 when it ends before.
  uint64_t hash(const Extent& extent) const;
  std::string read(const Extent& extent) const;
  // Places, writes and hashes at once: companions and other small things.
  Extent append(std::span<const std::byte> bytes);

  // Stores blobs inline, writes manifest, trailer and header, syncs (unless !sync) and writes the
  // magic. `base` is the directory of the final file; `unnamed` files record it in the trailer.
  // Returns the manifest's hash.
  Hash128 finish(Model& model, const std::string& base, bool unnamed, bool sync);

 private:
  int fd_;
  std::string label_;
  uint64_t end_;
};

// Writes bytes that come in order as one zstd extent (layout.h), compressing frames in parallel.
// Nothing else may be placed until finish().
class ZstdExtentWriter {
 public:
  explicit ZstdExtentWriter(QmapWriter& writer);
  void append(std::span<const std::byte> bytes);
  Extent finish();

 private:
  void flush(bool last);
  QmapWriter& writer_;
  Extent extent_;
  std::vector<std::byte> pending_;
  std::vector<uint32_t> sizes_;
  Hasher64 hasher_;
};

}  // namespace qp
