#include "lib/base/parallel.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

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

// Threads that wait for work. They look for it a little while before they sleep, giving way to whoever
// wants the processor: a machine with other work on it is where OpenMP's teams lose most of their time.
class Team {
 public:
  // work(0) here and work(1) .. work(workers - 1) on other threads; returns when all are done. `work`
  // does not throw. Inside of such work, or when threads cannot be had, there are fewer calls.
  void run(int workers, const std::function<void(int)>& work) {
    std::unique_lock lock(mutex_, std::defer_lock);
    if (inside_ || !lock.try_lock()) return work(0);
    int helpers = grow(workers - 1);
    work_ = &work;
    left_.store(helpers, std::memory_order_relaxed);
    for (int i = 0; i < helpers; ++i) {
      helpers_[static_cast<size_t>(i)]->go.fetch_add(1, std::memory_order_release);
      helpers_[static_cast<size_t>(i)]->go.notify_one();
    }
    inside_ = true;
    work(0);
    inside_ = false;
    for (int left; (left = left_.load(std::memory_order_acquire)) != 0;) await(left_, left);
  }

 private:
  struct Helper {
    std::atomic<int> go{0};
  };

  // Returns when `value` is no longer `old`, or for no reason.
  static void await(const std::atomic<int>& value, int old) {
    for (int i = 0; i < 64; ++i) {
      for (int k = 0; k < 32; ++k) {
        if (value.load(std::memory_order_acquire) != old) return;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
      }
      sched_yield();
    }
    value.wait(old, std::memory_order_acquire);
  }

  int grow(int wanted) {
    try {
      while (static_cast<int>(helpers_.size()) < wanted) {
        auto helper = std::make_unique<Helper>();
        std::thread(&Team::serve, this, helper.get(), static_cast<int>(helpers_.size()) + 1).detach();
        helpers_.push_back(std::move(helper));
      }
    } catch (const std::system_error&) {  // a limit on processes: fewer do as well
    }
    return std::min(wanted, static_cast<int>(helpers_.size()));
  }

  [[noreturn]] void serve(Helper* self, int worker) {
    inside_ = true;
    for (int seen = 0;; ++seen) {
      while (self->go.load(std::memory_order_acquire) == seen) await(self->go, seen);
      (*work_)(worker);
      if (left_.fetch_sub(1, std::memory_order_acq_rel) == 1) left_.notify_one();
    }
  }

  static thread_local bool inside_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Helper>> helpers_;
  const std::function<void(int)>* work_ = nullptr;
  std::atomic<int> left_{0};
};
thread_local bool Team::inside_ = false;

Team& team() {
  static Team* the = new Team;  // never destroyed: its threads wait to the end of the process
  return *the;
}

}  // namespace

void set_threads(int n) { thread_count = n; }

int threads() {
  if (thread_count > 0) return thread_count;
  // Asked once: who makes room for each worker counts on it.
  static const int allowed = [] {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? std::max(CPU_COUNT(&set), 1) : 1;
  }();
  return allowed;
}

void parallel_for(size_t n, const std::function<void(size_t, int)>& body) {
  int workers = static_cast<int>(std::min(static_cast<size_t>(threads()), n));
  if (workers <= 1) {
    for (size_t i = 0; i < n; ++i) body(i, 0);
    return;
  }
  FirstError error;
  std::atomic<size_t> next{0};
  team().run(workers, [&](int worker) {
    for (size_t i = 0; !error.failed() && (i = next.fetch_add(1)) < n;) {
      try {
        body(i, worker);
      } catch (...) {
        error.keep(i);
      }
    }
  });
  error.rethrow();
}

// A few results may wait for their turn while their producers go on.
int ordered_slots(int threads) { return threads <= 1 ? 1 : threads + std::min(threads, 4); }

namespace {

// The state of one parallel_ordered. A slot is free, being produced, or ready for its turn.
class Pipeline {
 public:
  using Step = std::function<void(size_t, int)>;
  Pipeline(size_t n, const Step& produce, const Step& retire)
      : n_(n), produce_(produce), retire_(retire), ready_(static_cast<size_t>(ordered_slots()), -1) {
    for (int s = ordered_slots(); s-- > 0;) free_.push_back(s);
  }

  void work() {
    std::unique_lock lock(mutex_);
    while (!error_.failed()) {
      if (!retiring_ && ready() >= 0) {
        retire_ready(lock);
      } else if (next_ == n_) {
        break;  // whoever produces or retires now does the rest
      } else if (!free_.empty()) {
        size_t i = next_++;
        int slot = free_.back();
        free_.pop_back();
        if (run(lock, produce_, i, slot)) ready_[i % ready_.size()] = slot;
      } else {
        turn_.wait(lock);
      }
    }
    turn_.notify_all();
  }
  void rethrow() const { error_.rethrow(); }

 private:
  int ready() const { return retired_ == n_ ? -1 : ready_[retired_ % ready_.size()]; }

  void retire_ready(std::unique_lock<std::mutex>& lock) {
    retiring_ = true;
    for (int slot = ready(); slot >= 0 && !error_.failed(); slot = ready()) {
      if (!run(lock, retire_, retired_, slot)) break;
      ready_[retired_++ % ready_.size()] = -1;
      free_.push_back(slot);
      turn_.notify_one();
    }
    retiring_ = false;
  }

  bool run(std::unique_lock<std::mutex>& lock, const Step& step, size_t i, int slot) {
    lock.unlock();
    bool done = true;
    try {
      step(i, slot);
    } catch (...) {
      error_.keep(i);
      done = false;
    }
    lock.lock();
    return done;
  }

  const size_t n_;
  const Step &produce_, &retire_;
  FirstError error_;
  std::mutex mutex_;
  std::condition_variable turn_;
  std::vector<int> ready_;  // slot of i at i % size, or -1; indices in flight never exceed the slots
  std::vector<int> free_;
  size_t next_ = 0, retired_ = 0;
  bool retiring_ = false;
};

}  // namespace

void parallel_ordered(size_t n, const std::function<void(size_t, int)>& produce,
                      const std::function<void(size_t, int)>& retire) {
  int workers = static_cast<int>(std::min(static_cast<size_t>(threads()), n));
  if (workers <= 1) {
    for (size_t i = 0; i < n; ++i) {
      produce(i, 0);
      retire(i, 0);
    }
    return;
  }
  Pipeline pipeline(n, produce, retire);
  team().run(workers, [&](int) { pipeline.work(); });
  pipeline.rethrow();
}

}  // namespace qp
