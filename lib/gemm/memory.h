// Working memory of the matrix products.
#pragma once

#include <cstddef>
#include <utility>

namespace qp::gemm {

// Anonymous memory that only grows: zero when new, aligned to 64 bytes (large ones to a page, with
// huge pages advised). What was in it is lost when it grows.
class Memory {
 public:
  Memory() = default;
  ~Memory() { release(); }
  Memory(Memory&& o) noexcept
      : data_(std::exchange(o.data_, nullptr)), size_(std::exchange(o.size_, 0)) {}
  Memory& operator=(Memory&& o) noexcept {
    std::swap(data_, o.data_);
    std::swap(size_, o.size_);
    return *this;
  }

  // At least `bytes` of it. Throws a limit error when there is none left.
  void* need(size_t bytes);
  void* data() const { return data_; }
  size_t size() const { return size_; }
  // What need() takes for this many: whole pages. 0: too many.
  static size_t whole(size_t bytes);

 private:
  void release();
  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace qp::gemm
