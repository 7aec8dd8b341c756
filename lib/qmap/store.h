// An opened checkpoint: the model and its bytes. Files are mapped when first read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "lib/base/file.h"
#include "lib/qmap/model.h"

namespace qp {

class Store {
 public:
  // Checks that every extent lies inside its file and fits its part, that names are unique and
  // referenced files have the size they had. `self` is the qmap (null for a model just loaded);
  // its path is where messages point.
  // Errors: input, naming file and tensor.
  Store(Model model, std::shared_ptr<const MappedFile> self, std::string label);

  const Model& model() const { return model_; }
  // The same bytes under another table of tensors (experts of a stack apart).
  std::unique_ptr<Store> with(Model model) const;
  // The tensors, moved out: for programs that pass a big table on. Bytes stay readable.
  std::vector<Tensor> take_tensors() { return std::move(model_.tensors); }
  const std::string& label() const { return label_; }
  const MappedFile* self() const { return self_.get(); }
  void set_check(bool check) { check_ = check; }

  // Rows [first, first + count) of a part, decoded: count * row_bytes(part) bytes, either inside
  // the mapping or in `scratch`. Thread-safe with a scratch per thread.
  const std::byte* rows(const Part& part, uint64_t first, uint64_t count,
                        std::vector<std::byte>& scratch) const;
  // All bytes of a part or companion, decoded.
  std::vector<std::byte> read(const Part& part) const;
  std::string text(const Extent& extent) const;
  // The bytes of an extent as they are stored, mapped.
  std::span<const std::byte> stored(const Extent& extent) const;

  // Compares a part's stored bytes with its XXH3, once per extent; nothing to do without one.
  // Errors: input, "checksum does not match". Thread-safe.
  void verify(const Tensor& tensor, const Part& part) const;
  void verify(const Extent& extent, std::string_view what) const;
  // Rows before `end` will not be read again soon: drops their resident pages.
  void drop(const Part& part, uint64_t first, uint64_t count) const;
  // Throws when a mapped file changed or lost pages; with an extent or tensor, only those it is in.
  void throw_if_changed() const;
  void throw_if_changed(const Extent& extent) const;
  void throw_if_changed(const Tensor& tensor) const;
  // The file a tensor's bytes are in, for messages.
  const std::string& where(const Tensor& tensor) const { return where(tensor.parts.front().extent); }
  const std::string& where(const Extent& extent) const;

 private:
  std::shared_ptr<const MappedFile> file(uint32_t index) const;
  void check_calibration() const;
  void check_part(const Tensor& tensor, const Part& part) const;
  std::string extent_problem(const Extent& extent) const;  // "" when it lies inside its file

  Model model_;
  std::shared_ptr<const MappedFile> self_;
  std::string label_;
  bool check_ = true;
  mutable std::mutex mutex_;
  mutable std::vector<std::shared_ptr<const MappedFile>> mapped_;
  mutable std::set<std::pair<uint32_t, uint64_t>> verified_;
};

}  // namespace qp
