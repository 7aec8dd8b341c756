#include "lib/gemm/memory.h"

#include <sys/mman.h>

#include <string>

#include "lib/base/error.h"

namespace qp::gemm {

void* Memory::need(size_t bytes) {
  if (bytes <= size_ && data_ != nullptr) return data_;
  constexpr size_t kPage = 4096, kHuge = size_t{2} << 20;
  size_t unit = bytes >= kHuge ? kHuge : kPage;
  size_t whole = bytes;
  if (bytes == 0) whole = 1;
  if (__builtin_add_overflow(whole, unit - 1, &whole)) whole = 0;
  whole = whole / unit * unit;
  release();
  void* p = whole == 0 ? MAP_FAILED
                       : mmap(nullptr, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                              -1, 0);
  if (p == MAP_FAILED) {
    throw limit_error("no memory for a matrix product (" + std::to_string(bytes) + " bytes)");
  }
  if (unit == kHuge) madvise(p, whole, MADV_HUGEPAGE);  // a wish; without it, it is slower
  data_ = p;
  size_ = whole;
  return p;
}

void Memory::release() {
  if (data_ != nullptr) munmap(data_, size_);
  data_ = nullptr;
  size_ = 0;
}

}  // namespace qp::gemm
