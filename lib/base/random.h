// Random numbers that are the same on every machine.
#pragma once

#include <cstdint>

namespace qp {

// SplitMix64 (Steele, Lea, Flood 2014).
class SplitMix64 {
 public:
  explicit SplitMix64(uint64_t seed) : state_(seed) {}
  uint64_t next();
  // Uniform in [0, bound), bound > 0 (Lemire 2019, with rejection).
  uint64_t below(uint64_t bound);

 private:
  uint64_t state_;
};

}  // namespace qp
