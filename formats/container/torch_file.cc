#include "formats/container/torch_file.h"

#include <array>
#include <bit>
#include <cstring>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "formats/container/pickle.h"
#include "formats/container/torch_tensor.h"
#include "formats/container/zip.h"
#include "lib/base/checked.h"
#include "lib/base/error.h"

namespace qp {
namespace {

static_assert(std::endian::native == std::endian::little, "torch files are read in host order");

using Bytes = std::span<const std::byte>;

constexpr size_t kMaxDepth = 32;                    // of dicts in dicts
constexpr size_t kMaxEntries = size_t{1} << 20;     // shared dicts count each time
constexpr size_t kMaxNameBytes = size_t{64} << 20;  // of all entries together
constexpr std::string_view kFetchAgain = "the file is cut short or was changed; fetch it again";

// --- the state dict ---

bool is_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<uint8_t>(text[i++]);
    const int more = lead < 0x80   ? 0
                     : lead < 0xc2 ? -1
                     : lead < 0xe0 ? 1
                     : lead < 0xf0 ? 2
                     : lead < 0xf5 ? 3
                                   : -1;
    if (more < 0 || text.size() - i < static_cast<size_t>(more)) return false;
    for (int k = 0; k < more; ++k, ++i) {
      const auto next = static_cast<uint8_t>(text[i]);
      // The second byte excludes overlong forms, surrogates and what lies beyond U+10FFFF.
      const uint8_t low = k > 0 ? 0x80 : lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
      const uint8_t high = k > 0 ? 0xbf : lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
      if (next < low || next > high) return false;
    }
  }
  return true;
}

class Flattener {
 public:
  Flattener(const Pickle& pickle, const TorchStorages& storages)
      : pickle_(pickle), storages_(storages) {}

  TorchFile run() {
    const PickleValue& root = pickle_[pickle_.root];
    if (root.kind != PickleKind::dict) {
      throw input_error("the object in it is of type " + std::string(pickle_kind_name(root.kind)) +
                        " (expected a dict of tensors)")
          .hint(kTorchSaveStateDict);
    }
    const PickleValue* inner = find_state_dict(root);
    if (inner == nullptr) {
      add_dict(root, "", 0);
    } else {
      for (size_t i = 0; i < root.items.size(); i += 2) {
        const PickleRef ref = root.items[i + 1];
        if (&pickle_[ref] == inner) continue;
        skip(join("", pickle_[root.items[i]]));
        if (is_torch_tensor(pickle_, ref)) out_.beside.push_back(out_.skipped.back());
      }
      add_dict(*inner, "", 0);
    }
    return std::move(out_);
  }

 private:
  // The dict under a usual key of a training checkpoint; null when the root is the state dict.
  const PickleValue* find_state_dict(const PickleValue& root) const {
    for (std::string_view wanted : {"state_dict", "model", "module"}) {
      const PickleValue* found = nullptr;
      for (size_t i = 0; i < root.items.size(); i += 2) {
        const PickleValue& key = pickle_[root.items[i]];
        const PickleValue& value = pickle_[root.items[i + 1]];
        if (key.kind == PickleKind::string && key.text == wanted &&
            value.kind == PickleKind::dict) {
          if (found) throw input_error("key '" + std::string(wanted) + "' occurs twice");
          found = &value;
        }
      }
      if (found) return found;
    }
    return nullptr;
  }

  std::string join(const std::string& prefix, const PickleValue& key) {
    std::string last;
    if (key.kind == PickleKind::string) {
      last = key.text.substr(0, kMaxNameBytes);
    } else if (key.kind == PickleKind::integer) {
      last = std::to_string(key.integer);
    } else {
      last.append("(").append(pickle_kind_name(key.kind)).append(")");
    }
    std::string name = prefix.empty() ? std::move(last) : prefix + "." + last;
    if (++entries_ > kMaxEntries || name.size() > kMaxNameBytes - name_bytes_) {
      throw limit_error("too many entries or too long names");
    }
    name_bytes_ += name.size();
    return name;
  }

