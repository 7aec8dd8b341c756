#include "lib/qmap/copy.h"

#include <algorithm>
#include <filesystem>

#include "lib/base/checked.h"
#include "lib/base/interrupt.h"
#include "lib/base/parallel.h"
#include "lib/qmap/decode.h"

namespace qp {
namespace {
constexpr uint64_t kCopyBytes = 4 << 20;
}

Part place_copy(const Part& part, QmapWriter& writer) {
  Part to = part;
  to.decode = nullptr;
  to.extent = writer.place(part.shape.rows() * row_bytes(part));
  return to;
}

void copy_part(const Store& store, const Part& from, Part& to, QmapWriter& writer,
               const std::function<void(uint64_t)>& advance) {
  uint64_t per_row = row_bytes(from), rows = from.shape.rows();
  uint64_t per_chunk = std::max<uint64_t>(1, kCopyBytes / std::max<uint64_t>(per_row, 1));
  uint64_t chunks = ceil_div(rows, per_chunk);
  auto size = [&](uint64_t i) { return std::min(per_chunk, rows - i * per_chunk); };
  struct Worker {
    std::vector<std::byte> scratch;
    std::span<const std::byte> piece;
  };
  std::vector<Worker> workers(static_cast<size_t>(threads()));
  Hasher64 hasher;
  parallel_ordered(
      chunks,
      [&](size_t i, int worker) {
        throw_if_interrupted();
        Worker& w = workers[static_cast<size_t>(worker)];
        w.piece = {store.rows(from, i * per_chunk, size(i), w.scratch), size(i) * per_row};
        writer.write(to.extent.offset + i * per_chunk * per_row, w.piece);
      },
      [&](size_t i, int worker) {
        hasher.update(workers[static_cast<size_t>(worker)].piece);
        store.drop(from, i * per_chunk, size(i));
        advance(size(i) * per_row);
      });
  to.extent.xxh3 = hasher.digest();
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
