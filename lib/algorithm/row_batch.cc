#include "lib/algorithm/row_batch.h"

#include <algorithm>
#include <numeric>

namespace qp {
namespace {

template <class... Args>
std::function<void(Args...)> both(std::function<void(Args...)> a, std::function<void(Args...)> b) {
  if (!a) return b;
  if (!b) return a;
  return [a = std::move(a), b = std::move(b)](Args... args) {
    a(args...);
    b(args...);
  };
}

bool same_rows(const RowJob& a, const RowJob& b) {
  return a.source.rows() == b.source.rows() && a.source.row_bytes() == b.source.row_bytes();
}

// Which rows make a chunk changes no result, so the chunks may be those that suit both.
void join(RowJob& to, RowJob job) {
  to.chunk_bytes = std::min(to.chunk_bytes, job.chunk_bytes);
  to.unit = std::lcm(to.unit, job.unit);
  to.open = both(std::move(to.open), std::move(job.open));
  to.work = both(std::move(to.work), std::move(job.work));
  to.retire = both(std::move(to.retire), std::move(job.retire));
  to.close = both(std::move(to.close), std::move(job.close));
}

}  // namespace

void RowBatch::add(const std::string& rows, std::vector<RowJob> jobs) {
  auto [it, fresh] = named_.try_emplace(rows, Range{jobs_.size(), jobs.size()});
  size_t first = it->second.first;
  bool together = !fresh && it->second.count == jobs.size();
  for (size_t k = 0; together && k < jobs.size(); ++k) {
    together = same_rows(jobs_[first + k], jobs[k]);
  }
  for (size_t k = 0; k < jobs.size(); ++k) {
    if (together)
      join(jobs_[first + k], std::move(jobs[k]));
    else
      jobs_.push_back(std::move(jobs[k]));
  }
}

void RowBatch::run() {
  run_row_jobs(jobs_);
  jobs_.clear();
  named_.clear();
}

}  // namespace qp
