#include "formats/container/pickle.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <unordered_map>
#include <utility>

#include "lib/base/error.h"

namespace qp {
namespace {

enum Op : uint8_t {
  kMark = 0x28,
  kEmptyTuple = 0x29,
  kStop = 0x2e,
  kBinFloat = 0x47,
  kBinInt = 0x4a,
  kBinInt1 = 0x4b,
  kBinInt2 = 0x4d,
  kNone = 0x4e,
  kBinPersId = 0x51,
  kReduce = 0x52,
  kShortBinString = 0x55,
  kBinUnicode = 0x58,
  kEmptyList = 0x5d,
  kAppend = 0x61,
  kBuild = 0x62,
  kGlobal = 0x63,
  kAppends = 0x65,
  kBinGet = 0x68,
  kLongBinGet = 0x6a,
  kBinPut = 0x71,
  kLongBinPut = 0x72,
  kSetItem = 0x73,
  kTuple = 0x74,
  kSetItems = 0x75,
  kEmptyDict = 0x7d,
  kProto = 0x80,
  kNewObj = 0x81,
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kLong1 = 0x8a,
  kEmptySet = 0x8f,
};

constexpr std::string_view kSaveAgain =
    "load it in PyTorch and save it again with torch.save(..., pickle_protocol=2)";
constexpr std::string_view kOrderedDict = "collections.OrderedDict";

std::string hex(uint8_t byte) {
  static const char* digits = "0123456789abcdef";
  return {'0', 'x', digits[byte >> 4], digits[byte & 15]};
}

class Interpreter {
 public:
  Interpreter(std::span<const std::byte> bytes, PickleAllow allow)
      : bytes_(bytes.first(std::min(bytes.size(), kPickleMaxBytes))),
        cut_(bytes.size() > kPickleMaxBytes),
        allow_(allow) {}

  Pickle run() {
    if (take<uint8_t>() != kProto) throw error("does not start with a protocol number");
    if (auto protocol = take<uint8_t>(); protocol != 2) {
      throw input_error("pickle protocol " + std::to_string(protocol) +
                        " is not supported (expected 2)")
          .hint(kSaveAgain);
    }
    for (;;) {
      op_at_ = at_;
      const auto op = take<uint8_t>();
      if (op == kStop) break;
      if (!push_scalar(op) && !build_container(op)) {
        throw input_error("pickle opcode " + hex(op) + " at byte " + std::to_string(op_at_) +
                          " is not allowed")
            .hint(kSaveAgain);
      }
    }
    out_.root = pop();
    if (!stack_.empty() || !marks_.empty()) throw error("leaves values on the stack");
    out_.bytes = at_;
    return std::move(out_);
  }

 private:
  Error error(std::string what) const {
    return input_error("damaged pickle at byte " + std::to_string(op_at_) + ": " + std::move(what));
  }

  // --- bytes ---
  std::span<const std::byte> take_bytes(size_t n) {
    if (n > bytes_.size() - at_) {
      if (cut_) throw limit_error("pickle is longer than 64 MiB");
      throw error("ends too early");
    }
    at_ += n;
    return bytes_.subspan(at_ - n, n);
  }
  template <class T>
  T take() {
    T value;
    std::memcpy(&value, take_bytes(sizeof value).data(), sizeof value);
    return value;
  }
  std::string_view take_text(size_t n) {
    auto part = take_bytes(n);
    return {reinterpret_cast<const char*>(part.data()), n};
  }
  std::string_view take_line() {
    const size_t left = bytes_.size() - at_;
    const std::string_view rest(reinterpret_cast<const char*>(bytes_.data()) + at_, left);
    const size_t end = rest.find('\n');
    take_bytes(end < left ? end + 1 : left + 1);  // without an end of line it ends too early
    return rest.substr(0, end);
  }

