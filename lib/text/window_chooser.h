// Which windows are kept: behind text_windows() and token_windows().
#pragma once

#include <span>
#include <vector>

#include "lib/base/random.h"
#include "lib/text/windows.h"

namespace qp {

class WindowChooser {
 public:
  // Errors: usage, a seqlen of 0.
  explicit WindowChooser(const WindowOptions& options);
  // Whether nothing more needs to be read.
  bool full() const;
  // The next tokens of one long stream.
  void stream(std::span<const int32_t> ids);
  // A window of its own, cut after seqlen tokens.
  void row(std::span<const int32_t> ids);
  // Errors: input, when there is no window.
  Windows finish();

 private:
  struct Chosen {
    uint64_t index;
    std::vector<int32_t> ids;
  };
  void add(std::span<const int32_t> window);
  WindowOptions options_;
  SplitMix64 random_;
  std::vector<Chosen> chosen_;
  std::vector<int32_t> rest_;
  uint64_t seen_ = 0, tokens_ = 0;
};

}  // namespace qp
