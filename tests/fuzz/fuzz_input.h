// What the fuzz targets share: input as a file, and reading everything a model promises.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>

#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/qmap/rows.h"
#include "lib/qmap/store.h"

namespace qp::fuzz {

inline void require(bool holds) {
  if (!holds) std::abort();
}

// An unnamed file that holds the bytes.
inline Fd memory_file(std::span<const std::byte> bytes) {
  Fd fd(memfd_create("fuzz", MFD_CLOEXEC));
  require(static_cast<bool>(fd));
  write_all(fd.get(), bytes, 0, "fuzz");
  return fd;
}

// Reads every row of the tensors that are not too big to read again and again: whatever passed
// the checks of Store must be readable, or refused with an Error.
inline void read_all(const Store& store) {
  RowScratch scratch;
  for (const Tensor& t : store.model().tensors) {
    if (t.stored_bytes() > 1 << 20) continue;
    for (const Part& p : t.parts) {
      store.verify(t, p);
      RowSource rows(store, p);
      if (rows.rows() <= 4096 && rows.row_bytes() <= 1 << 20) rows.get(0, rows.rows() > 0 ? 1 : 0, scratch);
    }
    if (t.parts.empty() || !t.shape.elements() || *t.shape.elements() > 1 << 16) continue;
    RowSource values(store, t);
    for (uint64_t row = 0; row < values.rows(); ++row) values.get(row, 1, scratch);
  }
  for (const Companion& c : store.model().companions) {
    if (c.extent.length <= 1 << 20) store.text(c.extent);
  }
}

}  // namespace qp::fuzz