  // --- stack ---
  // Every amount of work that a byte of input can cause is paid here.
  void charge(size_t steps) {
    if (steps > kPickleMaxSteps - steps_) throw limit_error("pickle holds too many values");
    steps_ += steps;
  }
  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  void push(PickleRef ref) {
    charge(1);
    stack_.push_back(ref);
  }
  PickleValue& push_new(PickleKind kind) {
    charge(1);
    out_.values.emplace_back().kind = kind;
    push(static_cast<PickleRef>(out_.values.size() - 1));
    return out_.values.back();
  }
  void push_integer(PickleKind kind, int64_t value) { push_new(kind).integer = value; }
  void need(size_t n) const {
    if (stack_.size() - floor() < n) throw error("takes more values than there are");
  }
  PickleRef pop() {
    need(1);
    PickleRef ref = stack_.back();
    stack_.pop_back();
    return ref;
  }
  // The value below the popped ones, which must be of `kind`.
  PickleValue& top(PickleKind kind) {
    need(1);
    PickleValue& value = out_.values[stack_.back()];
    if (value.kind != kind) {
      throw error("expected a " + std::string(pickle_kind_name(kind)) + ", found a " +
                  std::string(pickle_kind_name(value.kind)));
    }
    return value;
  }
  std::vector<PickleRef> pop_n(size_t n) {
    need(n);
    std::vector<PickleRef> items(stack_.end() - static_cast<ptrdiff_t>(n), stack_.end());
    stack_.resize(stack_.size() - n);
    return items;
  }
  std::vector<PickleRef> pop_to_mark() {
    if (marks_.empty()) throw error("no mark on the stack");
    auto items = pop_n(stack_.size() - marks_.back());
    marks_.pop_back();
    return items;
  }

  // --- opcodes; both return false for an opcode that is not theirs ---
  bool push_scalar(uint8_t op) {
    switch (op) {
      case kNone: push_new(PickleKind::none); return true;
      case kNewTrue: push_integer(PickleKind::boolean, 1); return true;
      case kNewFalse: push_integer(PickleKind::boolean, 0); return true;
      case kBinInt: push_integer(PickleKind::integer, take<int32_t>()); return true;
      case kBinInt1: push_integer(PickleKind::integer, take<uint8_t>()); return true;
      case kBinInt2: push_integer(PickleKind::integer, take<uint16_t>()); return true;
      case kLong1: push_long(take_bytes(take<uint8_t>())); return true;
      case kBinFloat: {
        const auto big_endian = take<uint64_t>();
        push_new(PickleKind::real).real = std::bit_cast<double>(__builtin_bswap64(big_endian));
        return true;
      }
      case kBinUnicode: {
        auto text = take_text(take<uint32_t>());
        push_new(PickleKind::string).text = text;
        return true;
      }
      case kShortBinString: {
        auto text = take_text(take<uint8_t>());
        push_new(PickleKind::string).text = text;
        return true;
      }
      case kGlobal: {
        auto module = take_line(), name = take_line();
        push_new(PickleKind::global).text = allow_(module, name);
        return true;
      }
      case kBinGet: get(take<uint8_t>()); return true;
      case kLongBinGet: get(take<uint32_t>()); return true;
      case kBinPut: put(take<uint8_t>()); return true;
      case kLongBinPut: put(take<uint32_t>()); return true;
      default: return false;
    }
  }

  bool build_container(uint8_t op) {
    switch (op) {
      case kMark:
        if (marks_.size() == kPickleMaxMarks) throw limit_error("pickle is nested too deeply");
        marks_.push_back(stack_.size());
        return true;
      case kEmptyTuple: push_new(PickleKind::tuple); return true;
      case kEmptyList: push_new(PickleKind::list); return true;
      case kEmptyDict: push_new(PickleKind::dict); return true;
      case kEmptySet: push_new(PickleKind::set); return true;
      case kTuple: push_tuple(pop_to_mark()); return true;
      case kTuple1: push_tuple(pop_n(1)); return true;
      case kTuple2: push_tuple(pop_n(2)); return true;
      case kTuple3: push_tuple(pop_n(3)); return true;
      case kAppend: extend(PickleKind::list, pop_n(1)); return true;
      case kAppends: extend(PickleKind::list, pop_to_mark()); return true;
      case kSetItem: extend(PickleKind::dict, pop_n(2)); return true;
      case kSetItems: {
        auto items = pop_to_mark();
        if (items.size() % 2 != 0) throw error("key without a value");
        extend(PickleKind::dict, items);
        return true;
      }
      case kReduce:
      case kNewObj: call(); return true;
      case kBuild:
        // Attributes of an object (an OrderedDict's _metadata, a Parameter's): none is a weight.
        pop();
        need(1);
        return true;
      case kBinPersId: {
        const PickleRef id = pop();
        push_new(PickleKind::persistent).items = {id};
        return true;
      }
      default: return false;
    }
  }

