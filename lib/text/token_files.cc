#include <algorithm>
#include <charconv>
#include <cstring>

#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/base/json.h"
#include "lib/text/window_chooser.h"

namespace qp {
namespace {
constexpr size_t kChunk = 1 << 16;          // ids read at once
constexpr uint64_t kMaxRow = 1u << 28;      // ids of one window in a file

struct IdChecker {
  std::string file;
  int32_t vocab_size;

  int32_t operator()(int64_t id, const std::string& where) const {
    if (id < 0 || id >= vocab_size) {
      throw input_error("token id " + std::to_string(id) + where +
                        " is not in the model's vocabulary (expected 0 to " +
                        std::to_string(vocab_size - 1) + ")")
          .file(file)
          .hint("tokenize with this model's tokenizer");
    }
    return static_cast<int32_t>(id);
  }
};

// The element type and shape of an .npy file (NumPy's format description, versions 1 to 3).
struct NpyHeader {
  char kind = 0;  // 'i' or 'u'
  size_t width = 0;
  std::vector<uint64_t> shape;
};

[[noreturn]] void bad_npy(const std::string& what) {
  throw input_error("is no .npy file this can read: " + what);
}

// The text behind 'key': in the header's dictionary.
std::string_view npy_value(std::string_view header, std::string_view key) {
  size_t at = header.find("'" + std::string(key) + "'");
  size_t colon = at == std::string_view::npos ? at : header.find(':', at);
  if (colon == std::string_view::npos) bad_npy("no '" + std::string(key) + "' in its header");
  std::string_view rest = header.substr(colon + 1);
  return rest.substr(std::min(rest.find_first_not_of(' '), rest.size()));
}

NpyHeader read_npy_header(ByteSource& source) {
  char start[12] = {};
  if (source.read(std::span(start, 8)) != 8 || std::memcmp(start, "\x93NUMPY", 6) != 0) {
    bad_npy("it begins otherwise");
  }
  size_t version = static_cast<unsigned char>(start[6]);
  size_t wide = version == 1 ? 2 : 4;
  if (version < 1 || version > 3 || source.read(std::span(start + 8, wide)) != wide) {
    bad_npy("format version " + std::to_string(version));
  }
  size_t length = 0;
  for (size_t i = 0; i < wide; ++i) {
    length |= static_cast<size_t>(static_cast<unsigned char>(start[8 + i])) << 8 * i;
  }
  if (length > 65536) bad_npy("a header of " + std::to_string(length) + " bytes");
  std::string header(length, '\0');
  if (source.read(header) != length) bad_npy("it ends in its header");

  NpyHeader out;
  std::string_view type = npy_value(header, "descr");
  for (std::string_view known : {"'<i4'", "'<i8'", "'<u2'", "'<u4'"}) {
    if (type.starts_with(known)) {
      out.kind = known[2];
      out.width = static_cast<size_t>(known[3] - '0');
    }
  }
  if (out.width == 0) {
    bad_npy("elements of type " + printable(type.substr(0, type.find(','))) +
            " (expected int32, int64, uint16 or uint32, little-endian)");
  }
  std::string_view shape = npy_value(header, "shape");
  if (!shape.starts_with('(')) bad_npy("no shape");
  const char* p = shape.data() + 1;
  const char* end = shape.data() + shape.size();
  while (p != end && *p != ')') {
    uint64_t n = 0;
    auto [next, error] = std::from_chars(p, end, n);
    if (error != std::errc()) bad_npy("no shape");
    out.shape.push_back(n);
    for (p = next; p != end && (*p == ',' || *p == ' ');) ++p;
  }
  if (out.shape.empty() || out.shape.size() > 2) {
    bad_npy(std::to_string(out.shape.size()) + " dimensions (expected 1 or 2)");
  }
  if (out.shape.size() == 2 && !npy_value(header, "fortran_order").starts_with("False")) {
    bad_npy("columns before rows (fortran_order)");
  }
  return out;
}

int64_t element(const char* bytes, const NpyHeader& type) {
  uint64_t v = 0;
  for (size_t i = 0; i < type.width; ++i) {
    v |= uint64_t{static_cast<unsigned char>(bytes[i])} << 8 * i;
  }
  if (type.kind == 'i' && type.width == 4) return static_cast<int32_t>(static_cast<uint32_t>(v));
  return static_cast<int64_t>(v);
}

void read_npy(ByteSource& source, const IdChecker& check, const WindowOptions& options,
              WindowChooser& chooser) {
  NpyHeader header = read_npy_header(source);
  bool rows = header.shape.size() == 2 && !options.packed;
  uint64_t row = header.shape.back();
  std::optional<uint64_t> total =
      checked_mul(header.shape[0], header.shape.size() == 2 ? row : uint64_t{1});
  if (!total || (rows && row > kMaxRow)) bad_npy("an impossible shape");
  std::vector<char> bytes;
  std::vector<int32_t> ids;
  for (uint64_t done = 0; done < *total && !chooser.full();) {
    uint64_t n = rows ? row : std::min<uint64_t>(*total - done, kChunk);
    ids.clear();
    for (uint64_t have = 0; have < n;) {
      uint64_t part = std::min<uint64_t>(n - have, kChunk);
      bytes.resize(part * header.width);
      if (source.read(bytes) != bytes.size()) {
        throw input_error("ends early (expected " + std::to_string(*total) + " ids)");
      }
      for (uint64_t i = 0; i < part; ++i) {
        ids.push_back(check(element(bytes.data() + i * header.width, header),
                            " at position " + std::to_string(done + have + i)));
      }
      have += part;
    }
    rows ? chooser.row(ids) : chooser.stream(ids);
    done += n;
  }
}

void read_raw(ByteSource& source, const IdChecker& check, WindowChooser& chooser) {
  const NpyHeader type{'i', 4, {}};
  std::vector<char> bytes(kChunk * 4);
  std::vector<int32_t> ids;
  uint64_t done = 0;
  while (!chooser.full()) {
    size_t n = source.read(bytes);
    if (n % 4 != 0) {
      throw input_error("is no list of int32 (its length is not a multiple of 4)")
          .hint("give .npy or .jsonl for other types");
    }
    if (n == 0) return;
    ids.clear();
    for (size_t i = 0; i < n / 4; ++i, ++done) {
      ids.push_back(
          check(element(bytes.data() + 4 * i, type), " at position " + std::to_string(done)));
    }
    chooser.stream(ids);
  }
}

void read_json(const std::string& path, const IdChecker& check, const WindowOptions& options,
               WindowChooser& chooser) {
  JsonValues values(path);
  std::string text;
  std::vector<int32_t> ids;
  while (!chooser.full() && values.next(text)) {
    Json value = parse_json(text, values.place());
    const Json* list = &value;
    if (value.is_object() && value.contains("input_ids")) list = &value["input_ids"];
    if (!list->is_array()) {
      throw input_error("has no array of ids and no \"input_ids\"").file(values.place());
    }
    ids.clear();
    IdChecker here = check;
    here.file = values.place();
    for (const Json& id : *list) {
      if (!id.is_number_integer() || (id.is_number_unsigned() && id.get<uint64_t>() > INT64_MAX)) {
        throw input_error("has an id that is no integer").file(values.place());
      }
      ids.push_back(here(id.get<int64_t>(), ""));
    }
    options.packed ? chooser.stream(ids) : chooser.row(ids);
  }
}
}  // namespace

Windows token_windows(const std::string& path, int32_t vocab_size, const WindowOptions& options) {
  WindowChooser chooser(options);
  IdChecker check{path == "-" ? "standard input" : path, vocab_size};
  std::string extension = content_extension(path);
  try {
    if (extension == "jsonl" || extension == "ndjson" || extension == "json") {
      read_json(path, check, options, chooser);
    } else {
      ByteSource source(path);
      if (extension == "npy") {
        read_npy(source, check, options, chooser);
      } else {
        read_raw(source, check, chooser);
      }
    }
    return chooser.finish();
  } catch (Error& e) {
    throw std::move(e).file(check.file);
  }
}

}  // namespace qp
