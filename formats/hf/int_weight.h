// Integer weights on their way out: what a family with integer codes, one scale per group along K
// and integer zero points can hold, its codes in more bits if asked for, which is exact
// (reference/int4-formats.md 1.8).
#pragma once

#include <string>

#include "formats/format.h"

namespace qp {

// One tensor as such a family sees it.
class IntWeight {
 public:
  // Errors: limit, naming the tensor and why `family` cannot hold it.
  IntWeight(const Store& store, const Tensor& tensor, const ExportOptions& options,
            std::string_view family);

  const std::string& module() const { return module_; }
  uint64_t rows() const { return rows_; }
  uint64_t cols() const { return cols_; }
  int bits() const { return bits_; }
  bool symmetric() const { return symmetric_; }
  int64_t group_size() const {
    return group_ == 0 ? -1 : static_cast<int64_t>(group_);
  }  // -1: a row
  uint64_t groups() const { return groups_; }
  const Part* g_idx() const { return g_idx_; }  // null: column / group
  [[noreturn]] void refuse(const std::string& why, const std::string& hint) const;  // errors: limit

  // Rows of the output before they are arranged: codes in rows of bits() each.
  OutTensor codes(const std::string& suffix, DType dtype, const Shape& shape,
                  const Layout& layout) const;
  // F16 [groups, rows]; a scale that F16 cannot hold stops the export when it is written.
  OutTensor scales(const std::string& suffix) const;
  // One byte each before `layout`, whose fields hold bits(); symmetric tensors have their centre.
  OutTensor zeros(const std::string& suffix, const Shape& shape, const Layout& layout,
                  uint64_t bias) const;
  // I32 [cols]: the group of each column.
  OutTensor group_index(const std::string& suffix) const;

 private:
  void check_form(const Scheme& scheme) const;
  void widen(const ExportOptions& options);
  OutTensor named(const std::string& suffix, DType dtype, const Shape& shape) const;

  const Tensor& tensor_;
  std::string label_, family_, module_;
  uint64_t rows_, cols_, group_ = 0, groups_ = 0;  // group 0: the whole row
  int stored_bits_, bits_;
  bool symmetric_;
  const Part* g_idx_ = nullptr;
};

// Errors: limit, when the model has KV-cache scales: none of these families has a place for them.
void refuse_kv_cache(const Store& store, std::string_view family);

}  // namespace qp
