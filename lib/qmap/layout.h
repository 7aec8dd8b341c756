// The fixed bytes of a qmap file; man/qmap.5 is the specification.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace qp {

static_assert(std::endian::native == std::endian::little, "qmap code assumes little-endian hosts");

// A text-mode transfer or a 7-bit channel breaks it visibly, as PNG's does.
constexpr std::array<uint8_t, 8> kQmapMagic = {0x89, 'Q', 'M', 'A', 'P', '\r', '\n', 0x1a};
constexpr uint32_t kQmapVersion = 1;

struct QmapHeader {
  std::array<uint8_t, 8> magic;  // written last: an unfinished file has zeros here
  uint32_t version;
  uint32_t flags;  // bit 0: has references to other files
  uint64_t file_length;
  uint64_t manifest_offset;
  uint64_t manifest_length;
  uint64_t manifest_hash_low;   // XXH3-128 of the manifest's bytes
  uint64_t manifest_hash_high;
  uint64_t trailer_length;  // volatile JSON right after the manifest, not hashed
};
static_assert(sizeof(QmapHeader) == 64);
constexpr uint32_t kQmapHasReferences = 1;

constexpr uint64_t kQmapBigExtent = 64 * 1024;  // from here on extents start on a page
constexpr uint64_t kQmapPage = 4096;
constexpr uint64_t kQmapSmallAlign = 64;
constexpr uint64_t kQmapMaxManifest = uint64_t{1} << 30;

// A zstd extent: independent frames, each of this many uncompressed bytes (the last may have
// fewer), then a u32 compressed size per frame, then u32 frame bytes, u32 number of frames.
constexpr uint32_t kQmapFrameBytes = 4 << 20;

}  // namespace qp
