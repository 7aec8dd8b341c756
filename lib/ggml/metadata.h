// Metadata of a GGUF as a list of typed values (reference/gguf.md section 9).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace qp::ggml {

// The types that llama.cpp's converter writes; its loader insists on them.
using Value =
    std::variant<uint16_t, uint32_t, int32_t, float, bool, std::string, std::vector<int32_t>,
                 std::vector<float>, std::vector<bool>, std::vector<std::string>>;

// In the order of writing. Setting a key again replaces its value where it is.
class Metadata {
 public:
  explicit Metadata(std::string architecture) : architecture_(std::move(architecture)) {}

  void set(std::string key, Value value);
  // "ARCH.key". Counts are checked to fit by the caller (Config::count).
  void count(std::string_view key, uint64_t n) { own(key, static_cast<uint32_t>(n)); }
  void real(std::string_view key, double v) { own(key, static_cast<float>(v)); }
  void own(std::string_view key, Value value) {
    set(architecture_ + "." + std::string(key), std::move(value));
  }
  const Value* find(std::string_view key) const;
  const std::vector<std::pair<std::string, Value>>& values() const { return values_; }

 private:
  std::string architecture_;
  std::vector<std::pair<std::string, Value>> values_;
};

}  // namespace qp::ggml
