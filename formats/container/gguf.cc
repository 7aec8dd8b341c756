#include "formats/container/gguf.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <unordered_set>

#include "lib/base/checked.h"
#include "lib/base/error.h"

namespace qp {
namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr uint64_t kMaxString = uint64_t{1} << 30;
constexpr uint64_t kMaxArray = uint64_t{1} << 30;
constexpr uint64_t kMaxName = 63;  // ggml keeps 64 bytes with the final NUL
constexpr uint32_t kMaxDims = 4;
// The least a metadata pair (1-byte key, 1-byte value) and a tensor (1-byte name, 0 dimensions)
// can take: what bounds their counts by the file's size.
constexpr uint64_t kLeastPair = 8 + 1 + 4 + 1;
constexpr uint64_t kLeastTensor = 8 + 1 + 4 + 4 + 8;

// Bytes of one element; 0 for strings, arrays and unknown types.
uint64_t width_of(GgufType type) {
  switch (type) {
    case GgufType::u8:
    case GgufType::i8:
    case GgufType::boolean: return 1;
    case GgufType::u16:
    case GgufType::i16: return 2;
    case GgufType::u32:
    case GgufType::i32:
    case GgufType::f32: return 4;
    case GgufType::u64:
    case GgufType::i64:
    case GgufType::f64: return 8;
    case GgufType::string:
    case GgufType::array: break;
  }
  return 0;
}

template <class T>
T load(const std::byte* p) {
  T v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// Walks a span; every step is checked against what is left.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, std::string_view path) : bytes_(bytes), path_(path) {}

  uint64_t position() const { return at_; }
  uint64_t left() const { return bytes_.size() - at_; }

  std::span<const std::byte> take(uint64_t n) {
    if (n > left()) fail("is cut short in its header");
    auto part = bytes_.subspan(at_, n);
    at_ += n;
    return part;
  }
  template <class T>
  T number() {
    return load<T>(take(sizeof(T)).data());
  }
  std::span<const std::byte> string() {
    auto n = number<uint64_t>();
    if (n > kMaxString || n > left()) {
      fail("has a string of " + std::to_string(n) + " bytes (" + std::to_string(left()) +
           " are left in the file)");
    }
    return take(n);
  }
  std::string_view text() {
    auto bytes = string();
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  [[noreturn]] void fail(std::string what) const {
    throw input_error(std::move(what) + " at byte " + std::to_string(at_)).file(path_);
  }

 private:
  std::span<const std::byte> bytes_;
  std::string_view path_;
  uint64_t at_ = 0;
};

GgufType read_type(Cursor& in, std::string_view key) {
  auto id = in.number<uint32_t>();
  if (id > static_cast<uint32_t>(GgufType::f64)) {
    in.fail("metadata key '" + printable(key) + "' has unknown type " + std::to_string(id));
  }
  return static_cast<GgufType>(id);
}

GgufValue read_array(Cursor& in, std::string_view key) {
  GgufValue value;
  value.type = GgufType::array;
  value.element = read_type(in, key);
  value.count = in.number<uint64_t>();
  if (value.element == GgufType::array) {
    in.fail("metadata key '" + printable(key) + "' is an array of arrays");
  }
  uint64_t least = value.element == GgufType::string ? 8 : width_of(value.element);
  if (value.count > kMaxArray || value.count > in.left() / least) {
    in.fail("metadata key '" + printable(key) + "' is an array of " + std::to_string(value.count) +
            " elements (" + std::to_string(in.left()) + " bytes are left in the file)");
  }
  if (value.element == GgufType::string) {
    Cursor start = in;
    for (uint64_t i = 0; i < value.count; ++i) in.string();
    value.bytes = start.take(in.position() - start.position());
  } else {
    value.bytes = in.take(value.count * least);
  }
  return value;
}

GgufValue read_value(Cursor& in, std::string_view key) {
  GgufType type = read_type(in, key);
  if (type == GgufType::array) return read_array(in, key);
  GgufValue value;
  value.type = type;
  value.bytes = type == GgufType::string ? in.string() : in.take(width_of(type));
  return value;
}

void read_metadata(Cursor& in, uint64_t count, GgufFile& file) {
  if (count > in.left() / kLeastPair) {
    in.fail("claims " + std::to_string(count) + " metadata pairs, more than fit in the file");
  }
  std::unordered_set<std::string_view> seen;  // grows as pairs turn up, not from `count`
  for (uint64_t i = 0; i < count; ++i) {
    std::string_view key = in.text();
    if (key.empty()) in.fail("has a metadata pair without a key");
    if (!seen.insert(key).second) in.fail("metadata key '" + printable(key) + "' appears twice");
    file.metadata.emplace_back(key, read_value(in, key));
  }
}

const GgmlType* read_ggml_type(Cursor& in, std::string_view name) {
  auto id = in.number<uint32_t>();
  const GgmlType* type = ggml_type(id);
  if (type != nullptr) return type;
  bool removed = id == 4 || id == 5 || (id >= 31 && id <= 33) || (id >= 36 && id <= 38);
  throw input_error("has ggml type " + std::to_string(id) +
                    (removed ? ", which ggml has removed" : ", which is not known"))
      .tensor(name)
      .hint(removed ? "convert the model again with a current converter"
                    : "a fork of ggml may have written the file");
}

// Bytes of a tensor; throws when its rows are no whole blocks or the size overflows.
uint64_t size_of(const GgufTensor& t) {
  if (t.shape.cols() % t.type->block != 0) {
    throw input_error("rows of " + std::to_string(t.shape.cols()) +
                      " elements are no multiple of " + std::string(t.type->name) +
                      "'s block of " + std::to_string(t.type->block))
        .tensor(t.name);
  }
  auto elements = t.shape.elements();
  if (elements && *elements <= uint64_t{INT64_MAX}) {
    auto bytes = checked_mul(*elements / t.type->block, t.type->bytes);
    if (bytes && *bytes <= uint64_t{INT64_MAX}) return *bytes;
  }
  throw input_error("size overflows (shape " + t.shape.str() + ")").tensor(t.name);
}

GgufTensor read_tensor(Cursor& in, uint64_t& offset_in_data) {
  GgufTensor t;
  t.name = in.text();
  if (t.name.empty() || t.name.size() > kMaxName) {
    throw input_error("tensor name has " + std::to_string(t.name.size()) +
                      " bytes (expected 1 to " + std::to_string(kMaxName) + ")")
        .tensor(t.name);
  }
  auto rank = in.number<uint32_t>();
  if (rank > kMaxDims) {
    throw input_error("has " + std::to_string(rank) + " dimensions (at most 4 are allowed)")
        .tensor(t.name);
  }
  uint64_t dims[kMaxDims] = {};
  for (uint32_t i = 0; i < rank; ++i) {
    dims[i] = in.number<uint64_t>();
    if (dims[i] == 0 || dims[i] > uint64_t{INT64_MAX}) {
      throw input_error("has a dimension of " + std::to_string(static_cast<int64_t>(dims[i])))
          .tensor(t.name);
    }
  }
  for (uint32_t i = rank; i > 0; --i) t.shape.push(dims[i - 1]);
  t.type = read_ggml_type(in, t.name);
  t.bytes = size_of(t);
  offset_in_data = in.number<uint64_t>();
  return t;
}

// Reads the tensor table. Offsets must be what ggml's reader expects: each tensor right after the
// padded one before it, so that none overlap and none lie outside.
void read_tensors(Cursor& in, uint64_t count, uint64_t file_size, GgufFile& file) {
  if (count > in.left() / kLeastTensor) {
    in.fail("claims " + std::to_string(count) + " tensors, more than fit in the file");
  }
  std::unordered_set<std::string_view> seen;
  uint64_t expected = 0;
  for (uint64_t i = 0; i < count; ++i) {
    uint64_t offset = 0;
    GgufTensor t = read_tensor(in, offset);
    if (!seen.insert(t.name).second) throw input_error("appears twice").tensor(t.name);
    if (offset != expected) {
      throw input_error("data offset (expected " + std::to_string(expected) + ", found " +
                        std::to_string(offset) + ")")
          .tensor(t.name);
    }
    auto end = checked_add(expected, t.bytes);
    if (!end || *end > file_size) {
      throw input_error("data is cut short (ends at byte " +
                        (end ? std::to_string(*end) : "2^64") +
                        " of the data, the file has " + std::to_string(file_size) + " bytes)")
          .tensor(t.name);
    }
    t.offset = offset;
    expected = round_up(*end, file.alignment);
    file.tensors.push_back(t);
  }
  if (file.tensors.empty()) return;
  uint64_t data = round_up(in.position(), file.alignment);
  for (GgufTensor& t : file.tensors) {
    t.offset += data;
    if (t.offset + t.bytes > file_size) {
      throw input_error("data is cut short (ends at byte " + std::to_string(t.offset + t.bytes) +
                        ", the file has " + std::to_string(file_size) + ")")
          .tensor(t.name);
    }
  }
}

void read_header(Cursor& in, GgufFile& file) {
  if (in.left() < 4 || std::memcmp(in.take(4).data(), kMagic.data(), 4) != 0) {
    throw input_error("is not a GGUF file (it does not start with \"GGUF\")");
  }
  file.version = in.number<uint32_t>();
  if ((file.version & 0xffff) == 0 && file.version != 0) {
    throw input_error("is a big-endian GGUF file").hint(
        "convert it to little-endian first, for example with gguf-py's gguf_convert_endian");
  }
  if (file.version != 2 && file.version != 3) {
    throw input_error("has GGUF version " + std::to_string(file.version) +
                      " (versions 2 and 3 are supported)");
  }
}

void read_alignment(GgufFile& file) {
  const GgufValue* value = file.find("general.alignment");
  if (value == nullptr) return;
  if (value->type != GgufType::u32) {
    throw input_error("metadata key 'general.alignment' (expected u32, found " +
                      std::string(name_of(value->type)) + ")");
  }
  file.alignment = load<uint32_t>(value->bytes.data());
  if (!std::has_single_bit(file.alignment)) {
    throw input_error("alignment " + std::to_string(file.alignment) + " is no power of two");
  }
}

// One integer of any integer type; nothing for other types or a u64 beyond int64.
std::optional<int64_t> integer(GgufType type, const std::byte* p) {
  switch (type) {
    case GgufType::u8: return load<uint8_t>(p);
    case GgufType::i8: return load<int8_t>(p);
    case GgufType::u16: return load<uint16_t>(p);
    case GgufType::i16: return load<int16_t>(p);
    case GgufType::u32: return load<uint32_t>(p);
    case GgufType::i32: return load<int32_t>(p);
    case GgufType::i64: return load<int64_t>(p);
    case GgufType::u64: {
      auto v = load<uint64_t>(p);
      if (v <= uint64_t{INT64_MAX}) return static_cast<int64_t>(v);
      return std::nullopt;
    }
    default: return std::nullopt;
  }
}

bool is_integer(GgufType type) {
  return width_of(type) > 0 && type != GgufType::f32 && type != GgufType::f64 &&
         type != GgufType::boolean;
}

[[noreturn]] void wrong_type(const GgufFile& file, std::string_view key, std::string_view expected,
                             const GgufValue& found) {
  std::string what(name_of(found.type));
  if (found.type == GgufType::array) what = "array of " + std::string(name_of(found.element));
  throw input_error("metadata key '" + printable(key) + "' (expected " + std::string(expected) +
                    ", found " + what + ")")
      .file(file.path);
}

double shortest_double(float value) {
  char text[32];
  auto end = std::to_chars(text, text + sizeof text, value).ptr;
  double result = value;
  std::from_chars(text, end, result);
  return result;
}

}  // namespace

std::string_view name_of(GgufType type) {
  constexpr std::string_view kNames[] = {"u8",  "i8",     "u16",   "i16", "u32", "i32", "f32",
                                         "bool", "string", "array", "u64", "i64", "f64"};
  auto i = static_cast<size_t>(type);
  return i < std::size(kNames) ? kNames[i] : "unknown";
}

const GgufValue* GgufFile::find(std::string_view key) const {
  for (const auto& [name, value] : metadata) {
    if (name == key) return &value;
  }
  return nullptr;
}

std::optional<std::string_view> GgufFile::string_at(std::string_view key) const {
  const GgufValue* v = find(key);
  if (v == nullptr) return std::nullopt;
  if (v->type != GgufType::string) wrong_type(*this, key, "string", *v);
  return std::string_view(reinterpret_cast<const char*>(v->bytes.data()), v->bytes.size());
}

std::optional<uint64_t> GgufFile::uint_at(std::string_view key) const {
  const GgufValue* v = find(key);
  if (v == nullptr) return std::nullopt;
  if (!is_integer(v->type)) wrong_type(*this, key, "an integer", *v);
  auto n = integer(v->type, v->bytes.data());
  if (!n || *n < 0) {
    throw input_error("metadata key '" + printable(key) + "' is out of range").file(path);
  }
  return static_cast<uint64_t>(*n);
}

std::optional<bool> GgufFile::bool_at(std::string_view key) const {
  const GgufValue* v = find(key);
  if (v == nullptr) return std::nullopt;
  if (v->type != GgufType::boolean) wrong_type(*this, key, "bool", *v);
  return load<uint8_t>(v->bytes.data()) != 0;
}

std::optional<double> GgufFile::real_at(std::string_view key) const {
  const GgufValue* v = find(key);
  if (v == nullptr) return std::nullopt;
  if (v->type == GgufType::f32) return shortest_double(load<float>(v->bytes.data()));
  if (v->type == GgufType::f64) return load<double>(v->bytes.data());
  wrong_type(*this, key, "f32", *v);
}

std::optional<std::vector<std::string_view>> GgufFile::strings_at(std::string_view key) const {
  const GgufValue* v = find(key);
  if (v == nullptr) return std::nullopt;
  if (v->type != GgufType::array || v->element != GgufType::string) {
    wrong_type(*this, key, "array of string", *v);
  }
  std::vector<std::string_view> texts;
  texts.reserve(v->count);
  Cursor in(v->bytes, path);  // checked again: the file may have changed since
  for (uint64_t i = 0; i < v->count; ++i) texts.push_back(in.text());
  return texts;
}

std::optional<std::vector<float>> GgufFile::floats_at(std::string_view key) const {
  const GgufValue* v = find(key);
  if (v == nullptr) return std::nullopt;
  if (v->type != GgufType::array || v->element != GgufType::f32) {
    wrong_type(*this, key, "array of f32", *v);
  }
  std::vector<float> numbers(v->count);
  if (!numbers.empty()) std::memcpy(numbers.data(), v->bytes.data(), v->bytes.size());
  return numbers;
}

std::optional<std::vector<int64_t>> GgufFile::ints_at(std::string_view key) const {
  const GgufValue* v = find(key);
  if (v == nullptr) return std::nullopt;
  GgufType type = v->type == GgufType::array ? v->element : v->type;
  if (!is_integer(type)) wrong_type(*this, key, "array of integers", *v);
  std::vector<int64_t> numbers;
  numbers.reserve(v->count);
  for (uint64_t i = 0; i < v->count; ++i) {
    auto n = integer(type, v->bytes.data() + i * width_of(type));
    if (!n) throw input_error("metadata key '" + printable(key) + "' is out of range").file(path);
    numbers.push_back(*n);
  }
  return numbers;
}

bool looks_like_gguf(std::span<const std::byte> first_bytes) {
  return first_bytes.size() >= 4 && std::memcmp(first_bytes.data(), kMagic.data(), 4) == 0;
}

GgufFile parse_gguf(std::span<const std::byte> bytes, std::string_view path) {
  GgufFile file;
  file.path = path;
  file.bytes = bytes;
  Cursor in(bytes, path);
  try {
    read_header(in, file);
    auto tensors = in.number<uint64_t>();
    auto pairs = in.number<uint64_t>();
    if (tensors > in.left() / kLeastTensor) {
      in.fail("claims " + std::to_string(tensors) + " tensors, more than fit in the file");
    }
    read_metadata(in, pairs, file);
    read_alignment(file);
    read_tensors(in, tensors, bytes.size(), file);
  } catch (Error& e) {
    e.file(path);
    throw;
  }
  return file;
}

}  // namespace qp
