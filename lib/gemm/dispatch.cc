// Chooses the implementation for this process.
#include <array>
#include <string_view>

#include "lib/gemm/backends.h"
#include "lib/kernels/kernels.h"

namespace qp::gemm {
namespace {

struct Found {
  std::array<Pair, 4> pairs{};
  size_t size = 0;
};

Found find_supported() {
  Found f;
  for (const kernels::Table* t : kernels::supported()) {
    std::string_view isa = t->isa;
    if (isa == "scalar") f.pairs[f.size++] = {"scalar", &k_scalar_bf16, &k_scalar_f32};
  }
  return f;
}

const Pair* forced = nullptr;

const Pair& choose() {
  PairList list = supported();
  return list.data[list.size - 1];
}

const Pair& chosen() {
  static const Pair& pair = choose();
  return forced != nullptr ? *forced : pair;
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

Forced::Forced(const Pair& pair) : before_(forced) { forced = &pair; }
Forced::~Forced() { forced = before_; }

}  // namespace qp::gemm
