// Writes GGUF files byte by byte for tests, wrong ones too.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "formats/container/gguf.h"

namespace qp {

class GgufBytes {
 public:
  uint32_t version = 3;
  uint64_t alignment = 32;       // of the data; say so with number("general.alignment") too
  int64_t tensors_claimed = -1;  // < 0: the true count
  int64_t pairs_claimed = -1;
  std::string magic = "GGUF";

  template <class T>
  static std::string raw(T value) {
    static_assert(std::is_arithmetic_v<T>);
    std::string s(sizeof value, '\0');
    std::memcpy(s.data(), &value, sizeof value);
    return s;
  }
  static std::string text(std::string_view s) { return raw<uint64_t>(s.size()) + std::string(s); }

  // A pair whose value is given as bytes.
  GgufBytes& pair(std::string_view key, uint32_t type, const std::string& value) {
    pairs_.push_back(text(key) + raw(type) + value);
    return *this;
  }
  GgufBytes& string(std::string_view key, std::string_view s) { return pair(key, 8, text(s)); }
  GgufBytes& number(std::string_view key, uint32_t v) { return pair(key, 4, raw(v)); }
  GgufBytes& real(std::string_view key, float v) { return pair(key, 6, raw(v)); }
  GgufBytes& boolean(std::string_view key, bool v) {
    return pair(key, 7, std::string(1, v ? '\1' : '\0'));
  }
  GgufBytes& strings(std::string_view key, const std::vector<std::string>& all) {
    std::string value = raw<uint32_t>(8) + raw<uint64_t>(all.size());
    for (const std::string& s : all) value += text(s);
    return pair(key, 9, value);
  }
  template <class T>
  GgufBytes& numbers(std::string_view key, uint32_t element, const std::vector<T>& all) {
    std::string value = raw(element) + raw<uint64_t>(all.size());
    for (T v : all) value += raw(v);
    return pair(key, 9, value);
  }

  // dims in ggml's order. The data are `data`, or zeros of the right size where that is known.
  GgufBytes& tensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                    std::string data) {
    return tensor_at(name, dims, type, data_.size(), std::move(data));
  }
  GgufBytes& tensor_at(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type,
                       uint64_t offset, std::string data) {
    std::string info = text(name) + raw(static_cast<uint32_t>(dims.size()));
    for (uint64_t d : dims) info += raw(d);
    tensors_.push_back(info + raw(type) + raw(offset));
    data_ += data;
    pad(data_);
    return *this;
  }
  GgufBytes& zeros(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type) {
    const GgmlType* t = ggml_type(type);
    uint64_t n = 1;
    for (uint64_t d : dims) n *= d;
    return tensor(name, dims, type, std::string(n / t->block * t->bytes, '\0'));
  }

  std::string build() const {
    std::string out = magic + raw(version);
    out += raw(tensors_claimed < 0 ? static_cast<int64_t>(tensors_.size()) : tensors_claimed);
    out += raw(pairs_claimed < 0 ? static_cast<int64_t>(pairs_.size()) : pairs_claimed);
    for (const std::string& p : pairs_) out += p;
    for (const std::string& t : tensors_) out += t;
    if (!tensors_.empty()) pad(out);
    return out + data_;
  }

 private:
  void pad(std::string& s) const { s.resize((s.size() + alignment - 1) / alignment * alignment); }
  std::vector<std::string> pairs_, tensors_;
  std::string data_;
};

inline std::span<const std::byte> as_span(const std::string& s) {
  return {reinterpret_cast<const std::byte*>(s.data()), s.size()};
}

}  // namespace qp
