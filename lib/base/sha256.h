// SHA-256 (FIPS 180-4): for identities that others computed with it.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace qp {

std::string sha256_hex(std::string_view text);  // 64 digits, lower case

// A running hash, fed in order.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  void update(std::span<const std::byte> bytes);
  std::string hex();  // 64 digits, lower case; once

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace qp
