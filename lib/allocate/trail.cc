#include "lib/allocate/trail.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "lib/base/error.h"
#include "lib/pipe/handover.h"

namespace qp {

Trail::Trail(size_t rows, size_t width) : rows_(rows), width_(width), file_(make_spill()) {}

void Trail::write(size_t layer, size_t first, size_t count, const float* data) {
  uint64_t at = (uint64_t{layer} * rows_ + first) * width_ * sizeof(float);
  write_all(file_.get(), std::as_bytes(std::span(data, count * width_)), at,
            "spill file in " + spill_directory());
}

void Trail::read(size_t layer, size_t first, size_t count, float* data) const {
  uint64_t at = (uint64_t{layer} * rows_ + first) * width_ * sizeof(float);
  auto* p = reinterpret_cast<char*>(data);
  for (size_t left = count * width_ * sizeof(float); left > 0;) {
    ssize_t n = ::pread(file_.get(), p, left, static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0)
      throw system_error("cannot read hidden states", n == 0 ? EIO : errno).file(spill_directory());
    p += n;
    at += static_cast<uint64_t>(n);
    left -= static_cast<size_t>(n);
  }
}

void Trail::keep(const Stream& stream, size_t layer) {
  std::vector<float> room(kRows * width_);
  for (size_t at = 0; at < rows_; at += kRows) {
    size_t n = std::min(kRows, rows_ - at);
    stream.read(at, n, room.data());
    write(layer, at, n, room.data());
  }
}

States Trail::states(size_t layer) const {
  States states = spill_states();
  std::vector<float> room(kRows * width_);
  for (size_t at = 0; at < rows_; at += kRows) {
    size_t n = std::min(kRows, rows_ - at);
    read(layer, at, n, room.data());
    write_all(states[0].get(), std::as_bytes(std::span(room.data(), n * width_)),
              uint64_t{at} * width_ * sizeof(float), "spill file in " + spill_directory());
  }
  return states;
}

}  // namespace qp
