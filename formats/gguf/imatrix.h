// llama.cpp's importance matrices: sums of squared inputs per column of each matrix, in a GGUF or in the
// older binary form (reference/gguf.md section 8).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/calibration/collector.h"
#include "lib/qmap/store.h"

namespace qp {

// Of one GGUF tensor: `counts` has one number per matrix (expert), `sums` as many rows of columns.
struct ImatrixEntry {
  std::string name;  // "blk.0.attn_q.weight"
  std::vector<float> sums, counts;
};

struct Imatrix {
  std::vector<ImatrixEntry> entries;  // by name
  std::vector<std::string> datasets;
  uint32_t chunk_count = 0, chunk_size = 0;
};

// Either form, by its first bytes. In the older one a count is the number of calls.
// Errors: system, input (malformed; numbers that are not finite or negative).
Imatrix read_imatrix(const std::string& path);
// The same of a file's bytes; `path` is for errors.
Imatrix parse_imatrix(std::span<const std::byte> bytes, const std::string& path);

// Adds sums and counts. Errors: usage, naming `path`, where a tensor has other sizes.
void add(Imatrix& to, const Imatrix& from, const std::string& path);

// NAME.dat: the older form, else GGUF. FILE.partial until it is complete. Errors: system.
void write_imatrix(const std::string& path, const Imatrix& imatrix);

// What the statistics of a calibrated model are in GGUF's names. Errors: usage, no statistics; those of
// ggml::map_tensors.
Imatrix imatrix_of(const Store& store);

// The other way: as what enters the linears of a model. Entries of tensors that it does not have are
// named in `unknown`. Errors: input, an entry of another width or another number of experts.
std::vector<InputSums> statistics_of(const Imatrix& imatrix, const Store& store,
                                     std::vector<std::string>& unknown);

}  // namespace qp
