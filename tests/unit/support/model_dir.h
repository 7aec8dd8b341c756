// Checkpoint directories made by tests: tensors with chosen bytes, in a directory that goes away.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "formats/container/safetensors.h"
#include "formats/format.h"
#include "lib/base/json.h"
#include "lib/qmap/store.h"
#include "lib/tensor/minifloat.h"

namespace qp {

class TempDir {
 public:
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "qp-test-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp");
    path_ = pattern;
  }
  ~TempDir() {
    std::error_code ec;
    std::filesystem::remove_all(path_, ec);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ + "/" + name, std::ios::binary) << text;
  }

 private:
  std::string path_;
};

struct TestTensor {
  std::string name;
  DType dtype = DType::bf16;
  Shape shape;
  std::string bytes;
};

template <class T>
std::string raw_bytes(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}
inline std::string bf16_bytes(const std::vector<float>& values) {
  std::vector<uint16_t> out;
  for (float v : values) out.push_back(f32_to_bf16(v));
  return raw_bytes(out);
}

// A float tensor of any shape with small values that differ.
inline TestTensor bf16_tensor(std::string name, Shape shape) {
  std::vector<float> values(shape.elements().value());
  for (size_t i = 0; i < values.size(); ++i) values[i] = (static_cast<float>(i % 17) - 8) / 8;
  return {std::move(name), DType::bf16, shape, bf16_bytes(values)};
}

inline void write_safetensors(const std::string& path, const std::vector<TestTensor>& tensors) {
  std::vector<SafetensorsEntry> entries;
  for (const TestTensor& t : tensors) entries.push_back({t.name, t.dtype, t.shape, 0, 0});
  std::ofstream out(path, std::ios::binary);
  out << safetensors_header(entries);
  for (const TestTensor& t : tensors) {
    ASSERT_EQ(t.bytes.size(), byte_size(t.dtype, t.shape)) << t.name;
    out << t.bytes;
  }
}

// A Llama of two layers, hidden size 8, vocabulary 12: sound in every respect until a test changes
// `config` or `tensors`.
struct TinyLlama {
  Json config = {{"architectures", {"LlamaForCausalLM"}}, {"model_type", "llama"}, {"hidden_size", 8},
                 {"intermediate_size", 16}, {"num_hidden_layers", 2}, {"num_attention_heads", 2},
                 {"num_key_value_heads", 1}, {"head_dim", 4}, {"vocab_size", 12},
                 {"tie_word_embeddings", false}, {"torch_dtype", "bfloat16"}};
  std::vector<TestTensor> tensors;

  TinyLlama() {
    auto add = [&](std::string name, Shape shape) { tensors.push_back(bf16_tensor(std::move(name), shape)); };
    add("model.embed_tokens.weight", {12, 8});
    for (int l = 0; l < 2; ++l) {
      std::string p = "model.layers." + std::to_string(l) + ".";
      add(p + "self_attn.q_proj.weight", {8, 8});
      add(p + "self_attn.k_proj.weight", {4, 8});
      add(p + "self_attn.v_proj.weight", {4, 8});
      add(p + "self_attn.o_proj.weight", {8, 8});
      add(p + "mlp.gate_proj.weight", {16, 8});
      add(p + "mlp.up_proj.weight", {16, 8});
      add(p + "mlp.down_proj.weight", {8, 16});
      add(p + "input_layernorm.weight", {8});
      add(p + "post_attention_layernorm.weight", {8});
    }
    add("model.norm.weight", {8});
    add("lm_head.weight", {12, 8});
  }

  TestTensor& at(const std::string& name) {
    auto it = std::ranges::find(tensors, name, &TestTensor::name);
    if (it == tensors.end()) throw std::out_of_range(name);
    return *it;
  }
  void remove(const std::string& name) {
    std::erase_if(tensors, [&](const TestTensor& t) { return t.name == name; });
  }

  // FP8 per channel, as compressed-tensors stores it: every linear but lm_head.
  void quantize_fp8() {
    Json args = {{"num_bits", 8}, {"type", "float"}, {"strategy", "channel"}, {"symmetric", true}, {"dynamic", false}};
    Json input = args;
    input["strategy"] = "token";
    input["dynamic"] = true;
    config["quantization_config"] = {
        {"quant_method", "compressed-tensors"}, {"format", "float-quantized"}, {"ignore", {"lm_head"}},
        {"config_groups", {{"group_0", {{"targets", {"Linear"}}, {"weights", args}, {"input_activations", input}, {"format", "float-quantized"}}}}}};
    std::vector<TestTensor> out;
    for (TestTensor& t : tensors) {
      bool linear = t.name.find("_proj.weight") != std::string::npos;
      if (!linear) {
        out.push_back(t);
        continue;
      }
      std::string codes(t.shape.elements().value(), '\0');
      for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<char>(0x20 + i % 64);
      uint64_t rows = t.shape[0];
      std::vector<float> scales(rows);
      for (size_t i = 0; i < rows; ++i) scales[i] = 0.5f + static_cast<float>(i) / 64;
      out.push_back({t.name, DType::f8_e4m3, t.shape, codes});
      out.push_back({t.name + "_scale", DType::bf16, Shape{rows, 1}, bf16_bytes(scales)});
    }
    tensors = std::move(out);
  }

  // config, weights, and the companions whose absence would be noted.
  void write(const TempDir& dir) const {
    dir.write("config.json", config.dump(2));
    dir.write("generation_config.json", "{}");
    dir.write("tokenizer.json", "{}");
    write_safetensors(dir / "model.safetensors", tensors);
  }

  // The same in two shards with an index. `change` may spoil the index before it is written.
  void write_sharded(const TempDir& dir, const std::function<void(Json&)>& change = nullptr) const {
    dir.write("config.json", config.dump(2));
    dir.write("generation_config.json", "{}");
    dir.write("tokenizer.json", "{}");
    Json map = Json::object();
    uint64_t total = 0;
    size_t half = tensors.size() / 2;
    for (size_t k = 0; k < 2; ++k) {
      std::vector<TestTensor> part(tensors.begin() + static_cast<long>(k * half), k ? tensors.end() : tensors.begin() + static_cast<long>(half));
      std::string name = "model-0000" + std::to_string(k + 1) + "-of-00002.safetensors";
      for (const TestTensor& t : part) map[t.name] = name, total += t.bytes.size();
      write_safetensors(dir / name, part);
    }
    Json index = {{"metadata", {{"total_size", total}}}, {"weight_map", map}};
    if (change) change(index);
    dir.write("model.safetensors.index.json", index.dump());
  }
};

inline std::unique_ptr<Store> open_model(const std::string& path) {
  return std::make_unique<Store>(load_checkpoint(path, LoadOptions{}), nullptr, path);
}

}  // namespace qp
