#include "lib/qmap/writer.h"

#include <fcntl.h>
#include <unistd.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/base/interrupt.h"
#include "lib/base/parallel.h"
#include "lib/qmap/layout.h"
#include "lib/qmap/manifest.h"

namespace qp {

QmapWriter::QmapWriter(int fd, std::string label)
    : fd_(fd), label_(std::move(label)), end_(sizeof(QmapHeader)) {}

Extent QmapWriter::place(uint64_t length) {
  Extent e;
  e.offset = round_up(end_, length >= kQmapBigExtent ? kQmapPage : kQmapSmallAlign);
  e.length = length;
  auto end = checked_add(e.offset, length);
  if (!end || *end > uint64_t{1} << 62) throw limit_error("the qmap would be too large").file(label_);
  end_ = *end;
  return e;
}

void QmapWriter::reserve() { reserve_space(fd_, end_, label_, false); }

void QmapWriter::write(uint64_t offset, std::span<const std::byte> bytes) {
  write_all(fd_, bytes, offset, label_);
}

uint64_t QmapWriter::hash(const Extent& e) const {
  std::vector<std::byte> piece(std::min<uint64_t>(e.length, 4 << 20));
  Hasher64 hasher;
  for (uint64_t done = 0; done < e.length;) {
    throw_if_interrupted();
    ssize_t n = pread(fd_, piece.data(), std::min<uint64_t>(piece.size(), e.length - done),
                      static_cast<off_t>(e.offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw system_error("cannot read", errno).file(label_);
    if (n == 0) return 0;
    hasher.update({piece.data(), static_cast<size_t>(n)});
    done += static_cast<uint64_t>(n);
  }
  return hasher.digest();
}

std::string QmapWriter::read(const Extent& e) const {
  std::string bytes(e.length, 0);
  read_all(fd_, std::as_writable_bytes(std::span(bytes)), e.offset, label_);
  return bytes;
}

Extent QmapWriter::append(std::span<const std::byte> bytes) {
  constexpr size_t kPiece = 16 << 20;  // a signal need not wait for a large file
  Extent e = place(bytes.size());
  Hasher64 hasher;
  for (size_t at = 0; at < bytes.size(); at += kPiece) {
    throw_if_interrupted();
    auto piece = bytes.subspan(at, std::min(kPiece, bytes.size() - at));
    hasher.update(piece);
    write(e.offset + at, piece);
  }
  e.xxh3 = hasher.digest();
  return e;
}

Hash128 QmapWriter::finish(Model& model, const std::string& base, bool unnamed, bool sync) {
  for (Tensor& t : model.tensors) {
    for (Part& p : t.parts) {
      if (p.extent.file == kBlob) p.extent = append(std::as_bytes(std::span(model.blobs.at(p.extent.offset))));
    }
  }
  for (Companion& c : model.companions) {
    if (c.extent.file == kBlob) {
      c.extent = append(std::as_bytes(std::span(model.blobs.at(c.extent.offset))));
    }
  }
  QmapHeader h{};
  h.version = kQmapVersion;
  h.flags = model.files.empty() ? 0 : kQmapHasReferences;
  h.manifest_offset = round_up(end_, kQmapSmallAlign);
  Hasher128 hasher;
  uint64_t at = h.manifest_offset, reserved = end_;
  write_manifest(model, base, [&](std::string_view piece) {
    auto bytes = std::as_bytes(std::span(piece));
    hasher.update(bytes);
    // No more than a wish. Without it ext4 has blocks left to allocate when the file is renamed over
    // another, and first writes all of the file out.
    if (at + bytes.size() > reserved) {
      reserved = at + bytes.size() + (1 << 20);
      [[maybe_unused]] int r = fallocate(fd_, 0, static_cast<off_t>(end_), static_cast<off_t>(reserved - end_));
    }
    write(at, bytes);
    at += bytes.size();
  });
  h.manifest_length = at - h.manifest_offset;
  if (h.manifest_length > kQmapMaxManifest) throw limit_error("the manifest exceeds 1 GiB").file(label_);
  model.id = hasher.digest();
  h.manifest_hash_low = model.id.low;
  h.manifest_hash_high = model.id.high;
  Json trailer = Json::object();
  if (unnamed && !model.files.empty()) trailer["base"] = base;
  if (!model.files.empty()) {
    Json& times = trailer["mtimes"] = Json::array();
    for (const FileRef& f : model.files) times.push_back(f.mtime_ns);
  }
  std::string text = trailer.dump(-1, ' ', false, Json::error_handler_t::replace);
  write(at, std::as_bytes(std::span(text)));
  h.trailer_length = text.size();
  h.file_length = at + text.size();
  if (ftruncate(fd_, static_cast<off_t>(h.file_length)) != 0) {
    throw system_error("cannot set the size", errno).file(label_);
  }
  write(0, std::as_bytes(std::span(&h, 1)));
  if (sync) sync_fd(fd_, label_);
  write(0, std::as_bytes(std::span(kQmapMagic)));
  if (sync) sync_fd(fd_, label_);
  return model.id;
}

ZstdExtentWriter::ZstdExtentWriter(QmapWriter& writer) : writer_(writer) {
  extent_ = writer.place(kQmapBigExtent);  // page-aligned; grown by what is written
  extent_.length = 0;
  extent_.zstd = true;
}

void ZstdExtentWriter::append(std::span<const std::byte> bytes) {
  pending_.insert(pending_.end(), bytes.begin(), bytes.end());
  flush(false);
}

void ZstdExtentWriter::flush(bool last) {
  uint64_t batch = static_cast<uint64_t>(threads()) * kQmapFrameBytes;
  if (pending_.empty() || (!last && pending_.size() < batch)) return;
  uint64_t whole = last ? pending_.size() : pending_.size() / kQmapFrameBytes * kQmapFrameBytes;
  uint64_t n = ceil_div(whole, kQmapFrameBytes);
  std::vector<std::vector<std::byte>> frames(n);
  parallel_for(n, [&](size_t i, int) {
    uint64_t begin = i * kQmapFrameBytes;
    auto raw = std::span(pending_).subspan(begin, std::min<uint64_t>(kQmapFrameBytes, whole - begin));
    frames[i].resize(ZSTD_compressBound(raw.size()));
    size_t got = ZSTD_compress(frames[i].data(), frames[i].size(), raw.data(), raw.size(), 1);
    if (ZSTD_isError(got) != 0) throw defect_error(std::string("zstd: ") + ZSTD_getErrorName(got));
    frames[i].resize(got);
  });
  for (const auto& frame : frames) {
    writer_.write(extent_.offset + extent_.length, frame);
    hasher_.update(frame);
    extent_.length += frame.size();
    sizes_.push_back(static_cast<uint32_t>(frame.size()));
  }
  pending_.erase(pending_.begin(), pending_.begin() + static_cast<ptrdiff_t>(whole));
}

Extent ZstdExtentWriter::finish() {
  flush(true);
  auto frames = static_cast<uint32_t>(sizes_.size());
  sizes_.push_back(kQmapFrameBytes);
  sizes_.push_back(frames);
  auto table = std::as_bytes(std::span(sizes_));
  writer_.write(extent_.offset + extent_.length, table);
  hasher_.update(table);
  extent_.length += table.size();
  extent_.xxh3 = hasher_.digest();
  writer_.grow_to(extent_.offset + extent_.length);
  return extent_;
}

}  // namespace qp
