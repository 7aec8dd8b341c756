// Rows to be walked, of many tensors for one or several results: what reads the same rows reads
// them together, once.
#pragma once

#include <cstddef>
#include <string>
#include <unordered_map>
#include <vector>

#include "lib/qmap/row_jobs.h"

namespace qp {

class RowBatch {
 public:
  // The jobs of one tensor for one result. `rows` names what their sources hold: jobs that were
  // added under the same name go through the rows together, each in the order in which they were
  // added.
  void add(const std::string& rows, std::vector<RowJob> jobs);
  // Walks everything that was added, and forgets it. Errors: run_row_jobs().
  void run();

 private:
  struct Range {
    size_t first, count;
  };
  std::vector<RowJob> jobs_;
  std::unordered_map<std::string, Range> named_;  // the jobs first added under a name
};

}  // namespace qp
