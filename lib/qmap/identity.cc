#include "lib/qmap/identity.h"

#include <cstring>
#include <filesystem>

namespace qp {
namespace {

// Feeds fields with their lengths, so that no two models run together into the same bytes.
class Feeder {
 public:
  void text(std::string_view s) {
    number(s.size());
    bytes_.append(s);
    spill();
  }
  void number(uint64_t v) { bytes_.append(reinterpret_cast<const char*>(&v), 8); }
  Hash128 digest() {
    flush();
    return hasher_.digest();
  }

 private:
  void spill() {
    if (bytes_.size() > (1 << 16)) flush();
  }
  void flush() {
    hasher_.update(std::as_bytes(std::span(bytes_)));
    bytes_.clear();
  }
  std::string bytes_;
  Hasher128 hasher_;
};

void feed_part(Feeder& f, const Part& p) {
  f.number(static_cast<uint64_t>(p.role) << 8 | static_cast<uint64_t>(p.dtype));
  for (uint64_t d : p.shape.dims()) f.number(d);
  f.number(p.extent.file);
  f.number(p.extent.offset);
  f.number(p.extent.length);
  f.number(p.extent.xxh3.value_or(0));
  if (!p.decode) return;
  const Decode& d = *p.decode;
  f.number(static_cast<uint64_t>(d.ggml_type));
  f.number(static_cast<uint64_t>(d.stored));
  f.number(d.unpermute_heads);
  f.number(d.stored_row_bytes);
  if (d.layout != nullptr) {
    const LayoutArgs& a = d.layout_args;
    f.text(d.layout->name);
    for (uint64_t v : {a.rows, a.cols, static_cast<uint64_t>(a.bits), static_cast<uint64_t>(a.stored_bits),
                       a.bias, static_cast<uint64_t>(a.is_signed)}) {
      f.number(v);
    }
  }
  for (uint64_t stride : d.strides) f.number(stride);
  if (d.whole > 0) {
    f.number(d.begin);
    f.number(d.whole);
  }
}

}  // namespace

Hash128 identity(const Model& model) {
  Feeder f;
  f.text(model.format);
  f.text(model.architecture);
  f.text(model.provenance.dump(-1, ' ', false, Json::error_handler_t::replace));
  for (const Scheme& s : model.schemes) f.text(to_json(s).dump());
  if (model.kv_cache) f.text(to_json(*model.kv_cache).dump());
  if (model.calibration) f.text(to_json(*model.calibration).dump());
  for (const FileRef& file : model.files) {
    f.text(std::filesystem::path(file.path).filename().string());
    f.number(file.size);
  }
  for (const auto& [name, why] : model.dropped) f.text(name);
  for (const Tensor& t : model.tensors) {
    f.text(t.name);
    f.text(t.ggml);
    f.number(static_cast<uint64_t>(t.dtype) << 1 | static_cast<uint64_t>(t.dequantize));
    f.number(static_cast<uint64_t>(t.scheme));
    for (uint64_t d : t.shape.dims()) f.number(d);
    for (const Part& p : t.parts) {
      feed_part(f, p);
      if (p.extent.file == kBlob) f.text(model.blobs.at(p.extent.offset));
    }
  }
  for (const Companion& c : model.companions) {
    f.text(c.name);
    f.number(c.extent.length);
    if (c.extent.file == kBlob) f.text(model.blobs.at(c.extent.offset));
  }
  return f.digest();
}

}  // namespace qp
