#include "lib/qmap/store.h"

#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <string_view>
#include <unordered_set>

#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/base/interrupt.h"
#include "lib/qmap/decode.h"
#include "lib/qmap/layout.h"

namespace qp {
namespace {

constexpr uint64_t kPopulate = 256 << 10;  // a read of this many bytes has its pages mapped first

// Header of a zstd extent, checked against its length and the bytes it must give.
class Frames {
 public:
  Frames(std::span<const std::byte> extent, uint64_t raw_bytes) : extent_(extent) {
    uint64_t n = ceil_div(raw_bytes, kQmapFrameBytes), table = 8 + 4 * n;
    if (extent.size() < table || word(extent.size() - 8) != kQmapFrameBytes ||
        word(extent.size() - 4) != n) {
      throw input_error("zstd frame table does not fit the tensor");
    }
    uint64_t at = 0, end = extent.size() - table;
    for (uint64_t i = 0; i < n; ++i) {
      begin_.push_back(at);
      at += word(end + 4 * i);
      if (at > end) throw input_error("zstd frames end past their extent");
    }
    begin_.push_back(at);
    raw_ = raw_bytes;
  }
  // Decompresses the frames that hold [begin, end) to out; returns where `begin` is inside it.
  uint64_t expand(uint64_t begin, uint64_t end, std::vector<std::byte>& out) const {
    uint64_t first = begin / kQmapFrameBytes, last = ceil_div(end, kQmapFrameBytes);
    out.resize(std::min((last - first) * kQmapFrameBytes, raw_ - first * kQmapFrameBytes));
    for (uint64_t f = first; f < last; ++f) {
      std::byte* to = out.data() + (f - first) * kQmapFrameBytes;
      uint64_t want = std::min<uint64_t>(kQmapFrameBytes, raw_ - f * kQmapFrameBytes);
      size_t got = ZSTD_decompress(to, want, extent_.data() + begin_[f], begin_[f + 1] - begin_[f]);
      if (got != want) throw input_error("zstd frame does not decompress to its size");
    }
    return begin - first * kQmapFrameBytes;
  }

