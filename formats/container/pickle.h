// Reads the protocol 2 pickles that PyTorch writes into a tree of inert values. Nothing is
// imported, called or constructed: a call stays a node that names what would have been called.
// Opcodes: those of CPython's Lib/pickletools.py that PyTorch's weights-only reader takes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace qp {

enum class PickleKind : uint8_t {
  none,
  boolean,     // integer is 0 or 1
  integer,     // integer
  big,         // an integer of more than 64 bits; its value is not kept
  real,        // real
  string,      // text: UTF-8 as a rule, not checked (Python 2 wrote bytes)
  list,        // items
  tuple,       // items
  set,         // always empty: its opcode can only make an empty one
  dict,        // items: key, value, key, value ..; also collections.OrderedDict
  global,      // text: the allow list's name for it
  call,        // items: callable, arguments (a tuple)
  persistent,  // items: the id, a tuple
};

using PickleRef = uint32_t;  // index of a value in Pickle::values

struct PickleValue {
  PickleKind kind;
  union {
    int64_t integer = 0;
    double real;
  };
  std::string_view text;  // points into the pickle's bytes, or at the allow list
  std::vector<PickleRef> items;
};

// Values may be shared and may contain themselves: whoever walks them bounds depth and steps.
struct Pickle {
  std::vector<PickleValue> values;
  PickleRef root;
  size_t bytes;  // length of the pickle, STOP included

  const PickleValue& operator[](PickleRef ref) const { return values[ref]; }
};

std::string_view pickle_kind_name(PickleKind kind);  // "dict", for messages

// Maps "module" and "name" of a global to its static name ("torch._utils._rebuild_tensor_v2"), or
// throws qp::Error because it is not allowed.
using PickleAllow = std::string_view (*)(std::string_view module, std::string_view name);

constexpr size_t kPickleMaxBytes = size_t{64} << 20;  // without tensor data, it is text about them
constexpr size_t kPickleMaxSteps = size_t{4} << 20;   // values, pushes and memo entries together
constexpr size_t kPickleMaxMarks = 1024;              // CPython itself nests no deeper

// Reads the one pickle at the start of `bytes`; what follows it is not looked at. Memory is bounded
// by kPickleMaxSteps and by the length read. `bytes` must outlive the result.
// Errors: input (malformed, another protocol, an opcode or global that is not allowed), limit.
Pickle read_pickle(std::span<const std::byte> bytes, PickleAllow allow);

}  // namespace qp
