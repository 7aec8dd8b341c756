// libFuzzer over readers of quantized checkpoints: a small checkpoint of one family, whose config
// comes from the input and whose tensors may have another shape, dtype and content than they
// should. Input: family, tensor to change, its new first dimension, its new dtype, a byte that
// fills the data; then config.json (quant_model_description.json, model_index.json).
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
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
  std::string bytes = {};  // instead of what fills the data
};
struct Family {
  const char* name;  // of its seeds
  std::vector<Stored> tensors;
  std::string metadata = {};  // of the weight, in the file's header
};

constexpr const char* kState =
    R"({"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [8, 32]})";
constexpr const char* kInt8 =
    R"({"_type": "Int8Tensor", "_data": {"act_quant_kwargs": null, "block_size": [1, 32], "dtype": {"_type": "torch.dtype", "_data": "bfloat16"}}})";
constexpr const char* kIntx =
    R"({"_type": "IntxUnpackedToInt8Tensor", "_data": {"target_dtype": {"_data": "int4"}, "block_size": [1, 16], "dtype": {"_data": "bfloat16"}}})";

// One linear each. Another family is another row and a seed in make_corpora.py.
const std::vector<Family>& families() {
  static const std::vector<Family> all = {
      {"gptq",
       {{"qweight", DType::i32, {4, 32}},
        {"qzeros", DType::i32, {1, 4}},
        {"scales", DType::f16, {1, 32}},
        {"g_idx", DType::i32, {32}}}},
      {"marlin", {{"B", DType::i32, {1, 128}}, {"s", DType::f16, {1, 64}}}},
      {"awq",
       {{"qweight", DType::i32, {32, 4}},
        {"qzeros", DType::i32, {1, 4}},
        {"scales", DType::f16, {1, 32}}}},
      {"gemv",
       {{"qweight", DType::i32, {8, 4}},
        {"qzeros", DType::i32, {8, 4}},
        {"scales", DType::f16, {8, 32}}}},
      {"gemv-fast",
       {{"qweight", DType::i16, {2, 64}},
        {"qzeros", DType::f16, {8, 8}},
        {"scales", DType::f16, {8, 8}}}},
      {"auto-round",
       {{"weight_packed", DType::u8, {8, 32}},
        {"weight_scale", DType::u8, {8, 2}},
        {"weight_global_scale", DType::f32, {1}},
        {"input_global_scale", DType::f32, {1}}}},
      {"ct-packed",
       {{"weight_packed", DType::i32, {8, 4}},
        {"weight_scale", DType::f32, {8, 2}},
        {"weight_zero_point", DType::i32, {1, 2}},
        {"weight_shape", DType::i64, {2}, std::string("\10\0\0\0\0\0\0\0\40\0\0\0\0\0\0\0", 16)},
        {"weight_g_idx", DType::i32, {32}}}},
      {"ct-bytes",
       {{"weight", DType::i8, {8, 32}},
        {"weight_scale", DType::f32, {8, 1}},
        {"input_scale", DType::f32, {1}},
        {"input_zero_point", DType::i8, {1}}}},
      {"bnb-four",
       {{"weight", DType::u8, {128, 1}},
        {"weight.absmax", DType::f32, {4}},
        {"weight.quant_map", DType::f32, {16}},
        {"weight.quant_state.bitsandbytes__nf4",
         DType::u8,
         {std::string_view(kState).size()},
         kState}}},
      {"bnb-eight",
       {{"weight", DType::i8, {8, 32}},
        {"SCB", DType::f32, {8}},
        {"weight_format", DType::u8, {1}}}},
      {"torchao",
       {{"_weight_qdata", DType::i8, {8, 32}},
        {"_weight_scale", DType::f32, {8, 1}},
        {"_weight_zero_point", DType::i8, {8, 1}}},
       kInt8},
      {"torchao-intx",
       {{"_weight_qdata", DType::i8, {8, 32}},
        {"_weight_scale", DType::f32, {8, 2}},
        {"_weight_zero_point", DType::i8, {8, 2}}},
       kIntx},
      {"modelslim",
       {{"weight", DType::i8, {8, 32}},
        {"weight_scale", DType::f32, {8, 1}},
        {"weight_offset", DType::f32, {8, 1}}}},
      {"modelslim-static",
       {{"weight", DType::i8, {8, 32}},
        {"deq_scale", DType::f32, {8}},
        {"input_scale", DType::f32, {1}},
        {"input_offset", DType::f32, {1}},
        {"quant_bias", DType::i32, {8}}}},
      {"diffusers", {{"weight", DType::f8_e4m3, {8, 32}}, {"weight_scale", DType::f32, {1}}}},
      {"fp8-block",
       {{"weight", DType::f8_e4m3, {8, 32}}, {"weight_scale_inv", DType::f32, {1, 1}}}},
      {"fp8-tensor",
       {{"weight", DType::f8_e4m3, {8, 32}},
        {"weight_scale", DType::f32, {1}},
        {"input_scale", DType::f32, {1}}}},
      {"modelopt-nvfp4",
       {{"weight", DType::u8, {8, 16}},
        {"weight_scale", DType::f8_e4m3, {8, 2}},
        {"weight_scale_2", DType::f32, {1}},
        {"input_scale", DType::f32, {1}}}},
      {"modelopt-int4",
       {{"weight", DType::u8, {4, 32}},
        {"weight_scale", DType::f32, {8, 1}},
        {"pre_quant_scale", DType::bf16, {32}}}},
      {"mxfp4",
       {{"experts_blocks", DType::u8, {2, 4, 1, 16}}, {"experts_scales", DType::u8, {2, 4, 1}}}},
      {"quark-mxfp4", {{"weight", DType::u8, {8, 16}}, {"weight_scale", DType::u8, {8, 1}}}},
      {"quark-int4",
       {{"weight", DType::i32, {32, 1}},
        {"weight_scale", DType::bf16, {2, 8}},
        {"weight_zero_point", DType::i32, {2, 1}}}},
      {"w8a8", {{"weight", DType::i8, {8, 32}}, {"weight_scale", DType::f32, {8, 1}}}},
  };
  return all;
}

