#include <array>
#include <filesystem>

#include "lib/qmap/manifest.h"

namespace qp {
namespace {

class Writer {
 public:
  explicit Writer(const std::function<void(std::string_view)>& sink) : sink_(sink) {}
  Writer& raw(std::string_view text) {
    out_ += text;
    if (out_.size() > (1 << 18)) flush();
    return *this;
  }
  Writer& str(std::string_view text) {
    append_json_string(out_, text);
    return *this;
  }
  Writer& num(uint64_t value) { return raw(std::to_string(value)); }
  void flush() {
    sink_(out_);
    out_.clear();
  }

 private:
  const std::function<void(std::string_view)>& sink_;
  std::string out_;
};

void put_dims(Writer& w, std::span<const uint64_t> dims) {
  w.raw("[");
  for (size_t i = 0; i < dims.size(); ++i) w.raw(i ? "," : "").num(dims[i]);
  w.raw("]");
}

void put_extent(Writer& w, const Extent& e) {
  w.raw("[").num(e.file).raw(",").num(e.offset).raw(",").num(e.length);
  if (e.xxh3) w.raw(",\"").raw(hex64(*e.xxh3)).raw("\"");
  if (e.zstd) w.raw(",\"zstd\"");
  w.raw("]");
}

void put_decode(Writer& w, const Decode& d) {
  w.raw(",\"decode\":{\"stored\":").str(dtype_name(d.stored));
  if (d.ggml_type >= 0) w.raw(",\"ggml_type\":").num(static_cast<uint64_t>(d.ggml_type));
  if (d.unpermute_heads > 0) w.raw(",\"unpermute_heads\":").num(d.unpermute_heads);
  if (d.stored_row_bytes > 0) w.raw(",\"stored_row_bytes\":").num(d.stored_row_bytes);
  if (d.layout != nullptr) {
    const LayoutArgs& a = d.layout_args;
    w.raw(",\"layout\":").str(d.layout->name).raw(",\"layout_args\":");
    put_dims(w, std::array<uint64_t, 6>{a.rows, a.cols, static_cast<uint64_t>(a.bits),
                                        static_cast<uint64_t>(a.stored_bits), a.bias,
                                        a.is_signed ? 1u : 0u});
  }
  if (!d.strides.empty()) {
    w.raw(",\"strides\":");
    put_dims(w, d.strides);
    if (d.whole > 0) w.raw(",\"begin\":").num(d.begin).raw(",\"whole\":").num(d.whole);
  }
  w.raw("}");
}

void put_tensor(Writer& w, const Tensor& t) {
  w.raw("{\"name\":").str(t.name).raw(",\"dtype\":").str(dtype_name(t.dtype)).raw(",\"shape\":");
  put_dims(w, t.shape.dims());
  if (t.scheme >= 0) w.raw(",\"scheme\":").num(static_cast<uint64_t>(t.scheme));
  if (t.dequantize) w.raw(",\"dequantize\":1");
  if (t.transposed) w.raw(",\"transposed\":1");
  if (!t.ggml.empty()) w.raw(",\"ggml\":").str(t.ggml);
  if (!t.source.empty()) w.raw(",\"source\":").str(t.source);
  w.raw(",\"parts\":[");
  for (size_t i = 0; i < t.parts.size(); ++i) {
    const Part& p = t.parts[i];
    w.raw(i ? ",{\"role\":" : "{\"role\":").str(name_of(p.role));
    // A float tensor's data has the dtype and shape of the tensor; not said twice.
    if (p.role != Role::data || p.dtype != t.dtype) w.raw(",\"dtype\":").str(dtype_name(p.dtype));
    if (p.role != Role::data) {
      w.raw(",\"shape\":");
      put_dims(w, p.shape.dims());
    }
    w.raw(",\"extent\":");
    put_extent(w, p.extent);
    if (p.decode) put_decode(w, *p.decode);
    w.raw("}");
  }
  w.raw("]}");
}

}  // namespace

void write_manifest(const Model& m, const std::string& base,
                    const std::function<void(std::string_view)>& sink) {
  Writer w(sink);
  w.raw("{\"qmap\":1,\"format\":").str(m.format).raw(",\"architecture\":").str(m.architecture);
  w.raw(",\n\"provenance\":")
      .raw(m.provenance.dump(-1, ' ', false, Json::error_handler_t::replace));
  w.raw(",\n\"schemes\":[");
  for (size_t i = 0; i < m.schemes.size(); ++i)
    w.raw(i ? "," : "").raw(to_json(m.schemes[i]).dump());
  w.raw("],\n\"files\":[");
  for (size_t i = 0; i < m.files.size(); ++i) {
    std::filesystem::path relative =
        std::filesystem::path(m.files[i].path).lexically_relative(base);
    w.raw(i ? ",[" : "[").str(relative.string()).raw(",").num(m.files[i].size).raw("]");
  }
  w.raw("],\n\"companions\":[");
  for (size_t i = 0; i < m.companions.size(); ++i) {
    w.raw(i ? ",[" : "[").str(m.companions[i].name).raw(",");
    put_extent(w, m.companions[i].extent);
    w.raw("]");
  }
  w.raw("],\n\"dropped\":[");
  for (size_t i = 0; i < m.dropped.size(); ++i) {
    w.raw(i ? ",[" : "[").str(m.dropped[i].first).raw(",").str(m.dropped[i].second).raw("]");
  }
  w.raw("]");
  if (m.kv_cache) w.raw(",\n\"kv_cache\":").raw(to_json(*m.kv_cache).dump());
  if (m.calibration) w.raw(",\n\"calibration\":").raw(to_json(*m.calibration).dump());
  w.raw(",\n\"tensors\":[");
  for (size_t i = 0; i < m.tensors.size(); ++i) {
    w.raw(i ? ",\n" : "\n");
    put_tensor(w, m.tensors[i]);
  }
  w.raw("]}\n").flush();
}

}  // namespace qp
