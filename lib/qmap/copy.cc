#include "lib/qmap/copy.h"

#include <algorithm>

#include "lib/qmap/decode.h"
#include "lib/qmap/rows.h"

namespace qp {
namespace {
constexpr uint64_t kCopyBytes = 4 << 20;
}

Tensor place_copy(const Tensor& tensor, QmapWriter& writer) {
  Tensor to = tensor;
  if (tensor.dequantize) {
    to.scheme = -1;
    to.dequantize = false;
    to.parts = {Part{Role::data, tensor.dtype, tensor.shape, {}, nullptr}};
  }
  for (Part& p : to.parts) {
    p.decode = nullptr;
    p.extent = writer.place(p.shape.rows() * row_bytes(p));
  }
  return to;
}

void copy_tensor(const Store& store, const Tensor& from, Tensor& to, QmapWriter& writer,
                 const std::function<void(uint64_t)>& advance) {
  for (size_t k = 0; k < to.parts.size(); ++k) {
    Part& p = to.parts[k];
    Hasher64 hasher;
    RowSource source = from.dequantize ? RowSource(store, from) : RowSource(store, from.parts[k]);
    for_row_chunks(
        source, kCopyBytes,
        [&](uint64_t first, uint64_t, std::span<const std::byte> piece) {
          writer.write(p.extent.offset + first * source.row_bytes(), piece);
        },
        [&](uint64_t, uint64_t, std::span<const std::byte> piece) {
          hasher.update(piece);
          advance(piece.size());
        });
    p.extent.xxh3 = hasher.digest();
  }
}

void copy_companion(const Store& store, const Companion& from, Companion& to, QmapWriter& writer) {
  store.verify(from.extent, "companion file '" + from.name + "'");
  to.name = from.name;
  to.extent = writer.append(store.stored(from.extent));
}

bool refer_extent(const Store& store, Model& model, Extent& extent) {
  if (extent.file != 0) return extent.file == kBlob;
  const MappedFile* self = store.self();
  if (self == nullptr || self->path().empty() || self->path().front() != '/') return true;
  auto it = std::ranges::find(model.files, self->path(), &FileRef::path);
  if (it == model.files.end()) {
    model.files.push_back({self->path(), self->size(), self->mtime_ns()});
    it = model.files.end() - 1;
  }
  extent.file = static_cast<uint32_t>(it - model.files.begin()) + 1;
  return false;
}

}  // namespace qp
