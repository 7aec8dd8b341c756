// A store whose tensors hold bytes that a test chose: for checks of numbers and comparisons.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lib/qmap/store.h"
#include "tests/unit/support/model_dir.h"

namespace qp {

class TensorStore {
 public:
  // Adds a part's bytes; `put` lays them one after the other into one file.
  Extent put(const std::string& bytes) {
    Extent e{1, data_.size(), bytes.size(), std::nullopt, false};
    data_ += bytes;
    return e;
  }
  Tensor& add_float(std::string name, DType dtype, Shape shape, const std::string& bytes) {
    Tensor t;
    t.name = std::move(name);
    t.dtype = dtype;
    t.shape = shape;
    t.parts.push_back({Role::data, dtype, shape, put(bytes), nullptr});
    model_.tensors.push_back(std::move(t));
    return model_.tensors.back();
  }
  // A quantized tensor; `parts` gives the bytes of each part the scheme has, in its order.
  Tensor& add_quantized(std::string name, const Scheme& scheme, Shape shape, DType dtype,
                        const std::vector<std::string>& parts) {
    Tensor t;
    t.name = std::move(name);
    t.dtype = dtype;
    t.shape = shape;
    t.scheme = model_.scheme_index(scheme);
    auto specs = part_specs(scheme, shape, dtype);
    EXPECT_EQ(specs.size(), parts.size());
    for (size_t i = 0; i < specs.size(); ++i) {
      EXPECT_EQ(byte_size(specs[i].dtype, specs[i].shape), parts[i].size());
      t.parts.push_back({specs[i].role, specs[i].dtype, specs[i].shape, put(parts[i]), nullptr});
    }
    model_.tensors.push_back(std::move(t));
    return model_.tensors.back();
  }
  // Writes the file; nothing can be added afterwards.
  const Store& store() {
    if (!store_) {
      dir_.write("data", data_);
      auto file = MappedFile::open(dir_ / "data");
      model_.files.push_back({dir_ / "data", file->size(), file->mtime_ns()});
      store_ = std::make_unique<Store>(model_, nullptr, "test");
    }
    return *store_;
  }
  const Tensor& tensor(size_t i) { return store().model().tensors.at(i); }

 private:
  TempDir dir_;
  std::string data_;
  Model model_;
  std::unique_ptr<Store> store_;
};

inline Scheme int_scheme(int bits, Strategy strategy, int group = 0, bool symmetric = true) {
  Scheme s;
  s.weights.num_bits = bits;
  s.weights.strategy = strategy;
  s.weights.group_size = group;
  s.weights.symmetric = symmetric;
  return s;
}
inline Scheme fp8_scheme(Strategy strategy) {
  Scheme s;
  s.weights.type = NumType::floating;
  s.weights.strategy = strategy;
  return s;
}

}  // namespace qp