  void skip(std::string name) { out_.skipped.push_back(std::move(name)); }

  void add_dict(const PickleValue& dict, const std::string& prefix, size_t depth) {
    if (depth == kMaxDepth) throw limit_error("dicts are nested too deeply");
    for (size_t i = 0; i + 1 < dict.items.size(); i += 2) {
      const PickleRef ref = dict.items[i + 1];
      const PickleValue& value = pickle_[ref];
      std::string name = join(prefix, pickle_[dict.items[i]]);
      if (value.kind == PickleKind::dict) {
        add_dict(value, name, depth + 1);
      } else if (is_torch_tensor(pickle_, ref)) {
        add_tensor(std::move(name), ref);
      } else {
        skip(std::move(name));
      }
    }
  }

  void add_tensor(std::string name, PickleRef ref) {
    try {
      if (!is_utf8(name)) throw input_error("name is not UTF-8");
      if (!names_.insert(name).second) throw input_error("name occurs twice");
      out_.tensors.push_back(rebuild_torch_tensor(pickle_, storages_, ref));
      out_.tensors.back().name = name;
    } catch (Error& error) {
      error.tensor(name);
      throw;
    }
  }

  const Pickle& pickle_;
  const TorchStorages& storages_;
  TorchFile out_{};
  std::unordered_set<std::string> names_;
  size_t entries_ = 0, name_bytes_ = 0;
};

// --- the zip form ---

void check_byte_order(std::string_view order) {
  while (order.ends_with('\n')) order.remove_suffix(1);
  if (order == "big") {
    throw input_error("byte order is big-endian, which is not supported")
        .hint("load and save it on a little-endian machine");
  }
  if (order != "little") throw input_error("byte order is neither 'little' nor 'big'");
}

TorchFile parse_zip(Bytes bytes) {
  const ZipArchive archive = read_zip(bytes);
  // Every entry lies in one folder, whose name is free.
  const std::string_view first = archive.entries.empty() ? "" : archive.entries[0].name;
  const std::string folder(first.substr(0, first.find('/') + 1));
  if (archive.find(folder + "constants.pkl") != nullptr) {
    throw input_error("is a TorchScript program, not a checkpoint").hint(kTorchSaveStateDict);
  }
  const ZipEntry* pickled = archive.find(folder + "data.pkl");
  if (pickled == nullptr) {
    throw input_error("zip archive is not a PyTorch checkpoint (it has no data.pkl)");
  }
  if (const ZipEntry* order = archive.find(folder + "byteorder")) {
    check_byte_order({reinterpret_cast<const char*>(bytes.data()) + order->offset,
                      static_cast<size_t>(order->size)});
  }
  const Pickle pickle =
      read_pickle(bytes.subspan(pickled->offset, pickled->size), allow_torch_global);
  if (pickle.bytes != pickled->size) throw input_error("bytes follow the pickle in data.pkl");
  TorchStorages storages;
  const std::string data = folder + "data/";
  for (const ZipEntry& entry : archive.entries) {
    if (entry.name.starts_with(data)) {
      storages.emplace(entry.name.substr(data.size()), TorchRange{entry.offset, entry.size});
    }
  }
  return Flattener(pickle, storages).run();
}

// --- the stream form: five pickles, then the storages' bytes ---

// The pickle of the number 0x1950a86a20f9469cfc6c, in protocol 2.
constexpr std::array<uint8_t, 15> kStreamMagic = {0x80, 2,    0x8a, 10,   0x6c, 0xfc, 0x9c, 0x46,
                                                  0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, 0x2e};
constexpr int64_t kStreamVersion = 1001;

bool is_stream(Bytes bytes) {
  return bytes.size() >= kStreamMagic.size() &&
         std::memcmp(bytes.data(), kStreamMagic.data(), kStreamMagic.size()) == 0;
}

Pickle next_pickle(Bytes bytes, uint64_t& at) {
  Pickle pickle = read_pickle(bytes.subspan(at), allow_torch_global);
  at += pickle.bytes;
  return pickle;
}

