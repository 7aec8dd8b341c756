#include "formats/container/torch_tensor.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "lib/base/checked.h"
#include "lib/base/error.h"

namespace qp {
namespace {

using Refs = std::span<const PickleRef>;

constexpr std::string_view kFetchAgain = "the file is cut short or was changed; fetch it again";

// --- the allow list ---

struct StorageClass {
  std::string_view name;
  std::optional<DType> dtype;  // none: counted in bytes, the tensor says its dtype
};
constexpr StorageClass kStorageClasses[] = {
    {"torch.FloatStorage", DType::f32},
    {"torch.DoubleStorage", DType::f64},
    {"torch.HalfStorage", DType::f16},
    {"torch.BFloat16Storage", DType::bf16},
    {"torch.ByteStorage", DType::u8},
    {"torch.CharStorage", DType::i8},
    {"torch.ShortStorage", DType::i16},
    {"torch.IntStorage", DType::i32},
    {"torch.LongStorage", DType::i64},
    {"torch.BoolStorage", DType::boolean},
    {"torch.ComplexFloatStorage", DType::c64},
    {"torch.UntypedStorage", {}},
    {"torch.storage.UntypedStorage", {}},
};

constexpr std::string_view kRebuildTensor = "torch._utils._rebuild_tensor";
constexpr std::string_view kRebuildTensorV2 = "torch._utils._rebuild_tensor_v2";
constexpr std::string_view kRebuildTensorV3 = "torch._utils._rebuild_tensor_v3";
constexpr std::string_view kRebuildParameter = "torch._utils._rebuild_parameter";
constexpr std::string_view kRebuildParameterWithState =
    "torch._utils._rebuild_parameter_with_state";
constexpr std::string_view kRebuildFromType = "torch._tensor._rebuild_from_type_v2";
constexpr std::string_view kTensorClass = "torch.Tensor";
constexpr std::string_view kParameterClass = "torch.nn.parameter.Parameter";

// Beside storages and dtypes. The names without meaning here may be parts of skipped entries.
constexpr std::string_view kOtherGlobals[] = {
    "collections.OrderedDict", kRebuildTensor, kRebuildTensorV2, kRebuildTensorV3,
    kRebuildParameter, kRebuildParameterWithState, kRebuildFromType, kTensorClass, kParameterClass,
    "torch.Size", "torch.device", "torch.serialization._get_layout", "collections.Counter",
    "_codecs.encode", "builtins.set", "builtins.bytearray", "builtins.complex",
    // Protocol 2 spells builtins as Python 2 did.
    "__builtin__.set", "__builtin__.bytearray", "__builtin__.complex"};

// --- storages ---

uint64_t as_size(const PickleValue& value, std::string_view what) {
  if (value.kind != PickleKind::integer || value.integer < 0) {
    throw input_error(std::string(what) + " is not a size");
  }
  return static_cast<uint64_t>(value.integer);
}

// Where the storage's bytes are. Its length was written twice; both must agree.
TorchRange locate(const TorchStorageId& id, const TorchStorages& storages) {
  const auto it = storages.find(id.key);
  if (it == storages.end()) {
    throw input_error("storage '" + printable(id.key) + "' is not in the file").hint(kFetchAgain);
  }
  const uint64_t element = id.element_bytes();
  const auto bytes = checked_mul(id.count, element);
  if (!bytes || *bytes != it->second.bytes) {
    throw input_error("storage '" + printable(id.key) + "' has " +
                      std::to_string(it->second.bytes) + " bytes (expected " +
                      std::to_string(id.count) + " elements of " + std::to_string(element) + ")")
        .hint(kFetchAgain);
  }
  // Inside the storage, so that neither product nor sum can overflow.
  return {it->second.offset + id.view_offset * element, id.view_count * element};
}

// --- tensors ---

bool is_dense_row_major(const Shape& shape, const std::vector<uint64_t>& strides) {
  uint64_t expected = 1;
  for (size_t i = shape.rank(); i-- > 0;) {
    if (shape[i] != 1 && strides[i] != expected) return false;
    expected *= shape[i];  // the number of elements is known to fit
  }
  return true;
}

// Checks sizes and strides against the storage and sets offset and contiguous. An expanded tensor
// (stride 0) larger than its storage is refused: it would let a small file ask for any memory.
void place(TorchTensor& t, uint64_t first) {
  const uint64_t element = dtype_bits(t.dtype) / 8;
  const uint64_t held = t.storage_bytes / element;
  const auto dense = t.shape.elements();
  if (dense == uint64_t{0}) {  // PyTorch leaves any offset and strides in an empty view
    t.offset = t.storage_offset;
    t.contiguous = true;
    return;
  }
  if (first >= held || !dense || *dense > held) {
    throw input_error("shape " + t.shape.str() + " from element " + std::to_string(first) +
                      " on needs more than its storage of " + std::to_string(held) + " elements")
        .hint("if it was expanded, save tensor.contiguous()");
  }
  uint64_t last = first;
  for (size_t i = 0; i < t.shape.rank(); ++i) {
    const auto step = checked_mul(t.shape[i] - 1, t.strides[i]);
    const auto sum = step ? checked_add(last, *step) : std::nullopt;
    if (!sum || *sum >= held) {
      throw input_error("strides lead outside its storage of " + std::to_string(held) +
                        " elements");
    }
    last = *sum;
  }
  t.offset = t.storage_offset + first * element;
  t.contiguous = is_dense_row_major(t.shape, t.strides);
}

void read_shape(const Pickle& pickle, const PickleValue& size, const PickleValue& stride,
                TorchTensor& t) {
  if (size.kind != PickleKind::tuple || stride.kind != PickleKind::tuple ||
      size.items.size() != stride.items.size()) {
    throw input_error("sizes and strides are not tuples of the same length");
  }
  if (size.items.size() > Shape::kMaxRank) {
    throw input_error("has " + std::to_string(size.items.size()) + " dimensions (at most " +
                      std::to_string(Shape::kMaxRank) + " are supported)");
  }
  for (size_t i = 0; i < size.items.size(); ++i) {
    t.shape.push(as_size(pickle[size.items[i]], "dimension"));
    t.strides.push_back(as_size(pickle[stride.items[i]], "stride"));
  }
}

// The bits say that values are to be conjugated or negated on reading; weights never have them.
void check_metadata(const Pickle& pickle, const PickleValue& metadata) {
  if (metadata.kind == PickleKind::none) return;
  if (metadata.kind != PickleKind::dict) throw input_error("tensor metadata is malformed");
  for (size_t i = 1; i < metadata.items.size(); i += 2) {
    const PickleValue& bit = pickle[metadata.items[i]];
    if (bit.kind != PickleKind::boolean || bit.integer != 0) {
      throw input_error("conjugated or negated view is not supported")
          .hint("save tensor.resolve_conj().resolve_neg()");
    }
  }
}

DType tensor_dtype(const TorchStorageId& id, const PickleValue* given) {
  std::optional<DType> dtype = id.dtype;
  if (given != nullptr) {
    dtype = given->kind == PickleKind::global ? dtype_from_torch(given->text) : std::nullopt;
  }
  if (!dtype) throw input_error("has no dtype");
  if (dtype_bits(*dtype) % 8 != 0) {
    throw input_error("dtype " + std::string(torch_name(*dtype)) + " is not supported");
  }
  return *dtype;
}

struct Call {
  std::string_view callable;
  Refs arguments;
};

// Follows the wrappers (Parameter, subclass) down to the call that makes the tensor itself.
Call unwrap(const Pickle& pickle, PickleRef ref) {
  for (int depth = 0; depth < 8; ++depth) {
    const PickleValue& value = pickle[ref];
    if (value.kind != PickleKind::call) throw input_error("is not a tensor");
    Call call{pickle[value.items[0]].text, pickle[value.items[1]].items};
    if (call.callable == kRebuildFromType) {  // (function, class, arguments, state)
      if (call.arguments.size() != 4 || pickle[call.arguments[0]].kind != PickleKind::global ||
          pickle[call.arguments[2]].kind != PickleKind::tuple) {
        throw input_error("subclass of Tensor is malformed");
      }
      call = {pickle[call.arguments[0]].text, pickle[call.arguments[2]].items};
    }
    if (call.callable != kRebuildParameter && call.callable != kRebuildParameterWithState) {
      return call;
    }
    if (call.arguments.empty()) throw input_error("Parameter without data");
    ref = call.arguments[0];
  }
  throw input_error("Parameter of a Parameter, too deep");
}

}  // namespace

std::string_view allow_torch_global(std::string_view module, std::string_view name) {
  const auto is = [&](std::string_view full) {
    return full.size() == module.size() + 1 + name.size() && full.starts_with(module) &&
           full[module.size()] == '.' && full.ends_with(name);
  };
  for (std::string_view full : kOtherGlobals) {
    if (is(full)) return full;
  }
  for (const StorageClass& storage : kStorageClasses) {
    if (is(storage.name)) return storage.name;
  }
  if (module == "torch") {
    if (auto dtype = dtype_from_torch(name)) return torch_name(*dtype);
  }
  std::string full("'");
  full.append(printable(module)).append(".").append(printable(name)).append("'");
  if (module == "torch._utils" && name.starts_with("_rebuild_")) {
    throw input_error("kind of tensor is not supported (" + full + ")")
        .hint("in PyTorch, save dense tensors that are not quantized");
  }
  if (module == "torch") throw input_error("storage or type is not supported (" + full + ")");
  throw input_error("names " + full + ", which is no tensor; qpipe refuses to run code from a file")
      .hint(kTorchSaveStateDict);
}

bool is_torch_tensor(const Pickle& pickle, PickleRef ref) {
  if (pickle[ref].kind != PickleKind::call) return false;
  const std::string_view callable = pickle[pickle[ref].items[0]].text;
  return callable == kTensorClass || callable == kParameterClass ||
         callable == kRebuildFromType || callable.starts_with("torch._utils._rebuild_");
}

TorchStorageId read_torch_storage_id(const Pickle& pickle, const PickleValue& persistent) {
  const PickleValue& id = pickle[persistent.items.at(0)];
  if (id.kind != PickleKind::tuple || id.items.empty() ||
      pickle[id.items[0]].kind != PickleKind::string || pickle[id.items[0]].text != "storage") {
    throw input_error("refers to something that is no storage").hint(kTorchSaveStateDict);
  }
  const size_t n = id.items.size();
  if (n != 5 && n != 6) throw input_error("storage reference has the wrong number of fields");
  const PickleValue& type = pickle[id.items[1]];
  const PickleValue& key = pickle[id.items[2]];
  const auto* storage_class = std::ranges::find(kStorageClasses, type.text, &StorageClass::name);
  if (type.kind != PickleKind::global || storage_class == std::end(kStorageClasses) ||
      key.kind != PickleKind::string) {
    throw input_error("storage reference is malformed");
  }
  const uint64_t count = as_size(pickle[id.items[4]], "storage length");
  TorchStorageId out{storage_class->dtype, key.text, count, 0, count};
  if (n == 6 && pickle[id.items[5]].kind != PickleKind::none) {
    const PickleValue& view = pickle[id.items[5]];  // (key, offset, count), before PyTorch 0.4
    if (view.kind != PickleKind::tuple || view.items.size() != 3) {
      throw input_error("storage view is malformed");
    }
    out.view_offset = as_size(pickle[view.items[1]], "storage view offset");
    out.view_count = as_size(pickle[view.items[2]], "storage view length");
    auto end = checked_add(out.view_offset, out.view_count);
    if (!end || *end > out.count) throw input_error("storage view is larger than its storage");
  }
  return out;
}

TorchTensor rebuild_torch_tensor(const Pickle& pickle, const TorchStorages& storages,
                                 PickleRef ref) {
  const Call call = unwrap(pickle, ref);
  const size_t n = call.arguments.size();
  const auto argument = [&](size_t i) -> const PickleValue& { return pickle[call.arguments[i]]; };
  // (storage, offset, size, stride) [, requires_grad, hooks [, dtype] [, metadata]]
  const bool v1 = call.callable == kRebuildTensor, v2 = call.callable == kRebuildTensorV2,
             v3 = call.callable == kRebuildTensorV3;
  if (!v1 && !v2 && !v3) {
    throw input_error("made by '" + std::string(call.callable) + "', which is not supported")
        .hint(kTorchSaveStateDict);
  }
  const size_t least = v1 ? 4 : v2 ? 6 : 7;
  if (n < least || n > least + (v1 ? 0 : 1) || argument(0).kind != PickleKind::persistent) {
    throw input_error("arguments of " + std::string(call.callable) + " are malformed");
  }
  const TorchStorageId id = read_torch_storage_id(pickle, argument(0));
  const TorchRange range = locate(id, storages);
  TorchTensor t{};
  t.dtype = tensor_dtype(id, v3 ? &argument(6) : nullptr);
  t.storage_offset = range.offset;
  t.storage_bytes = range.bytes;
  if (n > least) check_metadata(pickle, argument(least));
  read_shape(pickle, argument(2), argument(3), t);
  place(t, as_size(argument(1), "storage offset"));
  return t;
}

}  // namespace qp
