#include "lib/qmap/copy.h"

#include <algorithm>
#include <memory>

#include "lib/qmap/decode.h"

namespace qp {
namespace {
constexpr uint64_t kCopyBytes = 4 << 20;
}

Tensor place_copy(const Tensor& tensor, QmapWriter& writer) {
  Tensor to = tensor;
  if (tensor.dequantize) {
    to.scheme = -1;
    to.dequantize = to.transposed = false;
    to.ggml.clear();
    to.parts = {Part{Role::data, tensor.dtype, tensor.shape, {}, nullptr}};
  }
  for (Part& p : to.parts) {
    p.decode = nullptr;
    p.extent = writer.place(p.shape.rows() * row_bytes(p));
  }
  return to;
}

void add_copy_jobs(const Store& store, const Tensor& from, Tensor& to, QmapWriter& writer,
                   const std::function<void(uint64_t)>& advance, std::vector<RowJob>& jobs) {
  size_t parts = from.dequantize ? 1 : from.parts.size();  // `to` may have more, made otherwise
  for (size_t k = 0; k < parts; ++k) {
    Part& p = to.parts[k];
    RowSource source = from.dequantize ? RowSource(store, from) : RowSource(store, from.parts[k]);
    uint64_t row = source.row_bytes(), begin = p.extent.offset;
    auto hasher = std::make_shared<Hasher64>();
    jobs.push_back({.source = source,
                    .chunk_bytes = kCopyBytes,
                    .work = [&writer, row, begin](const RowChunk& c) {
                      writer.write(begin + c.first * row, c.rows);
                    },
                    .retire = [&advance, hasher](const RowChunk& c) {
                      hasher->update(c.rows);
                      advance(c.rows.size());
                    },
                    .close = [&p, hasher] { p.extent.xxh3 = hasher->digest(); }});
  }
}

void copy_tensor(const Store& store, const Tensor& from, Tensor& to, QmapWriter& writer,
                 const std::function<void(uint64_t)>& advance) {
  std::vector<RowJob> jobs;
  add_copy_jobs(store, from, to, writer, advance, jobs);
  run_row_jobs(jobs);
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

void carry(const Store& store, Model& model, QmapWriter& writer) {
  std::vector<std::pair<size_t, const Tensor*>> copied;
  for (size_t i = 0; i < model.tensors.size(); ++i) {
    const Tensor& from = store.model().tensors[i];
    bool copy = false;
    for (Part& p : model.tensors[i].parts) copy = refer_extent(store, model, p.extent) || copy;
    if (!copy) continue;
    model.tensors[i] = place_copy(from, writer);
    copied.emplace_back(i, &from);
  }
  for (size_t i = 0; i < model.companions.size(); ++i) {
    Companion& c = model.companions[i];
    if (c.extent.file == kBlob) continue;
    if (refer_extent(store, model, c.extent)) {
      copy_companion(store, store.model().companions[i], c, writer);
    }
  }
  writer.reserve();
  for (auto [i, from] : copied) {
    for (const Part& p : from->parts) store.verify(*from, p);
    copy_tensor(store, *from, model.tensors[i], writer, [](uint64_t) {});
  }
}

void carry_calibration(const Store& store, Model& model, QmapWriter& writer, bool copy) {
  if (!model.calibration) return;
  Calibration c = *model.calibration;
  auto carry_extent = [&](Extent& e, const std::string& what) {
    Extent from = e;
    if (!copy && !refer_extent(store, model, e)) return;
    store.verify(from, what);
    e = writer.append(store.stored(from));
  };
  carry_extent(c.tokens, "token windows");
  for (InputStatistics& s : c.inputs) carry_extent(s.extent, "statistics of '" + s.module + "'");
  model.calibration = std::make_shared<const Calibration>(std::move(c));
}

}  // namespace qp
