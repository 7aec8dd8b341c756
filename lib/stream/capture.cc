#include "lib/stream/capture.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>

#include "lib/base/error.h"
#include "lib/pipe/handover.h"

namespace qp {

RowFile::RowFile(size_t width) : width_(width), fd_(make_spill()) {}

void RowFile::write(size_t first, engine::ConstMatrix x) {
  write_all(fd_.get(), std::as_bytes(std::span(x.data, x.rows * x.cols)),
            uint64_t{first} * width_ * sizeof(float), spill_directory());
}

std::vector<float> RowFile::read(size_t first, size_t count) const {
  std::vector<float> x(count * width_);
  auto* p = reinterpret_cast<char*>(x.data());
  uint64_t at = uint64_t{first} * width_ * sizeof(float);
  for (size_t left = x.size() * sizeof(float); left > 0;) {
    ssize_t n = ::pread(fd_.get(), p, left, static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      throw system_error("cannot read values of a layer", n == 0 ? EIO : errno).file(spill_directory());
    }
    p += n;
    at += static_cast<uint64_t>(n);
    left -= static_cast<size_t>(n);
  }
  return x;
}

void Capture::want(const engine::Graph& graph, engine::Value v, size_t node) {
  auto it = kept_.find(v);
  if (it == kept_.end()) kept_.emplace(v, Kept{node, 0, RowFile(graph.width(v))});
  else it->second.node = std::min(it->second.node, node);
}

std::vector<size_t> Capture::cuts(size_t, const engine::Graph&) {
  std::set<size_t> nodes;
  for (const auto& [v, kept] : kept_) nodes.insert(kept.node);
  return {nodes.begin(), nodes.end()};
}

void Capture::enter(size_t node, const engine::Graph&, const engine::Values& values) {
  for (auto& [v, kept] : kept_) {
    if (kept.node != node || kept.count == rows_) continue;
    engine::ConstMatrix x = values.get(v);
    x.rows = std::min(x.rows, rows_ - kept.count);
    kept.rows.write(kept.count, x);
    kept.count += x.rows;
  }
}

}  // namespace qp
