// A checkpoint of some family with chosen bytes, read and written by it.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "formats/format.h"
#include "formats/hf/prepare.h"
#include "formats/hf/writer.h"
#include "lib/base/error.h"
#include "lib/qmap/rows.h"
#include "lib/qmap/store.h"
#include "tests/unit/support/model_dir.h"

namespace qp {

struct MadeCheckpoint {
  std::vector<TestTensor> tensors;
  Json quantization;  // quantization_config
  Json config = {{"torch_dtype", "float32"}, {"tie_word_embeddings", false}};

  void write(const TempDir& dir) const {
    Json all = config;
    if (!quantization.is_null()) all["quantization_config"] = quantization;
    dir.write("config.json", all.dump());
    write_safetensors(dir / "model.safetensors", tensors);
  }
  TestTensor& at(const std::string& name) {
    auto it = std::ranges::find(tensors, name, &TestTensor::name);
    if (it == tensors.end()) throw std::out_of_range(name);
    return *it;
  }
  void remove(const std::string& name) {
    std::erase_if(tensors, [&](const TestTensor& t) { return t.name == name; });
  }
};

inline TestTensor bytes_tensor(std::string name, DType dtype, Shape shape,
                               const std::vector<int>& bytes) {
  std::string s;
  for (int b : bytes) s += static_cast<char>(b);
  return {std::move(name), dtype, shape, s};
}
inline TestTensor f32_tensor(std::string name, Shape shape, const std::vector<float>& values) {
  return {std::move(name), DType::f32, shape, raw_bytes(values)};
}

using Values = std::vector<float>;

inline Values values_of(const Store& store, const std::string& name) {
  const Tensor* t = store.model().find(name);
  if (t == nullptr) {
    ADD_FAILURE() << "no tensor " << name;
    return {};
  }
  RowSource source(store, *t);
  RowScratch scratch;
  const float* v = source.get_f32(0, source.rows(), scratch, true);
  return {v, v + source.rows() * source.cols()};
}
inline Values values_of(const MadeCheckpoint& c, const std::string& name) {
  TempDir dir;
  c.write(dir);
  return values_of(*open_model(dir.path()), name);
}

// "KIND: message" of the error that `open` throws, "" when there is none. Kind: the exit code.
template <class Open>
std::string failure_of(Open open) {
  try {
    open();
  } catch (const Error& e) {
    return std::to_string(e.exit_code()) + ": " + e.what();
  }
  return "";
}
inline std::string reading_fails(const MadeCheckpoint& c) {
  TempDir dir;
  c.write(dir);
  return failure_of([&] { open_model(dir.path()); });
}
// Of a family whose checkpoints are written and opened in a way of their own.
template <class Special>
std::string opening_fails(const Special& c) {
  TempDir dir;
  return failure_of([&] { c.open(dir); });
}

struct Exported {
  std::string error;  // as above
  Json config, quantization;
  std::map<std::string, TestTensor> tensors;
  std::string file(const std::string& name) const {
    return files.contains(name) ? files.at(name) : "";
  }
  std::map<std::string, std::string> files;
};

// Written in a family, self-check included, and read back as raw tensors.
inline Exported write_as(const Store& source, const std::string& format) {
  Exported out;
  TempDir dir;
  try {
    auto other = prepared(source, *find_format(format));
    const Store& store = other ? *other : source;
    ExportPlan plan = find_format(format)->plan(store, {});
    for (const OutFile& f : plan.files) out.files[f.name] = f.text;
    out.config = parse_json(plan.config, "config.json");
    out.quantization = out.config.value("quantization_config", Json());
    Progress progress;
    WriteOptions options;
    options.directory = dir / "out";
    options.sync = false;
    write_checkpoint(store, plan, options, progress);
    auto file = MappedFile::open(dir / "out/model.safetensors");
    SafetensorsHeader header = parse_safetensors(file->bytes(), "out");
    for (const SafetensorsEntry& e : header.entries) {
      auto bytes = file->bytes().subspan(header.data_offset + e.begin, e.end - e.begin);
      out.tensors[e.name] = {
          e.name, e.dtype, e.shape, {reinterpret_cast<const char*>(bytes.data()), bytes.size()}};
    }
  } catch (const Error& e) {
    out.error = std::to_string(e.exit_code()) + ": " + e.what();
  }
  return out;
}
inline Exported write_as(const MadeCheckpoint& c, const std::string& format) {
  TempDir dir;
  c.write(dir);
  return write_as(*open_model(dir.path()), format);
}

// Every tensor of the checkpoint is in the export, byte for byte, and nothing else.
inline void expect_same(const Exported& found, const MadeCheckpoint& want) {
  EXPECT_EQ(found.error, "");
  EXPECT_EQ(found.tensors.size(), want.tensors.size());
  for (const TestTensor& t : want.tensors) {
    auto it = found.tensors.find(t.name);
    if (it == found.tensors.end()) {
      ADD_FAILURE() << "no " << t.name;
      continue;
    }
    EXPECT_EQ(dtype_name(it->second.dtype), dtype_name(t.dtype)) << t.name;
    EXPECT_EQ(it->second.shape.str(), t.shape.str()) << t.name;
    EXPECT_EQ(it->second.bytes, t.bytes) << t.name;
  }
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace qp
