// The central directory of a zip archive held in memory: where each stored entry's bytes are.
// Layout: PKWARE APPNOTE 6.3, sections 4.3.6 to 4.3.16 and 4.5.3 (zip64). Reads no entry data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace qp {

struct ZipEntry {
  std::string_view name;  // points into the archive's bytes
  uint64_t offset;        // of the entry's data, in bytes from the start of the archive
  uint64_t size;          // bytes
};

struct ZipArchive {
  std::vector<ZipEntry> entries;  // in the order of the central directory
  std::unordered_map<std::string_view, size_t> index;

  // Null when there is no such entry.
  const ZipEntry* find(std::string_view name) const;
};

// True when the bytes start like a zip archive (a local header, or an archive without entries).
bool is_zip(std::span<const std::byte> bytes);

// Every entry is stored (method 0), inside `bytes`, before the central directory, apart from every
// other entry, and named once. Checksums are not compared: PyTorch can be told not to write them.
// `bytes` must outlive the result. Errors: input (without the file's name).
ZipArchive read_zip(std::span<const std::byte> bytes);

}  // namespace qp
