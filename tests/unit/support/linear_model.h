// A checkpoint of one quantized linear, model.layers.0.mlp.up_proj, whose stored tensors a test spells
// out: what families have in common in their tests.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "formats/hf/writer.h"
#include "lib/base/error.h"
#include "lib/qmap/rows.h"
#include "tests/unit/support/model_dir.h"

namespace qp {

struct LinearModel {
  inline static const std::string kModule = "model.layers.0.mlp.up_proj";
  Json config = {{"architectures", {"LlamaForCausalLM"}}, {"model_type", "llama"}, {"num_hidden_layers", 1},
                 {"torch_dtype", "float32"}};
  std::vector<TestTensor> tensors;
  std::vector<std::pair<std::string, std::string>> files;  // beside config.json

  Json& quantization() { return config["quantization_config"]; }
  template <class T>
  void set(const std::string& suffix, DType dtype, Shape shape, const std::vector<T>& values) {
    remove(suffix);
    tensors.push_back({kModule + "." + suffix, dtype, shape, raw_bytes(values)});
  }
  void set_f16(const std::string& suffix, Shape shape, const std::vector<float>& values) {
    std::vector<uint16_t> out;
    for (float v : values) out.push_back(f32_to_f16(v));
    set(suffix, DType::f16, shape, out);
  }
  void remove(const std::string& suffix) {
    std::erase_if(tensors, [&](const TestTensor& t) { return t.name == kModule + "." + suffix; });
  }

  std::unique_ptr<Store> open(const LoadOptions& options = {}) const {
    static std::vector<std::unique_ptr<TempDir>> kept;  // a store reads its files late
    const TempDir& dir = *kept.emplace_back(std::make_unique<TempDir>());
    dir.write("config.json", config.dump(2));
    for (const auto& [name, text] : files) dir.write(name, text);
    write_safetensors(dir / "model.safetensors", tensors);
    return std::make_unique<Store>(load_checkpoint(dir.path(), options), nullptr, dir.path());
  }
  // The message of what is wrong with it; it must be of kind input and name the module.
  std::string refusal() const {
    try {
      open();
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::input) << e.what();
      return e.what();
    }
    return "nothing is wrong with it";
  }
};

// Values of the linear, row by row.
inline std::vector<float> linear_values(const Store& store) {
  const Tensor* t = store.model().find(LinearModel::kModule + ".weight");
  if (t == nullptr) throw std::out_of_range("no linear");
  RowSource source(store, *t);
  RowScratch scratch;
  const float* v = source.get_f32(0, source.rows(), scratch, true);
  return {v, v + source.rows() * source.cols()};
}

inline ExportPlan plan_as(const Store& store, const std::string& format, const ExportOptions& options = {}) {
  return find_format(format)->plan(store, options);
}

// The checkpoint as `format` writes it, verified by what reads it.
class Exported {
 public:
  Exported(const Store& store, const std::string& format, const ExportOptions& options = {}) {
    WriteOptions write;
    write.directory = dir_ / "out";
    write.sync = false;
    Progress progress;
    write_checkpoint(store, plan_as(store, format, options), write, progress);
    store_ = open_model(write.directory);
  }
  const Store& store() const { return *store_; }
  Json config() const { return parse_json(text("config.json"), "config.json")["quantization_config"]; }
  std::string text(const std::string& name) const { return read_text_file(dir_ / "out/" + name, 1 << 20); }
  // Stored bytes of a tensor of the linear.
  std::vector<uint32_t> words(const std::string& suffix) const {
    std::string file = text("model.safetensors");
    uint64_t header;
    std::memcpy(&header, file.data(), 8);
    Json entries = parse_json(std::string_view(file).substr(8, header), "header");
    const Json& at = entries.at(LinearModel::kModule + "." + suffix).at("data_offsets");
    std::vector<uint32_t> out((at[1].get<size_t>() - at[0].get<size_t>()) / 4);
    std::memcpy(out.data(), file.data() + 8 + header + at[0].get<size_t>(), out.size() * 4);
    return out;
  }

 private:
  TempDir dir_;
  std::unique_ptr<Store> store_;
};

// The message of a refusal to write: of kind limit, naming the tensor.
inline std::string write_refusal(const Store& store, const std::string& format, const ExportOptions& options = {}) {
  try {
    plan_as(store, format, options);
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::limit) << e.what();
    EXPECT_EQ(e.tensor(), LinearModel::kModule + ".weight");
    return e.what();
  }
  return "it was written";
}

}  // namespace qp
