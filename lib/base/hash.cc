#include "lib/base/hash.h"

#define XXH_INLINE_ALL  // the layout of the state
#include <xxhash.h>

#include "lib/base/hash_loops.h"

namespace qp {
namespace {

// The state has one layout whatever compiled it, so parts of one hash may come from any of them.
const HashLoops& choose() {
#if defined(__x86_64__) && !defined(QP_PORTABLE)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("bmi2")) {
    return k_hash_avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2")) return k_hash_avx2;
#endif
  return k_hash_base;
}

const HashLoops& loops() {
  static const HashLoops& chosen = choose();
  return chosen;
}

}  // namespace

struct Hasher64::State {
  XXH3_state_t xx;
};
struct Hasher128::State {
  XXH3_state_t xx;
};

uint64_t xxh3_64(std::span<const std::byte> bytes) {
  return loops().whole(bytes.data(), bytes.size());
}

Hasher64::Hasher64() : state_(std::make_unique<State>()) { XXH3_64bits_reset(&state_->xx); }
Hasher64::~Hasher64() = default;
Hasher64::Hasher64(Hasher64&&) noexcept = default;
Hasher64& Hasher64::operator=(Hasher64&&) noexcept = default;
void Hasher64::update(std::span<const std::byte> bytes) {
  loops().update(&state_->xx, bytes.data(), bytes.size());
}
uint64_t Hasher64::digest() const { return XXH3_64bits_digest(&state_->xx); }

Hasher128::Hasher128() : state_(std::make_unique<State>()) { XXH3_128bits_reset(&state_->xx); }
Hasher128::~Hasher128() = default;
void Hasher128::update(std::span<const std::byte> bytes) {
  XXH3_128bits_update(&state_->xx, bytes.data(), bytes.size());
}
Hash128 Hasher128::digest() const {
  XXH128_hash_t h = XXH3_128bits_digest(&state_->xx);
  return {h.low64, h.high64};
}

std::string hex64(uint64_t value) {
  static const char* digits = "0123456789abcdef";
  std::string out(16, '0');
  for (size_t i = 16; i-- > 0; value >>= 4) out[i] = digits[value & 15];
  return out;
}
std::string Hash128::hex() const { return hex64(high) + hex64(low); }

}  // namespace qp
