// Internal to torch_file: from the calls and storage references of a pickle to one tensor.
// Layouts: torch/_utils.py (_rebuild_*) and persistent_load in torch/serialization.py.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <unordered_map>

#include "formats/container/pickle.h"
#include "formats/container/torch_file.h"

namespace qp {

struct TorchRange {
  uint64_t offset, bytes;  // in the file
};
using TorchStorages = std::unordered_map<std::string_view, TorchRange>;  // by key

// What a persistent id says: ("storage", class, key, location, count[, view]).
struct TorchStorageId {
  std::optional<DType> dtype;  // none: counted in bytes, the tensor says its dtype
  std::string_view key;
  uint64_t count;                    // elements
  uint64_t view_offset, view_count;  // the part of it that is meant, in elements

  uint64_t element_bytes() const { return dtype ? dtype_bits(*dtype) / 8 : 1; }
};

constexpr std::string_view kTorchSaveStateDict =
    "in PyTorch, save tensors only: torch.save(model.state_dict(), ...)";

// The PickleAllow of torch files: only names that stand for tensors, their parts, and a few plain
// values. Errors: input, naming the global.
std::string_view allow_torch_global(std::string_view module, std::string_view name);

// True for a call that makes a tensor or a Parameter, of a supported kind or not.
bool is_torch_tensor(const Pickle& pickle, PickleRef ref);

// `persistent` is a value of that kind. Errors: input.
TorchStorageId read_torch_storage_id(const Pickle& pickle, const PickleValue& persistent);

// The tensor (without its name) that the call at `ref` would make. Its storage must be one of
// `storages`, which lie inside the file. Errors: input.
TorchTensor rebuild_torch_tensor(const Pickle& pickle, const TorchStorages& storages,
                                 PickleRef ref);

}  // namespace qp