constexpr DType kTypes[] = {DType::i32, DType::f16, DType::bf16, DType::f32,
                            DType::u8,  DType::i8,  DType::i16,  DType::f8_e4m3};

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
    entries.push_back(
        {std::string("model.layers.0.mlp.up_proj.") + t.suffix, t.dtype, t.shape, 0, 0});
  }
  std::vector<std::pair<std::string, std::string>> metadata;
  if (!family.metadata.empty())
    metadata.emplace_back("model.layers.0.mlp.up_proj.weight", family.metadata);
  std::string header = qp::safetensors_header(entries, metadata);  // fills in the offsets
  std::string data(entries.back().end, static_cast<char>(head[4]));
  for (size_t i = 0; i < entries.size(); ++i) {
    const std::string& bytes = family.tensors[i].bytes;
    if (bytes.size() == entries[i].end - entries[i].begin)
      data.replace(entries[i].begin, bytes.size(), bytes);
  }
  std::ofstream(path, std::ios::binary) << header << data;
}

void write(const std::string& path, std::string_view text) {
  std::ofstream(path, std::ios::binary) << text;
}

// A pipeline, whose index comes from the input: its components may be anything.
void write_pipeline(const std::string& path, std::string_view index,
                    std::span<const uint8_t> head) {
  for (std::string folder : {"transformer", "transformer_2", "vae"}) {
    std::filesystem::create_directories(path + "/" + folder);
    write_weights(path + "/" + folder + "/diffusion_pytorch_model.safetensors", head);
    write(
        path + "/" + folder + "/config.json",
        R"({"_class_name": "X", "quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic"}})");
  }
  write(path + "/model_index.json", index);
}

void load(const std::string& path) {
  for (bool dequantize : {false, true}) {
    try {
      qp::LoadOptions options;
      options.dequantize = dequantize;
      qp::Store store(qp::load_checkpoint(path, options), nullptr, "fuzz");
      qp::fuzz::read_all(store);
    } catch (const qp::Error& e) {
      qp::fuzz::require(e.kind() == qp::ErrorKind::input || e.kind() == qp::ErrorKind::limit);
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Directory directory, pipeline;
  if (size < 5) return 0;
  std::string_view family = families()[data[0] % families().size()].name;
  std::string_view text(reinterpret_cast<const char*>(data + 5), size - 5);
  if (family == "diffusers") {
    write_pipeline(pipeline.path(), text, {data, 5});
    load(pipeline.path());
    return 0;
  }
  write_weights(directory.path() + "/model.safetensors", {data, 5});
  write(directory.path() + "/config.json", text);
  // ModelSlim's config is a file of its own.
  std::string description = directory.path() + "/quant_model_description.json";
  family.starts_with("modelslim") ? write(description, text)
                                  : void(std::filesystem::remove(description));
  load(directory.path());
  return 0;
}
