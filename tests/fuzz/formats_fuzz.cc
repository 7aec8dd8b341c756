// libFuzzer over readers of quantized checkpoints: a small checkpoint of one family, whose config comes
// from the input and whose tensors may have another shape, dtype and content than they should.
// Input: family, tensor to change, its new first dimension, its new dtype, a byte that fills the data;
// then config.json.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <vector>

#include "formats/container/safetensors.h"
#include "formats/format.h"
#include "tests/fuzz/fuzz_input.h"

namespace {

using qp::DType;
using qp::Shape;

struct Stored {
  const char* suffix;
  DType dtype;
  Shape shape;
};
struct Family {
  const char* name;  // of its seeds
  std::vector<Stored> tensors;
};

// One linear each. Another family is another row and a seed in make_corpora.py.
const std::vector<Family>& families() {
  static const std::vector<Family> all = {
      {"gptq", {{"qweight", DType::i32, {4, 32}}, {"qzeros", DType::i32, {1, 4}}, {"scales", DType::f16, {1, 32}}, {"g_idx", DType::i32, {32}}}},
      {"marlin", {{"B", DType::i32, {1, 128}}, {"s", DType::f16, {1, 64}}}},
      {"awq", {{"qweight", DType::i32, {32, 4}}, {"qzeros", DType::i32, {1, 4}}, {"scales", DType::f16, {1, 32}}}},
      {"gemv", {{"qweight", DType::i32, {8, 4}}, {"qzeros", DType::i32, {8, 4}}, {"scales", DType::f16, {8, 32}}}},
      {"gemv-fast", {{"qweight", DType::i16, {2, 64}}, {"qzeros", DType::f16, {8, 8}}, {"scales", DType::f16, {8, 8}}}},
      {"auto-round", {{"weight_packed", DType::u8, {8, 32}}, {"weight_scale", DType::u8, {8, 2}}, {"weight_global_scale", DType::f32, {1}},
                      {"input_global_scale", DType::f32, {1}}}},
  };
  return all;
}

constexpr DType kTypes[] = {DType::i32, DType::f16, DType::bf16, DType::f32, DType::u8, DType::i8, DType::i16, DType::f8_e4m3};

class Directory {
 public:
  Directory() {
    char name[] = "/tmp/qpipe-fuzz-XXXXXX";
    qp::fuzz::require(mkdtemp(name) != nullptr);
    path_ = name;
  }
  ~Directory() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

void write_weights(const std::string& path, std::span<const uint8_t> head) {
  const Family& family = families()[head[0] % families().size()];
  std::vector<qp::SafetensorsEntry> entries;
  for (size_t i = 0; i < family.tensors.size(); ++i) {
    Stored t = family.tensors[i];
    if (head[1] == i) {
      t.shape[0] = head[2];
      t.dtype = kTypes[head[3] % std::size(kTypes)];
    }
    entries.push_back({std::string("model.layers.0.mlp.up_proj.") + t.suffix, t.dtype, t.shape, 0, 0});
  }
  std::ofstream out(path, std::ios::binary);
  out << qp::safetensors_header(entries);  // fills in the offsets
  out << std::string(entries.back().end, static_cast<char>(head[4]));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Directory directory;
  if (size < 5) return 0;
  write_weights(directory.path() + "/model.safetensors", {data, 5});
  std::ofstream(directory.path() + "/config.json", std::ios::binary)
      .write(reinterpret_cast<const char*>(data + 5), static_cast<std::streamsize>(size - 5));
  for (bool dequantize : {false, true}) {
    try {
      qp::LoadOptions options;
      options.dequantize = dequantize;
      qp::Store store(qp::load_checkpoint(directory.path(), options), nullptr, "fuzz");
      qp::fuzz::read_all(store);
    } catch (const qp::Error& e) {
      qp::fuzz::require(e.kind() == qp::ErrorKind::input || e.kind() == qp::ErrorKind::limit);
    }
  }
  return 0;
}
