// The hash tables against the installed xxhash library, and against the published value of nothing.
#include "lib/base/hash.h"

#include <gtest/gtest.h>
#include <xxhash.h>

#include <algorithm>
#include <vector>

#include "lib/base/hash_loops.h"

namespace qp {
namespace {

std::vector<HashLoops> tables() {
  std::vector<HashLoops> all = {k_hash_base};
#if defined(__x86_64__) && !defined(QP_PORTABLE)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2")) all.push_back(k_hash_avx2);
  if (__builtin_cpu_supports("avx512vbmi")) all.push_back(k_hash_avx512);
#endif
  return all;
}

std::vector<std::byte> some_bytes(size_t n) {
  std::vector<std::byte> bytes(n);
  uint32_t x = 1;
  for (std::byte& b : bytes) b = static_cast<std::byte>((x = x * 1664525 + 1013904223) >> 24);
  return bytes;
}

TEST(Hash, EmptyIsThePublishedValue) {
  EXPECT_EQ(xxh3_64({}), 0x2d06800538d394c2u);
  EXPECT_EQ(Hasher64().digest(), 0x2d06800538d394c2u);
}

TEST(Hash, EveryTableIsTheLibrarys) {
  for (size_t n : {1u, 16u, 129u, 240u, 241u, 1024u, 65537u, 1u << 20}) {
    auto bytes = some_bytes(n);
    for (const HashLoops& t : tables()) EXPECT_EQ(t.whole(bytes.data(), n), XXH3_64bits(bytes.data(), n)) << n;
  }
}

TEST(Hash, PiecesMakeTheWhole) {
  auto bytes = some_bytes(100'000);
  for (size_t piece : {1u, 63u, 256u, 257u, 4096u, 99999u}) {
    Hasher64 h;
    for (size_t at = 0; at < bytes.size(); at += piece) {
      h.update(std::span<const std::byte>(bytes).subspan(at, std::min(piece, bytes.size() - at)));
    }
    EXPECT_EQ(h.digest(), XXH3_64bits(bytes.data(), bytes.size())) << piece;
  }
}

}  // namespace
}  // namespace qp
