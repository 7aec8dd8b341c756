// Chooses the implementation for this process.
#include <array>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>

#include "lib/base/error.h"
#include "lib/gemm/backends.h"
#include "lib/gemm/gemm.h"
#include "lib/kernels/kernels.h"

#if defined(__x86_64__) && !defined(QP_PORTABLE)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace qp::gemm {
namespace {

struct Found {
  std::array<Pair, 6> pairs{};
  size_t size = 0;
  void add(const Pair& pair) {
    if (kernels::supports(pair.isa)) pairs[size++] = pair;
  }
};

#if defined(__x86_64__) && !defined(QP_PORTABLE)
// Linux saves the tiles of those processes alone that asked for it; holds for all threads.
bool may_use_tiles() {
  constexpr long kAskFor = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return kernels::supports("amx") && syscall(SYS_arch_prctl, kAskFor, kTileData) == 0;
}
#endif

Found find_supported() {
  Found f;
  f.add({"scalar", &k_scalar_bf16, &k_scalar_f32});
#if defined(QP_PORTABLE)
  // That one only.
#elif defined(__x86_64__)
  f.add({"avx2", &k_avx2_bf16, &k_avx2_f32});
  f.add({"avx512", &k_avx512_bf16, &k_avx512_f32});
  f.add({"avx512_bf16", &k_avx512_bf16_bf16, &k_avx512_f32});
  if (may_use_tiles()) f.add({"amx", &k_amx_bf16, &k_avx512_f32});
#elif defined(__aarch64__)
  f.add({"neon", &k_neon_bf16, &k_neon_f32});
#endif
  return f;
}

const Pair& choose() {
  PairList list = supported();
  for (const Pair& p : list) {
    if (std::string_view(p.isa) == kernels::active_isa()) return p;
  }
  // Named, or the best there is, but the system did not give us the tiles.
  const char* named = std::getenv("QPIPE_ISA");
  if (named != nullptr && *named != '\0') {
    throw usage_error(std::string("QPIPE_ISA is '") + named +
                      "', but the system does not let this process use it")
        .hint("unset it to use the best that can be had");
  }
  return list.data[list.size - 1];
}

const Pair* forced = nullptr;
size_t memory = size_t{32} << 20;

const Pair& chosen() {
  if (forced != nullptr) return *forced;
  static const Pair& pair = choose();
  return pair;
}

}  // namespace

PairList supported() {
  static const Found found = find_supported();
  return {found.pairs.data(), found.size};
}

const Backend& active(Precision precision) {
  return precision == Precision::bf16 ? *chosen().bf16 : *chosen().f32;
}

const char* backend(Precision precision) { return active(precision).isa; }

size_t panel_memory() { return memory; }

Forced::Forced(const Pair& pair, size_t panel_memory)
    : before_(std::exchange(forced, &pair)), memory_before_(std::exchange(memory, panel_memory)) {}
Forced::~Forced() {
  forced = before_;
  memory = memory_before_;
}

}  // namespace qp::gemm