  // Two's complement, least significant byte first; no bytes at all are 0.
  void push_long(std::span<const std::byte> raw) {
    if (raw.size() > 8) {
      push_new(PickleKind::big);
      return;
    }
    const bool negative = !raw.empty() && (raw.back() & std::byte{0x80}) != std::byte{0};
    int64_t value = negative ? -1 : 0;
    if (!raw.empty()) std::memcpy(&value, raw.data(), raw.size());
    push_integer(PickleKind::integer, value);
  }

  void get(uint32_t key) {
    auto it = memo_.find(key);
    if (it == memo_.end()) throw error("memo " + std::to_string(key) + " is not set");
    push(it->second);
  }
  void put(uint32_t key) {
    need(1);
    charge(1);
    memo_[key] = stack_.back();
  }
  void push_tuple(std::vector<PickleRef> items) {
    push_new(PickleKind::tuple).items = std::move(items);
  }
  void extend(PickleKind kind, const std::vector<PickleRef>& items) {
    auto& all = top(kind).items;
    all.insert(all.end(), items.begin(), items.end());
  }

  void call() {
    const auto parts = pop_n(2);  // callable, arguments
    const PickleValue& callable = out_.values[parts[0]];
    if (callable.kind != PickleKind::global) throw error("calls what is not a global");
    if (out_.values[parts[1]].kind != PickleKind::tuple) throw error("arguments are not a tuple");
    if (callable.text == kOrderedDict) {
      push_ordered_dict(parts[1]);
    } else {
      push_new(PickleKind::call).items = parts;
    }
  }
  // OrderedDict() or, as Python 2 wrote it, OrderedDict([[key, value], ..]).
  void push_ordered_dict(PickleRef arguments) {
    std::vector<PickleRef> items;
    const std::vector<PickleRef>& given = out_.values[arguments].items;
    if (given.size() > 1) throw error("OrderedDict with more than one argument");
    for (PickleRef list : given) {
      if (out_.values[list].kind != PickleKind::list) throw error("OrderedDict not of a list");
      charge(out_.values[list].items.size());
      for (PickleRef ref : out_.values[list].items) {
        const PickleValue& pair = out_.values[ref];
        if ((pair.kind != PickleKind::list && pair.kind != PickleKind::tuple) ||
            pair.items.size() != 2) {
          throw error("OrderedDict not of pairs");
        }
        items.insert(items.end(), pair.items.begin(), pair.items.end());
      }
    }
    push_new(PickleKind::dict).items = std::move(items);
  }

  std::span<const std::byte> bytes_;
  bool cut_;  // more bytes follow than a pickle may have
  PickleAllow allow_;
  size_t at_ = 0;     // next byte
  size_t op_at_ = 0;  // the opcode at work, for messages
  size_t steps_ = 0;
  Pickle out_{};
  std::vector<PickleRef> stack_;
  std::vector<size_t> marks_;  // stack sizes
  std::unordered_map<uint32_t, PickleRef> memo_;
};

}  // namespace

std::string_view pickle_kind_name(PickleKind kind) {
  switch (kind) {
    case PickleKind::none: return "None";
    case PickleKind::boolean: return "bool";
    case PickleKind::integer:
    case PickleKind::big: return "int";
    case PickleKind::real: return "float";
    case PickleKind::string: return "str";
    case PickleKind::list: return "list";
    case PickleKind::tuple: return "tuple";
    case PickleKind::set: return "set";
    case PickleKind::dict: return "dict";
    case PickleKind::global: return "class or function";
    case PickleKind::call: return "object";
    case PickleKind::persistent: return "storage";
  }
  return "value";
}

Pickle read_pickle(std::span<const std::byte> bytes, PickleAllow allow) {
  return Interpreter(bytes, allow).run();
}

}  // namespace qp
