#include "lib/base/parallel.h"

#include <omp.h>
#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>

namespace qp {
namespace {

int thread_count = 0;

// Keeps the exception of the lowest index and stops further work.
class FirstError {
 public:
  bool failed() const { return failed_.load(std::memory_order_relaxed); }
  void keep(size_t index) {
    std::lock_guard lock(mutex_);
    if (!error_ || index < index_) {
      error_ = std::current_exception();
      index_ = index;
    }
    failed_ = true;
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::mutex mutex_;
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;
  size_t index_ = 0;
};

}  // namespace

void set_threads(int n) { thread_count = n; }

int threads() {
  if (thread_count > 0) return thread_count;
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
  return 1;
}

void parallel_for(size_t n, const std::function<void(size_t, int)>& body) {
  parallel_ordered(n, body, nullptr);
}

void parallel_ordered(size_t n, const std::function<void(size_t, int)>& produce,
                      const std::function<void(size_t, int)>& retire) {
  int workers = threads();
  if (static_cast<size_t>(workers) > n) workers = static_cast<int>(n);
  if (workers <= 1) {
    for (size_t i = 0; i < n; ++i) {
      produce(i, 0);
      if (retire) retire(i, 0);
    }
    return;
  }
  FirstError error;
  std::atomic<size_t> next{0};
  std::mutex mutex;
  std::condition_variable turn;
  size_t retired = 0;
#pragma omp parallel num_threads(workers)
  {
    int worker = omp_get_thread_num();
    while (!error.failed()) {
      size_t i = next.fetch_add(1);
      if (i >= n) break;
      try {
        produce(i, worker);
        if (!retire) continue;
        std::unique_lock lock(mutex);
        turn.wait(lock, [&] { return retired == i || error.failed(); });
        if (error.failed()) break;
        lock.unlock();
        retire(i, worker);
        lock.lock();
        ++retired;
      } catch (...) {
        error.keep(i);
      }
      { std::lock_guard passed(mutex); }  // no waiter is between its test and its sleep
      turn.notify_all();
    }
    turn.notify_all();
  }
  error.rethrow();
}

}  // namespace qp