void check_system(const Pickle& pickle) {
  const PickleValue& dict = pickle[pickle.root];
  if (dict.kind != PickleKind::dict) throw input_error("stream header is malformed");
  for (size_t i = 0; i < dict.items.size(); i += 2) {
    const PickleValue& value = pickle[dict.items[i + 1]];
    if (pickle[dict.items[i]].text == "little_endian" &&
        (value.kind != PickleKind::boolean || value.integer == 0)) {
      check_byte_order("big");
    }
  }
}

// The keys' list gives the order; each storage is an i64 count of elements, then the elements.
// The element's size is only known from the references to it.
TorchStorages read_stream_storages(Bytes bytes, uint64_t at, const Pickle& object,
                                   const Pickle& keys) {
  std::unordered_map<std::string_view, TorchStorageId> ids;
  for (const PickleValue& value : object.values) {
    if (value.kind != PickleKind::persistent) continue;
    const TorchStorageId id = read_torch_storage_id(object, value);
    ids.emplace(id.key, id);
  }
  if (keys[keys.root].kind != PickleKind::list) throw input_error("list of storages is malformed");
  TorchStorages storages;
  for (PickleRef ref : keys[keys.root].items) {
    const auto id = ids.find(keys[ref].text);
    if (keys[ref].kind != PickleKind::string || id == ids.end()) {
      throw input_error("storage '" + printable(keys[ref].text) + "' belongs to no tensor");
    }
    if (bytes.size() - at < 8) throw input_error("storages are cut short").hint(kFetchAgain);
    uint64_t count;
    std::memcpy(&count, bytes.data() + at, sizeof count);
    at += 8;
    const auto size = checked_mul(count, id->second.element_bytes());
    if (!size || *size > bytes.size() - at) {
      throw input_error("storages are cut short").hint(kFetchAgain);
    }
    if (!storages.emplace(id->first, TorchRange{at, *size}).second) {
      throw input_error("storage '" + printable(id->first) + "' occurs twice");
    }
    at += *size;
  }
  if (at != bytes.size()) {
    throw input_error(std::to_string(bytes.size() - at) + " bytes follow the last storage");
  }
  return storages;
}

TorchFile parse_stream(Bytes bytes) {
  uint64_t at = kStreamMagic.size();
  const Pickle version = next_pickle(bytes, at);
  if (version[version.root].kind != PickleKind::integer ||
      version[version.root].integer != kStreamVersion) {
    throw input_error("stream version is not supported (expected 1001)");
  }
  check_system(next_pickle(bytes, at));
  const Pickle object = next_pickle(bytes, at);
  const Pickle keys = next_pickle(bytes, at);
  const TorchStorages storages = read_stream_storages(bytes, at, object, keys);
  return Flattener(object, storages).run();
}

bool is_tar(Bytes bytes) {
  return bytes.size() >= 262 && std::memcmp(bytes.data() + 257, "ustar", 5) == 0;
}

TorchFile parse(Bytes bytes) {
  if (is_zip(bytes)) return parse_zip(bytes);
  if (is_stream(bytes)) return parse_stream(bytes);
  if (is_tar(bytes)) {
    throw input_error("is in the tar form of PyTorch before 0.2, which is not supported")
        .hint("load it in PyTorch and save it again with torch.save");
  }
  if (bytes.size() >= 2 && bytes[0] == std::byte{0x80} && bytes[1] != std::byte{2}) {
    throw input_error("pickle protocol " + std::to_string(std::to_integer<int>(bytes[1])) +
                      " is not supported (expected 2)")
        .hint("load it in PyTorch and save it again with torch.save(..., pickle_protocol=2)");
  }
  throw input_error("is not a PyTorch checkpoint (neither a zip archive nor a torch stream)");
}

}  // namespace

TorchFile parse_torch_file(std::span<const std::byte> bytes, std::string_view path) {
  try {
    return parse(bytes);
  } catch (Error& error) {
    error.file(path);
    throw;
  }
}

}  // namespace qp
