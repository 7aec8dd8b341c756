// libFuzzer over what people and other programs write as JSON: config.json of a checkpoint with
// compressed-tensors weights of several layouts, and a recipe.
#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "formats/container/safetensors.h"
#include "formats/format.h"
#include "lib/config/recipe.h"
#include "lib/plan/plan.h"
#include "tests/fuzz/fuzz_input.h"

namespace {

using qp::DType;

// A directory with one safetensors file, made once; config.json changes with the input.
class Checkpoint {
 public:
  Checkpoint() {
    char name[] = "/tmp/qpipe-fuzz-XXXXXX";
    qp::fuzz::require(mkdtemp(name) != nullptr);
    directory_ = name;
    std::vector<qp::SafetensorsEntry> entries;
    auto add = [&](const char* tensor, DType dtype, qp::Shape shape) {
      entries.push_back({std::string("model.layers.0.") + tensor, dtype, shape, 0, 0});
    };
    add("mlp.up_proj.weight_packed", DType::i32, {8, 16});  // INT4, group 128
    add("mlp.up_proj.weight_scale", DType::bf16, {8, 1});
    add("mlp.up_proj.weight_zero_point", DType::i32, {1, 1});
    add("mlp.up_proj.weight_shape", DType::i64, {2});
    add("mlp.down_proj.weight", DType::f8_e4m3, {8, 128});  // FP8 per channel
    add("mlp.down_proj.weight_scale", DType::bf16, {8, 1});
    add("self_attn.q_proj.weight", DType::i8, {8, 128});  // INT8
    add("self_attn.q_proj.weight_scale", DType::bf16, {8, 1});
    add("self_attn.k_proj.weight_packed", DType::u8, {8, 64});  // NVFP4, MXFP4
    add("self_attn.k_proj.weight_scale", DType::f8_e4m3, {8, 8});
    add("self_attn.k_proj.weight_global_scale", DType::f32, {1});
    add("self_attn.o_proj.weight", DType::bf16, {8, 128});  // not quantized
    std::string bytes = qp::safetensors_header(entries);
    std::string data(entries.back().end, '\x01');
    for (const auto& e : entries) {
      if (e.dtype == DType::i64) data.replace(e.begin, 16, std::string("\x08\0\0\0\0\0\0\0\x80\0\0\0\0\0\0\0", 16));
    }
    std::ofstream(directory_ + "/model.safetensors", std::ios::binary) << bytes << data;
  }
  ~Checkpoint() { std::filesystem::remove_all(directory_); }

  std::string write_config(std::span<const std::byte> bytes) const {
    std::string path = directory_ + "/config.json";
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    return path;
  }
  const std::string& directory() const { return directory_; }

 private:
  std::string directory_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Checkpoint checkpoint;
  std::string path = checkpoint.write_config({reinterpret_cast<const std::byte*>(data), size});
  for (bool dequantize : {false, true}) {
    try {
      qp::LoadOptions options;
      options.dequantize = dequantize;
      qp::Store store(qp::load_checkpoint(checkpoint.directory(), options), nullptr, "fuzz");
      qp::fuzz::read_all(store);
    } catch (const qp::Error& e) {
      qp::fuzz::require(e.kind() == qp::ErrorKind::input || e.kind() == qp::ErrorKind::limit);
    }
  }
  try {
    qp::Recipe recipe = qp::read_recipe(path);
    std::filesystem::remove(path);  // the weights as they are: nothing says they are quantized
    qp::LoadOptions options;
    qp::Store store(qp::load_checkpoint(checkpoint.directory(), options), nullptr, "fuzz");
    qp::make_plan(store.model(), recipe, "fuzz");
  } catch (const qp::Error& e) {
    qp::fuzz::require(e.kind() != qp::ErrorKind::defect && e.kind() != qp::ErrorKind::system);
  }
  return 0;
}