 private:
  uint64_t word(uint64_t at) const {
    uint32_t v;
    std::memcpy(&v, extent_.data() + at, 4);
    return v;
  }
  std::span<const std::byte> extent_;
  std::vector<uint64_t> begin_;
  uint64_t raw_ = 0;
};

}  // namespace

Store::Store(Model model, std::shared_ptr<const MappedFile> self, std::string label)
    : model_(std::move(model)), self_(std::move(self)), label_(std::move(label)) {
  mapped_.resize(model_.files.size());
  std::unordered_set<std::string_view> names;
  names.reserve(model_.tensors.size());
  for (const Tensor& t : model_.tensors) {
    if (t.name.empty()) throw input_error("a tensor has no name").file(label_);
    if (!names.insert(t.name).second) {
      throw input_error("the name appears twice").file(label_).tensor(t.name);
    }
    if (t.scheme >= static_cast<int32_t>(model_.schemes.size())) {
      throw input_error("its scheme does not exist").file(label_).tensor(t.name);
    }
    if (t.parts.empty()) throw input_error("it has no data").file(label_).tensor(t.name);
    // So that no product of dimensions and bits overflows below.
    if (t.shape.elements().value_or(UINT64_MAX) > uint64_t{1} << 56) {
      throw input_error("its shape " + t.shape.str() + " is too large").file(label_).tensor(t.name);
    }
    for (const Part& p : t.parts) check_part(t, p);
    if (t.scheme >= 0) {
      const Scheme& scheme = model_.schemes[static_cast<size_t>(t.scheme)];
      for (const PartSpec& spec : part_specs(scheme, t.coded_shape(), t.dtype)) {
        const Part* p = t.part(spec.role);
        if (p == nullptr || !(p->shape.elements() == spec.shape.elements())) {
          throw input_error("its " + std::string(name_of(spec.role)) + " does not fit its scheme (expected " +
                            spec.shape.str() + ", found " + (p ? p->shape.str() : "none") + ")")
              .file(label_)
              .tensor(t.name);
        }
      }
    }
  }
  for (const Companion& c : model_.companions) {
    if (c.name.empty() || c.name.front() == '/' || c.name.find('\0') != std::string::npos ||
        ("/" + c.name + "/").find("/../") != std::string::npos) {
      throw input_error("companion file name '" + printable(c.name) + "' leaves the directory")
          .file(label_);
    }
    std::string what = c.extent.zstd ? "it cannot be compressed" : extent_problem(c.extent);
    if (!what.empty()) throw input_error("companion file '" + printable(c.name) + "': " + what).file(label_);
  }
  check_calibration();
  const Companion* config = model_.companion("config.json");
  if (model_.config.is_null() && config != nullptr) {
    model_.config = parse_json(text(config->extent), label_ + ": config.json");
  }
}

std::unique_ptr<Store> Store::with(Model model) const {
  auto store = std::make_unique<Store>(std::move(model), self_, label_);
  store->set_check(check_);
  return store;
}

void Store::check_calibration() const {
  if (!model_.calibration) return;
  const Calibration& c = *model_.calibration;
  auto check = [&](const Extent& e, const std::string& of) {
    std::string what = extent_problem(e);
    if (!what.empty()) throw input_error("statistics of '" + printable(of) + "': " + what).file(label_);
  };
  check(c.tokens, "tokens");
  for (const InputStatistics& s : c.inputs) check(s.extent, s.module);
}

void Store::check_part(const Tensor& t, const Part& p) const {
  auto fail = [&](const std::string& what) {
    throw input_error(what).file(label_).tensor(t.name);
  };
  auto need = qp::stored_bytes(p);
  if (!need) fail("its dtype, shape and encoding do not fit together");
  const Extent& e = p.extent;
  if (!e.zstd && e.length != *need) {
    fail("its " + std::string(name_of(p.role)) + " has the wrong size (expected " +
         std::to_string(*need) + " bytes, found " + std::to_string(e.length) + ")");
  }
  if (e.file == kBlob && (e.offset >= model_.blobs.size() || model_.blobs[e.offset].size() != e.length)) {
    return fail("its computed " + std::string(name_of(p.role)) + " is nowhere");
  }
  if (std::string what = extent_problem(e); !what.empty()) fail(what);
}

std::string Store::extent_problem(const Extent& e) const {
  if (e.file == kBlob) {
    bool there = e.offset < model_.blobs.size() && e.length <= model_.blobs[e.offset].size();
    return there ? "" : "its data is nowhere";
  }
  if (e.file == 0 && !self_) return "its data is nowhere";
  if (e.file > model_.files.size()) return "its file number is out of range";
  uint64_t size = e.file == 0 ? self_->size() : model_.files[e.file - 1].size;
  auto end = checked_add(e.offset, e.length);
  if (end && *end <= size) return "";
  return "its data ends past the end of the file (expected at most " + std::to_string(size) +
         ", found " + std::to_string(end.value_or(UINT64_MAX)) + ")";
}

std::shared_ptr<const MappedFile> Store::file(uint32_t index) const {
  if (index == 0) return self_;
  std::lock_guard lock(mutex_);
  auto& slot = mapped_.at(index - 1);
  if (slot) return slot;
  const FileRef& ref = model_.files[index - 1];
  std::shared_ptr<const MappedFile> opened;
  try {
    opened = MappedFile::open(ref.path);
  } catch (const Error& e) {
    throw Error(e.kind(), e.reason())
        .file(ref.path)
        .hint("the qmap refers to this file; bring it back, or make self-contained copies with "
              "qload --pack");
  }
  if (opened->size() != ref.size || (ref.mtime_ns != 0 && opened->mtime_ns() != ref.mtime_ns)) {
    throw input_error("changed since it was loaded (expected " + std::to_string(ref.size) +
                      " bytes, found " + std::to_string(opened->size()) +
                      (opened->size() == ref.size ? ", another modification time)" : ")"))
        .file(ref.path)
        .hint("run qload again");
  }
  slot = std::move(opened);
  return slot;
}

std::span<const std::byte> Store::stored(const Extent& e) const {
  if (e.file == kBlob) return std::as_bytes(std::span(model_.blobs.at(e.offset)));
  auto f = file(e.file);
  if (!f || e.offset > f->size() || e.length > f->size() - e.offset) {
    throw input_error("an extent lies outside its file").file(f ? f->path() : label_);
  }
  return f->bytes().subspan(e.offset, e.length);
}

const std::byte* Store::rows(const Part& p, uint64_t first, uint64_t count,
                             std::vector<std::byte>& scratch) const {
  std::span<const std::byte> bytes = stored(p.extent);
  ByteRange range = stored_range(p, first, count);
  std::vector<std::byte> expanded;
  if (p.extent.zstd) {
    Frames frames(bytes, *qp::stored_bytes(p));
    if (is_plain(p)) {
      uint64_t at = frames.expand(range.begin, range.end, scratch);
      return scratch.data() + at;
    }
    uint64_t at = frames.expand(range.begin, range.end, expanded);
    bytes = std::span<const std::byte>(expanded).subspan(at, range.end - range.begin);
  } else {
    bytes = bytes.subspan(range.begin, range.end - range.begin);
    if (is_plain(p)) {
      if (bytes.size() >= kPopulate && p.extent.file != kBlob) {
        file(p.extent.file)->populate(p.extent.offset + range.begin, bytes.size());
      }
      return bytes.data();
    }
  }
  scratch.resize(count * row_bytes(p));
  decode_rows(p, bytes, first, count, scratch.data());
  return scratch.data();
}

std::vector<std::byte> Store::read(const Part& p) const {
  std::vector<std::byte> scratch;
  uint64_t n = p.shape.rows();
  const std::byte* data = rows(p, 0, n, scratch);
  return std::vector<std::byte>(data, data + n * row_bytes(p));
}

std::string Store::text(const Extent& e) const {
  verify(e, "a companion file");
  auto bytes = stored(e);
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

void Store::verify(const Tensor& t, const Part& p) const {
  try {
    verify(p.extent, "its " + std::string(name_of(p.role)));
  } catch (Error& e) {
    throw std::move(e).tensor(t.name);
  }
}

void Store::verify(const Extent& e, std::string_view what) const {
  if (!check_ || !e.xxh3) return;
  {
    std::lock_guard lock(mutex_);
    if (!verified_.insert({e.file, e.offset}).second) return;
  }
  constexpr size_t kPiece = 16 << 20;  // a signal need not wait for a large tensor
  Hasher64 hasher;
  for (auto bytes = stored(e); !bytes.empty(); bytes = bytes.subspan(std::min(kPiece, bytes.size()))) {
    throw_if_interrupted();
    hasher.update(bytes.first(std::min(kPiece, bytes.size())));
  }
  uint64_t found = hasher.digest();
  if (found != *e.xxh3) {
    throw input_error(std::string(what) + " does not match its checksum (expected " +
                      hex64(*e.xxh3) + ", found " + hex64(found) + ")")
        .file(where(e))
        .hint("the file is damaged; make it again");
  }
}

void Store::drop(const Part& p, uint64_t first, uint64_t count) const {
  if (p.extent.file == kBlob || p.extent.zstd) return;
  ByteRange range = stored_range(p, first, count);
  if (auto f = file(p.extent.file)) {
    f->drop(p.extent.offset + range.begin, range.end - range.begin);
  }
}

const std::string& Store::where(const Extent& e) const {
  return e.file == 0 || e.file == kBlob ? label_ : model_.files[e.file - 1].path;
}

void Store::throw_if_changed(const Extent& e) const {
  if (e.file == kBlob) return;
  if (auto f = file(e.file)) f->throw_if_changed();
}

void Store::throw_if_changed(const Tensor& t) const {
  try {
    for (const Part& p : t.parts) throw_if_changed(p.extent);
  } catch (Error& e) {
    throw std::move(e).tensor(t.name);
  }
}

void Store::throw_if_changed() const {
  if (self_) self_->throw_if_changed();
  std::vector<std::shared_ptr<const MappedFile>> open;
  {
    std::lock_guard lock(mutex_);
    open = mapped_;
  }
  for (const auto& f : open) {
    if (f) f->throw_if_changed();
  }
}

}  // namespace qp
