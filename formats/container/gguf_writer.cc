#include "formats/container/gguf_writer.h"

#include <bit>
#include <cstdio>
#include <cstring>
#include <type_traits>

#include "formats/container/gguf.h"
#include "lib/base/checked.h"
#include "lib/base/error.h"

namespace qp {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF is written as memory holds it");

constexpr size_t kMaxName = 63, kMaxDims = 4;
constexpr uint32_t kVersion = 3;

template <class T>
void put(std::string& out, T value) {
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  out.append(bytes, sizeof value);
}

void put_string(std::string& out, std::string_view text) {
  put(out, uint64_t{text.size()});
  out += text;
}

void put_type(std::string& out, GgufType type) { put(out, static_cast<uint32_t>(type)); }

template <class T>
constexpr GgufType type_of() {
  if constexpr (std::is_same_v<T, uint16_t>) return GgufType::u16;
  if constexpr (std::is_same_v<T, uint32_t>) return GgufType::u32;
  if constexpr (std::is_same_v<T, int32_t>) return GgufType::i32;
  if constexpr (std::is_same_v<T, float>) return GgufType::f32;
  if constexpr (std::is_same_v<T, bool>) return GgufType::boolean;
  if constexpr (std::is_same_v<T, std::string>) return GgufType::string;
}

template <class T>
void put_element(std::string& out, const T& value) {
  if constexpr (std::is_same_v<T, std::string>) {
    put_string(out, value);
  } else if constexpr (std::is_same_v<T, bool>) {
    out += value ? '\1' : '\0';
  } else {
    put(out, value);
  }
}

struct ValueWriter {
  std::string& out;
  template <class T>
  void operator()(const T& value) const {
    put_type(out, type_of<T>());
    put_element(out, value);
  }
  template <class T>
  void operator()(const std::vector<T>& values) const {
    put_type(out, GgufType::array);
    put_type(out, type_of<T>());
    put(out, uint64_t{values.size()});
    for (const T& value : values) put_element<T>(out, value);
  }
};

}  // namespace

uint64_t gguf_bytes(const std::string& name, const GgmlType& type, const Shape& shape) {
  auto refuse = [&](const std::string& what) { return limit_error(what).tensor(name); };
  if (name.size() > kMaxName) throw refuse("has a name longer than ggml's 63 bytes");
  if (shape.rank() > kMaxDims) throw refuse("has more dimensions than ggml's four");
  if (shape.cols() % type.block != 0) {
    throw refuse("has rows of " + std::to_string(shape.cols()) + ", which are no whole blocks of " +
                 std::string(type.name));
  }
  auto rows =
      shape.elements() ? checked_mul(shape.rows(), shape.cols() / type.block) : std::nullopt;
  auto bytes = rows ? checked_mul(*rows, type.bytes) : std::nullopt;
  if (!bytes || *bytes > INT64_MAX) throw refuse("is too large");
  return *bytes;
}

std::string gguf_header(const ggml::Metadata& metadata, std::span<const GgufEntry> tensors) {
  std::string out = "GGUF";
  put(out, kVersion);
  put(out, uint64_t{tensors.size()});
  put(out, uint64_t{metadata.values().size()});
  for (const auto& [key, value] : metadata.values()) {
    put_string(out, key);
    std::visit(ValueWriter{out}, value);
  }
  uint64_t offset = 0;
  for (const GgufEntry& t : tensors) {
    put_string(out, t.name);
    put(out, static_cast<uint32_t>(t.shape.rank()));
    for (size_t i = t.shape.rank(); i-- > 0;) put(out, t.shape[i]);
    put(out, t.type->id);
    put(out, offset);
    offset += round_up(t.bytes, kGgufAlignment);
  }
  out.resize(round_up(out.size(), kGgufAlignment), '\0');
  return out;
}

std::string gguf_shard_name(const std::string& prefix, size_t number, size_t count) {
  char text[64];
  std::snprintf(text, sizeof text, "-%05zu-of-%05zu.gguf", number, count);
  return prefix + text;
}

}  // namespace qp
