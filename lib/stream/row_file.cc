#include "lib/stream/row_file.h"

#include "lib/pipe/handover.h"

namespace qp {

RowFile::RowFile(size_t width) : width_(width), file_(make_spill()) {}

void RowFile::write(size_t first, engine::ConstMatrix x) {
  write_all(file_.get(), std::as_bytes(std::span(x.data, x.rows * x.cols)),
            uint64_t{first} * width_ * sizeof(float), "spill file in " + spill_directory());
}

void RowFile::read(size_t first, engine::Matrix x) const {
  read_all(file_.get(), std::as_writable_bytes(std::span(x.data, x.rows * x.cols)),
           uint64_t{first} * width_ * sizeof(float), "spill file in " + spill_directory());
}

std::vector<float> RowFile::read(size_t first, size_t count) const {
  std::vector<float> x(count * width_);
  read(first, {x.data(), count, width_});
  return x;
}

}  // namespace qp
