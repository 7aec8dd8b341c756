// The bytes of a piece of a GGUF tensor, from a tensor of the model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "formats/gguf/plan.h"
#include "lib/qmap/row_jobs.h"

namespace qp {

// Who takes the bytes. `in_order` false: put() is called from many threads at any offset.
class GgufSink {
 public:
  virtual ~GgufSink() = default;
  virtual void put(uint64_t offset, std::span<const std::byte> bytes) = 0;
  virtual bool in_order() const = 0;
};

// Gives a sink the tensors of a plan, padded, in order.
class GgufRows {
 public:
  GgufRows(const Store& store, GgufSink& sink, Progress& progress)
      : store_(store), sink_(sink), progress_(progress) {}

  // `offset`: of the tensor in the file. Nothing is read before run().
  void add(const GgufOut& tensor, uint64_t offset);
  void run();

 private:
  struct Source;  // a piece, ready to be read
  void add_piece(const GgufOut& out, const ggml::Piece& piece, uint64_t offset, bool last);
  void add_rows(const GgufOut& out, const Tensor& t, RowSource source, uint64_t offset, bool last);
  void put_gathered(const GgufOut& out, const Tensor& t, const ggml::View& view, uint64_t offset,
                    bool last);
  void put_mxfp4(const GgufOut& out, const Tensor& t, const ggml::View& view, uint64_t offset,
                 bool last);
  void finish(const GgufOut& out, uint64_t end);
  std::span<const std::byte> converted(const GgufOut& out, DType dtype,
                                       std::span<const std::byte> rows,
                                       std::vector<std::byte>& buffer) const;

  const Store& store_;
  GgufSink& sink_;
  Progress& progress_;
  std::vector<RowJob> jobs_;
  std::vector<std::unique_ptr<Part>> parts_;  // that the jobs read
  std::vector<std::vector<std::byte>> buffers_;
};

}  // namespace qp
