// libFuzzer: GGUF bytes through the parser, the model, the generated companions and qverify's checks of
// its metadata. Whatever the bytes, the answer is an Error or a model whose extents lie inside the file.
//   clang++ -fsanitize=fuzzer,address,undefined ..; ./gguf_fuzz tests/fuzz/corpus/gguf
// Seeds: tests/data/gguf/make_gguf_fixtures.py.
#include <cstdlib>

#include "formats/gguf.h"
#include "formats/gguf/vocabulary.h"
#include "formats/verify/gguf.h"
#include "lib/base/error.h"
#include "lib/base/json.h"
#include "lib/qmap/decode.h"

namespace {

void require(bool ok) {
  if (!ok) std::abort();
}

bool is_json(const std::string& text) {
  try {
    qp::parse_json(text, "companion");
    return true;
  } catch (const qp::Error&) {
    return false;
  }
}

void check(const qp::Model& model, size_t size) {
  for (const qp::Tensor& t : model.tensors) {
    require(!t.name.empty() && t.parts.size() == 1);
    const qp::Extent& e = t.parts[0].extent;
    require(e.file == 1 && e.offset <= size && e.length <= size - e.offset);
    require(qp::stored_bytes(t.parts[0]) == e.length);
  }
  for (const qp::Companion& c : model.companions) {
    const std::string& text = model.blobs.at(c.extent.offset);
    if (c.name == "tokenizer.model") {
      require(qp::read_sentencepiece(text).has_value());
    } else {
      require(is_json(text));
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::span<const std::byte> bytes{reinterpret_cast<const std::byte*>(data), size};
  qp::looks_like_gguf(bytes);
  for (bool dequantize : {false, true}) {
    try {
      std::vector<qp::GgufFile> shards = {qp::parse_gguf(bytes, "fuzz.gguf")};
      qp::LoadOptions options;
      options.dequantize = dequantize;
      qp::Model model = qp::gguf_model(shards, options);
      check(model, size);
      for (const qp::Finding& f : qp::check_gguf(shards, &model)) require(!f.what.empty());
    } catch (const qp::Error& e) {
      require(e.kind() == qp::ErrorKind::input);
      break;
    }
  }
  return 0;
}
