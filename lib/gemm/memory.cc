#include "lib/gemm/memory.h"

#include <sys/mman.h>

#include <string>

#include "lib/base/error.h"

namespace qp::gemm {

namespace {
constexpr size_t kPage = 4096, kHuge = size_t{2} << 20;
}

size_t Memory::whole(size_t bytes) {
  size_t unit = bytes >= kHuge ? kHuge : kPage, whole = bytes == 0 ? 1 : bytes;
  if (__builtin_add_overflow(whole, unit - 1, &whole)) return 0;
  return whole / unit * unit;
}

void* Memory::need(size_t bytes) {
  if (bytes <= size_ && data_ != nullptr) return data_;
  size_t size = whole(bytes);
  release();
  void* p = size == 0 ? MAP_FAILED
                      : mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                             -1, 0);
  if (p == MAP_FAILED) {
    throw limit_error("no memory for a matrix product (" + std::to_string(bytes) + " bytes)");
  }
  if (size >= kHuge) madvise(p, size, MADV_HUGEPAGE);  // a wish; without it, it is slower
  data_ = p;
  size_ = size;
  return p;
}

void Memory::release() {
  if (data_ != nullptr) munmap(data_, size_);
  data_ = nullptr;
  size_ = 0;
}

}  // namespace qp::gemm
