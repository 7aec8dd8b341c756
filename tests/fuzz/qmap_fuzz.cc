// libFuzzer over the qmap reader: manifest, extents, decoding, compression. Fields that only guard
// against damage (magic, version, length, hash) are set right first, so that changes reach what
// they guard.
#include <algorithm>
#include <cstring>
#include <vector>

#include "lib/base/hash.h"
#include "lib/qmap/layout.h"
#include "lib/qmap/reader.h"
#include "tests/fuzz/fuzz_input.h"

namespace {

void mend(std::vector<std::byte>& bytes) {
  qp::QmapHeader h{};
  std::memcpy(&h, bytes.data(), sizeof h);
  h.magic = qp::kQmapMagic;
  h.version = qp::kQmapVersion;
  h.file_length = bytes.size();
  // The manifest moves with the end of the file, as insertions and deletions do.
  h.manifest_offset = std::clamp<uint64_t>(h.manifest_offset, sizeof h, bytes.size());
  uint64_t left = bytes.size() - h.manifest_offset;
  h.trailer_length = std::min(h.trailer_length, left);
  h.manifest_length = left - h.trailer_length;
  qp::Hasher128 hash;
  hash.update(std::span(bytes).subspan(h.manifest_offset, h.manifest_length));
  qp::Hash128 digest = hash.digest();
  h.manifest_hash_low = digest.low;
  h.manifest_hash_high = digest.high;
  std::memcpy(bytes.data(), &h, sizeof h);
}

void open_and_read(std::span<const std::byte> bytes) {
  try {
    auto file = qp::MappedFile::adopt(qp::fuzz::memory_file(bytes), "fuzz");
    qp::Model model = qp::read_qmap(file, "/nonexistent");
    qp::Store store(std::move(model), file, "fuzz");
    qp::fuzz::read_all(store);
  } catch (const qp::Error& e) {
    qp::fuzz::require(e.kind() != qp::ErrorKind::defect);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<std::byte> bytes(size);
  if (size > 0) std::memcpy(bytes.data(), data, size);
  open_and_read(bytes);
  if (size < sizeof(qp::QmapHeader)) return 0;
  mend(bytes);
  open_and_read(bytes);
  return 0;
}
