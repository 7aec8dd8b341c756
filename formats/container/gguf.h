// The GGUF container: header, metadata and tensor table of one file, checked against its size.
// Layout and the checks of ggml's own reader: reference/gguf.md section 1.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lib/kernels/ggml.h"
#include "lib/tensor/dtype.h"

namespace qp {

// On disk: never renumber.
enum class GgufType : uint32_t {
  u8 = 0,
  i8 = 1,
  u16 = 2,
  i16 = 3,
  u32 = 4,
  i32 = 5,
  f32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  u64 = 10,
  i64 = 11,
  f64 = 12,
};
std::string_view name_of(GgufType type);  // "u32", "string" ..

// A metadata value, still in its file. Scalars: `bytes` is the value. Strings: the text without
// its length. Arrays: `count` packed elements of type `element`, strings with their lengths.
struct GgufValue {
  GgufType type = GgufType::u8;
  GgufType element = GgufType::u8;
  uint64_t count = 1;
  std::span<const std::byte> bytes;
};

struct GgufTensor {
  std::string_view name;
  const GgmlType* type = nullptr;  // never null in a parsed file
  Shape shape;                     // PyTorch order: ggml's dimensions reversed
  uint64_t offset = 0;             // from the start of the file
  uint64_t bytes = 0;
};

// Everything but the data. Views point into the span that was parsed, which must outlive it.
// The getters return nothing when the key is absent, and throw an input error naming key and file
// when its type is another.
struct GgufFile {
  std::string path;
  std::span<const std::byte> bytes;  // the whole file
  uint32_t version = 3;
  uint64_t alignment = 32;
  std::vector<std::pair<std::string_view, GgufValue>> metadata;  // in the file's order
  std::vector<GgufTensor> tensors;                               // in the file's order

  const GgufValue* find(std::string_view key) const;
  std::optional<std::string_view> string_at(std::string_view key) const;
  std::optional<uint64_t> uint_at(std::string_view key) const;  // any integer type, not negative
  std::optional<bool> bool_at(std::string_view key) const;
  // f32 as the double with the same shortest decimal form (1e-05, not 9.99999974737875e-06).
  std::optional<double> real_at(std::string_view key) const;
  std::optional<std::vector<std::string_view>> strings_at(std::string_view key) const;
  std::optional<std::vector<float>> floats_at(std::string_view key) const;
  std::optional<std::vector<int64_t>> ints_at(std::string_view key) const;  // or one scalar
};

bool looks_like_gguf(std::span<const std::byte> first_bytes);

// Parses a whole file (its data section is only measured). Nothing is allocated from a count that
// the file is too small for. Errors: input, naming `path` and the tensor.
GgufFile parse_gguf(std::span<const std::byte> file, std::string_view path);

}  // namespace qp
