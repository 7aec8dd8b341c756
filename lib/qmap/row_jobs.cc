#include "lib/qmap/row_jobs.h"

#include <algorithm>
#include <mutex>

#include "lib/base/checked.h"
#include "lib/base/interrupt.h"
#include "lib/base/parallel.h"

namespace qp {
namespace {

constexpr uint64_t kDropBytes = 8 << 20;  // pages are given back less often than chunks are read

// Where a job's chunks are in the stream.
struct Span {
  const RowJob* job;
  uint64_t per_chunk, begin, end;  // rows a chunk; numbers of its chunks
  uint64_t dropped = 0;            // rows whose pages were given back
  std::once_flag opened;
};

struct Slot {
  RowScratch scratch;
  RowChunk chunk;
  Span* span;
};

class Walk {
 public:
  explicit Walk(std::span<const RowJob> jobs) : spans_(jobs.size()), slots_(slots_of()) {
    uint64_t at = 0;
    for (size_t k = 0; k < jobs.size(); ++k) {
      const RowJob& j = jobs[k];
      uint64_t fit = j.chunk_bytes / std::max<uint64_t>(j.source.row_bytes(), 1);
      Span& s = spans_[k];
      s.job = &j;
      s.per_chunk = std::max(j.unit, fit / j.unit * j.unit);
      s.begin = at;
      // Without rows there is still an opening and a closing.
      s.end = at += std::max<uint64_t>(ceil_div(j.source.rows(), s.per_chunk), 1);
    }
  }

  void run() {
    parallel_ordered(
        spans_.empty() ? 0 : spans_.back().end, [this](size_t i, int slot) { produce(i, slot); },
        [this](size_t i, int slot) { retire(i, slots_[static_cast<size_t>(slot)]); });
  }

 private:
  static size_t slots_of() { return static_cast<size_t>(ordered_slots()); }

  void produce(size_t i, int slot) {
    throw_if_interrupted();
    Span& span = *(std::ranges::upper_bound(spans_, i, {}, &Span::begin) - 1);
    const RowJob& job = *span.job;
    if (job.open) std::call_once(span.opened, job.open);
    Slot& s = slots_[static_cast<size_t>(slot)];
    s.span = &span;
    RowChunk& c = s.chunk;
    c.slot = static_cast<size_t>(slot);
    c.first = (i - span.begin) * span.per_chunk;
    c.count = std::min(span.per_chunk, job.source.rows() - c.first);
    c.rows = {};
    if (c.count == 0) return;
    c.rows = {job.source.get(c.first, c.count, s.scratch), c.count * job.source.row_bytes()};
    job.work(c);
  }

  void retire(size_t i, const Slot& s) {
    Span& span = *s.span;
    const RowJob& job = *span.job;
    if (job.retire && s.chunk.count > 0) job.retire(s.chunk);
    uint64_t read = s.chunk.first + s.chunk.count;
    bool last = i + 1 == span.end;
    if (last || (read - span.dropped) * job.source.row_bytes() >= kDropBytes) {
      job.source.drop(span.dropped, read - span.dropped);
      span.dropped = read;
    }
    if (last && job.close) job.close();
  }

  std::vector<Span> spans_;
  std::vector<Slot> slots_;
};

}  // namespace

void run_row_jobs(std::span<const RowJob> jobs) { Walk(jobs).run(); }

void for_row_chunks(const RowSource& source, uint64_t chunk_bytes, const RowWork& work,
                    const RowWork& retire) {
  RowJob job{source, chunk_bytes, 1, nullptr, work, retire, nullptr};
  run_row_jobs({&job, 1});
}

}  // namespace qp
