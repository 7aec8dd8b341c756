// PyTorch checkpoint files (.bin, .pt, .pth) without PyTorch: which tensors a file holds and where
// their bytes are. Reads the zip form and the older stream form; runs no code from either.
// Source of the layouts: torch/serialization.py, torch/_utils.py (_rebuild_*), docs of torch.save.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lib/tensor/dtype.h"

namespace qp {

// A view of one storage: element (i, j, ..) is at offset + (i * strides[0] + j * strides[1] + ..)
// times the element's size. All of it lies in the storage, and the storage in the file. Tied
// tensors have the same storage. The bytes of the dense tensor are never more than storage_bytes.
// An empty tensor starts where its storage does, and its strides mean nothing.
struct TorchTensor {
  std::string name;               // state-dict key, valid UTF-8; nested dicts joined with '.'
  DType dtype;                    // whole bytes per element
  Shape shape;
  std::vector<uint64_t> strides;  // in elements, as many as dimensions
  uint64_t offset;                // of element 0, in bytes from the start of the file
  uint64_t storage_offset;        // of the storage, in bytes from the start of the file
  uint64_t storage_bytes;
  bool contiguous;                // the elements are dense and row-major from `offset` on
};

struct TorchFile {
  std::vector<TorchTensor> tensors;  // in the order of the file; names are unique
  std::vector<std::string> skipped;  // entries that are not read, for example 'epoch'
  std::vector<std::string> beside;   // those of them that are tensors, beside the dict that is read
};

// `bytes` is the whole file. The object in it is a dict of tensors and dicts; if it has a dict
// under 'state_dict', 'model' or 'module', that one is read and its siblings are skipped.
// Big-endian files are refused. Errors: input and limit, naming `path` and, where one is at fault,
// the tensor.
TorchFile parse_torch_file(std::span<const std::byte> bytes, std::string_view path);

}  // namespace qp
