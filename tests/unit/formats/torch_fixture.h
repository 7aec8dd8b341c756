// Files that PyTorch wrote (tests/data/torch/make_torch_fixtures.py) and how tests look at them.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <span>
#include <string>
#include <vector>

#include "formats/container/torch_file.h"
#include "lib/base/error.h"

namespace qp {

inline std::string torch_fixture(const std::string& name) {
  std::ifstream in(std::string(QP_TEST_DATA) + "/torch/" + name, std::ios::binary);
  EXPECT_TRUE(in) << name;
  return {std::istreambuf_iterator<char>(in), {}};
}

inline std::span<const std::byte> as_bytes(const std::string& text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

inline TorchFile parse_torch(const std::string& content) {
  return parse_torch_file(as_bytes(content), "model.bin");
}

inline const TorchTensor& torch_tensor(const TorchFile& file, const std::string& name) {
  for (const TorchTensor& t : file.tensors) {
    if (t.name == name) return t;
  }
  throw std::out_of_range("no tensor " + name);
}

// The elements in row-major order, through offset and strides.
template <class T>
std::vector<T> torch_elements(const std::string& content, const TorchTensor& t) {
  std::vector<T> out;
  const auto visit = [&](auto&& self, size_t dim, uint64_t at) -> void {
    if (dim == t.shape.rank()) {
      T value;
      EXPECT_LE(at + sizeof value, content.size());
      std::memcpy(&value, content.data() + at, sizeof value);
      out.push_back(value);
      return;
    }
    for (uint64_t i = 0; i < t.shape[dim]; ++i) {
      self(self, dim + 1, at + i * t.strides[dim] * sizeof(T));
    }
  };
  visit(visit, 0, t.offset);
  return out;
}

// The message of the qp::Error that `action` throws; "" when it throws none.
inline std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_TRUE(error.kind() == ErrorKind::input || error.kind() == ErrorKind::limit);
    return error.what();
  }
  return "";
}

}  // namespace qp
