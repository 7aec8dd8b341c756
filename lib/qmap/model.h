// A checkpoint as every program sees it: where the bytes are and what they mean. The in-memory
// form of a qmap manifest (man/qmap.5).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/hash.h"
#include "lib/base/json.h"
#include "lib/layout/layout.h"
#include "lib/qmap/calibration.h"
#include "lib/qmap/extent.h"
#include "lib/scheme/scheme.h"
#include "lib/tensor/dtype.h"

namespace qp {

struct Grown;

// How stored bytes become the elements a Part promises, applied when rows are read. Absent for
// plain row-major bytes. Steps in order: pick the stored row, decode, cast, flip.
struct Decode {
  int32_t ggml_type = -1;          // >= 0: rows are ggml blocks of this type id, decoded to f32
  DType stored = DType::u8;        // element type before the cast to Part::dtype (f32 after ggml)
  // > 0: rows are in llama.cpp's rotary order for this many heads: with hd = rows / heads, element
  // row h*hd + half*(hd/2) + j (half 0 or 1) is stored as row h*hd + j*2 + half. In a part of one
  // dimension the elements are meant.
  uint32_t unpermute_heads = 0;
  uint64_t stored_row_bytes = 0;   // > 0: distance between stored rows, if not dense
  // Not null: codes, zero points or scales in this arrangement; no other step then. `layout_args`
  // say what the part's bytes are: as many rows and row_bytes() as the part has.
  const Layout* layout = nullptr;
  LayoutArgs layout_args;
  std::vector<uint64_t> strides;   // PyTorch strides in elements, for tensors that are not dense
  // With strides: the part is a piece of an extent of `whole` bytes and starts at byte `begin` of it
  // (an expert of a stack). whole 0: the extent is the part's own.
  uint64_t begin = 0, whole = 0;
  // Not null: made from a smaller part (grown.h); no other step then. In memory alone.
  std::shared_ptr<const Grown> grown;
  bool operator==(const Decode&) const = default;
};

struct Part {
  Role role = Role::data;
  DType dtype = DType::u8;
  Shape shape;
  Extent extent;
  std::shared_ptr<const Decode> decode;
};

struct Tensor {
  std::string name;
  DType dtype = DType::bf16;  // of the (unquantized) elements; U8 for ggml blocks kept as they are
  Shape shape;
  int32_t scheme = -1;      // index into Model::schemes; -1: parts is one `data` (or `blocks`)
  bool dequantize = false;  // quantized parts that stand for their float values (--dequantize)
  // The float tensor is stored [.., in, out] (gpt-oss's experts): `shape` and values are that way,
  // the quantized parts are those of coded_shape().
  bool transposed = false;
  std::string ggml;         // name of the ggml type when the part is `blocks`
  std::string source;       // where it came from when renamed or decoded: "blk.0.attn_q.weight (q4_1)"
  std::vector<Part> parts;

  bool quantized() const { return (scheme >= 0 || !ggml.empty()) && !dequantize; }
  const Part* part(Role role) const;
  Shape coded_shape() const;  // [.., out, in], whose rows the parts have
  uint64_t stored_bytes() const;  // what a self-contained copy takes: decoded parts, or values
};

struct FileRef {
  std::string path;  // absolute in memory; relative to the qmap on disk
  uint64_t size = 0;
  int64_t mtime_ns = 0;
};

// A file that travels with the weights, byte for byte: config.json, tokenizer, licence ..
struct Companion {
  std::string name;  // plain file name or relative path without ".."
  Extent extent;
};

struct Model {
  std::string format;         // what it was loaded from: "safetensors", "gguf", "compressed-tensors" ..
  std::string architecture;   // config.json architectures[0], or ""
  Json config;                // config.json parsed (null when there is none)
  std::vector<Companion> companions;
  std::vector<Scheme> schemes;
  // How the KV cache is quantized, when its scales are among the tensors: F32 [1] each, named
  // ATTENTION.k_scale and ATTENTION.v_scale, multiplied.
  std::optional<QuantArgs> kv_cache;
  std::vector<Tensor> tensors;
  std::vector<FileRef> files;
  std::vector<std::string> blobs;  // generated companions' bytes: Extent{file = kBlob, offset = index, length = size}
  // Source tensors that are not in `tensors`, with the reason (ledger).
  std::vector<std::pair<std::string, std::string>> dropped;
  std::shared_ptr<const Calibration> calibration;  // null: never calibrated
  Json provenance = Json::array();  // one entry per program run, oldest first
  Hash128 id;                       // of the manifest, once read or written

  const Tensor* find(std::string_view name) const;  // linear; use index() for many
  std::map<std::string_view, const Tensor*> index() const;
  const Companion* companion(std::string_view name) const;
  int32_t scheme_index(const Scheme& scheme);  // adds it when new
  uint64_t parameters() const;
};

}  // namespace qp
