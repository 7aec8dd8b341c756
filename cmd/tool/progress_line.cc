#include "cmd/tool/progress_line.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <mutex>

#include "cmd/tool/run_tool.h"
#include "lib/base/interrupt.h"

namespace qp {
namespace {

using Clock = std::chrono::steady_clock;

std::string duration(double seconds) {
  char text[32];
  if (seconds < 60) {
    std::snprintf(text, sizeof text, "%.0f s", seconds);
  } else {
    std::snprintf(text, sizeof text, "%d:%02d", static_cast<int>(seconds) / 60,
                  static_cast<int>(seconds) % 60);
  }
  return text;
}

class ProgressLine final : public Progress {
 public:
  ProgressLine(std::string tool, bool quiet)
      : tool_(std::move(tool)), draw_(!quiet && isatty(STDERR_FILENO) != 0) {}
  ~ProgressLine() override { clear(); }

  void begin(std::string_view what, uint64_t total, Unit unit) override {
    std::lock_guard lock(mutex_);
    clear();
    what_ = what;
    total_ = total;
    unit_ = unit;
    done_ = 0;
    start_ = Clock::now();
  }
  void item(std::string_view name) override {
    std::lock_guard lock(mutex_);
    item_ = name;
  }
  void add(uint64_t bytes) override {
    done_ += bytes;
    if (take_progress_request()) {
      std::lock_guard lock(mutex_);
      clear();
      std::fprintf(stderr, "%s: %s (%s)\n", tool_.c_str(), text().c_str(), item_.c_str());
    }
    if (!draw_) return;
    std::unique_lock lock(mutex_, std::try_to_lock);
    auto now = Clock::now();
    if (!lock || now - drawn_ < std::chrono::milliseconds(100)) return;
    drawn_ = now;
    std::string line = text();
    std::fprintf(stderr, "\r%s: %s\033[K", tool_.c_str(), line.c_str());
    std::fflush(stderr);
    visible_ = true;
  }
  void end() override {
    std::lock_guard lock(mutex_);
    clear();
  }

 private:
  std::string text() const {
    double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
    auto done = static_cast<double>(done_.load()), total = static_cast<double>(total_);
    double rate = seconds > 0 ? done / seconds : 0;
    double share = total > 0 ? done / total : 1;
    std::string bar(20, ' ');
    for (size_t i = 0; i < bar.size(); ++i) {
      if (static_cast<double>(i) < share * 20) bar[i] = '=';
    }
    std::string left = rate > 0 && total > done ? ", " + duration((total - done) / rate) + " left" : "";
    std::string head = what_ + " [" + bar + "] " + std::to_string(static_cast<int>(share * 100)) + " %";
    if (unit_ == Unit::steps) return head + left;
    return head + " of " + human_bytes(total) + ", " + human_bytes(rate) + "/s" + left;
  }
  void clear() {
    if (!visible_) return;
    std::fprintf(stderr, "\r\033[K");
    std::fflush(stderr);
    visible_ = false;
  }

  std::string tool_;
  bool draw_, visible_ = false;
  std::mutex mutex_;
  std::string what_, item_;
  uint64_t total_ = 0;
  Unit unit_ = Unit::bytes;
  std::atomic<uint64_t> done_{0};
  Clock::time_point start_ = Clock::now(), drawn_{};
};

}  // namespace

std::unique_ptr<Progress> make_progress_line(const std::string& tool, bool quiet) {
  return std::make_unique<ProgressLine>(tool, quiet);
}

}  // namespace qp
