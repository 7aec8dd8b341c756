#include "lib/allocate/trail.h"

#include <algorithm>
#include <vector>

#include "lib/pipe/handover.h"

namespace qp {

void Trail::keep(const Stream& stream, size_t layer) {
  std::vector<float> room(kRows * file_.width());
  for (size_t at = 0; at < rows_; at += kRows) {
    size_t n = std::min(kRows, rows_ - at);
    stream.read(at, n, room.data());
    file_.write(layer * rows_ + at, {room.data(), n, file_.width()});
  }
}

States Trail::states(size_t layer) const {
  States states = spill_states();
  std::vector<float> room(kRows * file_.width());
  for (size_t at = 0; at < rows_; at += kRows) {
    size_t n = std::min(kRows, rows_ - at);
    read(layer, at, {room.data(), n, file_.width()});
    write_all(states[0].get(), std::as_bytes(std::span(room.data(), n * file_.width())),
              uint64_t{at} * file_.width() * sizeof(float), "spill file in " + spill_directory());
  }
  return states;
}

}  // namespace qp
