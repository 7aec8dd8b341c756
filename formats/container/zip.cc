#include "formats/container/zip.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <string>

#include "lib/base/checked.h"
#include "lib/base/error.h"

namespace qp {
namespace {

static_assert(std::endian::native == std::endian::little, "zip fields are read in host order");

constexpr uint32_t kLocalSignature = 0x04034b50;
constexpr uint32_t kCentralSignature = 0x02014b50;
constexpr uint32_t kEndSignature = 0x06054b50;
constexpr uint32_t kEnd64Signature = 0x06064b50;
constexpr uint32_t kLocator64Signature = 0x07064b50;
constexpr uint64_t kLocalBytes = 30, kCentralBytes = 46, kEndBytes = 22;
constexpr uint64_t kEnd64Bytes = 56, kLocator64Bytes = 20;
constexpr uint64_t kMaxComment = 0xffff;
constexpr uint16_t kZip64Extra = 1;
constexpr uint16_t kFlagEncrypted = 1 << 0, kFlagDescriptor = 1 << 3;

using Bytes = std::span<const std::byte>;

// The caller has checked that the field lies inside `bytes`.
template <class T>
T field(Bytes bytes, uint64_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

std::string_view text(Bytes bytes, uint64_t at, uint64_t length) {
  return {reinterpret_cast<const char*>(bytes.data()) + at, static_cast<size_t>(length)};
}

bool fits(uint64_t at, uint64_t length, uint64_t limit) {
  return at <= limit && length <= limit - at;
}

Error damaged(std::string what) {
  return input_error("damaged zip archive: " + std::move(what))
      .hint("the file is cut short or was changed; fetch it again");
}

struct Directory {
  uint64_t offset, size, entries;
  uint64_t limit;  // where the end records start: the directory lies before it
};

// The record whose comment ends exactly at the end of the file; the last one, if there are several.
uint64_t find_end_record(Bytes bytes) {
  const uint64_t size = bytes.size();
  if (size >= kEndBytes) {
    const uint64_t last = size - kEndBytes;
    const uint64_t first = last > kMaxComment ? last - kMaxComment : 0;
    for (uint64_t at = last + 1; at-- > first;) {
      if (field<uint32_t>(bytes, at) == kEndSignature &&
          at + kEndBytes + field<uint16_t>(bytes, at + 20) == size) {
        return at;
      }
    }
  }
  throw damaged("no end of central directory at the end of the file");
}

// A field of the short record either says "see zip64" (all ones) or repeats the zip64 value.
void check_same(uint64_t value, uint64_t all_ones, uint64_t value64) {
  if (value != all_ones && value != value64) {
    throw damaged("end record and zip64 end record disagree (" + std::to_string(value) + " and " +
                  std::to_string(value64) + ")");
  }
}

void read_end64(Bytes bytes, uint64_t locator_at, Directory& dir) {
  const auto at = field<uint64_t>(bytes, locator_at + 8);
  if (!fits(at, kEnd64Bytes, locator_at)) throw damaged("zip64 end record outside the file");
  if (field<uint32_t>(bytes, at) != kEnd64Signature) throw damaged("no zip64 end record");
  const auto on_this_disk = field<uint64_t>(bytes, at + 24);
  const auto entries = field<uint64_t>(bytes, at + 32);
  const auto size = field<uint64_t>(bytes, at + 40);
  const auto offset = field<uint64_t>(bytes, at + 48);
  if (field<uint32_t>(bytes, at + 16) != 0 || field<uint32_t>(bytes, at + 20) != 0 ||
      on_this_disk != entries) {
    throw input_error("zip archive of several parts is not supported");
  }
  check_same(dir.entries, 0xffff, entries);
  check_same(dir.size, 0xffffffff, size);
  check_same(dir.offset, 0xffffffff, offset);
  dir = {offset, size, entries, at};
}

Directory read_end(Bytes bytes) {
  const uint64_t end = find_end_record(bytes);
  const auto disk = field<uint16_t>(bytes, end + 4), start = field<uint16_t>(bytes, end + 6);
  const auto on_this_disk = field<uint16_t>(bytes, end + 8);
  Directory dir{field<uint32_t>(bytes, end + 16), field<uint32_t>(bytes, end + 12),
                field<uint16_t>(bytes, end + 10), end};
  // 0xffff in the disk fields: the writer left the number to the zip64 record.
  const auto first_disk = [](uint16_t n) { return n == 0 || n == 0xffff; };
  if (!first_disk(disk) || !first_disk(start) || on_this_disk != dir.entries) {
    throw input_error("zip archive of several parts is not supported");
  }
  if (end >= kLocator64Bytes &&
      field<uint32_t>(bytes, end - kLocator64Bytes) == kLocator64Signature) {
    read_end64(bytes, end - kLocator64Bytes, dir);
  }
  if (!fits(dir.offset, dir.size, dir.limit)) {
    throw damaged("central directory of " + std::to_string(dir.size) + " bytes at " +
                  std::to_string(dir.offset) + " does not fit before the end record");
  }
  if (dir.entries > dir.size / kCentralBytes) {
    throw damaged(std::to_string(dir.entries) + " entries do not fit a central directory of " +
                  std::to_string(dir.size) + " bytes");
  }
  return dir;
}

std::string quoted(std::string_view name) { return "entry '" + printable(name) + "'"; }

struct Central {
  ZipEntry entry;
  uint64_t packed_size;
  uint64_t header;  // offset of the local header
  uint16_t method;
};

// Replaces the all-ones fields of `c` by those of the zip64 extra field, which holds only them.
void apply_zip64_extra(Bytes extra, Central& c) {
  uint64_t at = 0;
  while (at < extra.size()) {
    if (!fits(at, 4, extra.size())) throw damaged(quoted(c.entry.name) + ": bad extra field");
    const auto id = field<uint16_t>(extra, at), length = field<uint16_t>(extra, at + 2);
    at += 4;
    if (!fits(at, length, extra.size())) {
      throw damaged(quoted(c.entry.name) + ": bad extra field");
    }
    Bytes body = extra.subspan(at, length);
    at += length;
    if (id != kZip64Extra) continue;
    uint64_t next = 0;
    for (uint64_t* value : {&c.entry.size, &c.packed_size, &c.header}) {
      if (*value != 0xffffffff) continue;
      if (!fits(next, 8, body.size())) throw damaged(quoted(c.entry.name) + ": short zip64 field");
      *value = field<uint64_t>(body, next);
      next += 8;
    }
    return;
  }
}

// Reads the record at `at` of the directory `dir` and moves `at` past it.
Central read_central(Bytes dir, uint64_t& at) {
  if (!fits(at, kCentralBytes, dir.size()) || field<uint32_t>(dir, at) != kCentralSignature) {
    throw damaged("no central directory record at byte " + std::to_string(at) +
                  " of the directory");
  }
  const auto flags = field<uint16_t>(dir, at + 8);
  const auto name_length = field<uint16_t>(dir, at + 28);
  const auto extra_length = field<uint16_t>(dir, at + 30);
  const auto comment_length = field<uint16_t>(dir, at + 32);
  const auto disk = field<uint16_t>(dir, at + 34);
  Central c{{{}, 0, field<uint32_t>(dir, at + 24)},
            field<uint32_t>(dir, at + 20),
            field<uint32_t>(dir, at + 42),
            field<uint16_t>(dir, at + 10)};
  at += kCentralBytes;
  const uint64_t tail = uint64_t{name_length} + extra_length + comment_length;
  if (!fits(at, tail, dir.size())) throw damaged("central directory is cut short");
  c.entry.name = text(dir, at, name_length);
  apply_zip64_extra(dir.subspan(at + name_length, extra_length), c);
  at += tail;
  if (disk != 0 && disk != 0xffff) {
    throw input_error("zip archive of several parts is not supported");
  }
  if (flags & kFlagEncrypted) throw input_error(quoted(c.entry.name) + " is encrypted");
  if (c.method != 0) {
    throw input_error(quoted(c.entry.name) + " is compressed (method " + std::to_string(c.method) +
                      ", expected 0, stored)")
        .hint("load it in PyTorch and save it again with torch.save");
  }
  if (c.packed_size != c.entry.size) {
    throw damaged(quoted(c.entry.name) + " is stored, yet its two sizes differ (" +
                  std::to_string(c.packed_size) + " and " + std::to_string(c.entry.size) + ")");
  }
  return c;
}

// The local header repeats the directory's record; a reader that trusts the other copy would see
// another file, so that a difference is an error. Sets the offset of the data.
void read_local(Bytes bytes, uint64_t limit, Central& c) {
  const std::string who = quoted(c.entry.name);
  if (!fits(c.header, kLocalBytes, limit)) throw damaged(who + " lies outside the file");
  if (field<uint32_t>(bytes, c.header) != kLocalSignature) throw damaged(who + ": no local header");
  const auto flags = field<uint16_t>(bytes, c.header + 6);
  const auto method = field<uint16_t>(bytes, c.header + 8);
  const auto name_length = field<uint16_t>(bytes, c.header + 26);
  const auto extra_length = field<uint16_t>(bytes, c.header + 28);
  const uint64_t data = c.header + kLocalBytes + name_length + extra_length;
  if (!fits(data, c.entry.size, limit)) throw damaged(who + " lies outside the file");
  const auto size_agrees = [&](uint64_t size) {
    return size == c.entry.size || size == 0xffffffff || (size == 0 && (flags & kFlagDescriptor));
  };
  if (method != c.method || text(bytes, c.header + kLocalBytes, name_length) != c.entry.name ||
      !size_agrees(field<uint32_t>(bytes, c.header + 18)) ||
      !size_agrees(field<uint32_t>(bytes, c.header + 22))) {
    throw damaged(who + ": local header and central directory disagree");
  }
  c.entry.offset = data;
}

void check_apart(std::vector<Central> all) {
  std::ranges::sort(all, {}, &Central::header);
  for (size_t i = 1; i < all.size(); ++i) {
    if (all[i - 1].entry.offset + all[i - 1].entry.size > all[i].header) {
      throw damaged(quoted(all[i - 1].entry.name) + " and " + quoted(all[i].entry.name) +
                    " overlap");
    }
  }
}

}  // namespace

const ZipEntry* ZipArchive::find(std::string_view name) const {
  auto it = index.find(name);
  return it == index.end() ? nullptr : &entries[it->second];
}

bool is_zip(std::span<const std::byte> bytes) {
  if (bytes.size() < 4) return false;
  const auto signature = field<uint32_t>(bytes, 0);
  return signature == kLocalSignature || signature == kEndSignature;
}

ZipArchive read_zip(std::span<const std::byte> bytes) {
  const Directory dir = read_end(bytes);
  const Bytes records = bytes.subspan(dir.offset, dir.size);
  std::vector<Central> all;
  all.reserve(dir.entries);  // at most dir.size / 46
  uint64_t at = 0;
  for (uint64_t i = 0; i < dir.entries; ++i) {
    all.push_back(read_central(records, at));
    read_local(bytes, dir.offset, all.back());
  }
  if (at != dir.size) {
    throw damaged(std::to_string(dir.size - at) + " bytes after the last record of the directory");
  }
  ZipArchive archive;
  archive.entries.reserve(all.size());
  for (const Central& c : all) {
    if (!archive.index.emplace(c.entry.name, archive.entries.size()).second) {
      throw damaged(quoted(c.entry.name) + " occurs twice");
    }
    archive.entries.push_back(c.entry);
  }
  check_apart(std::move(all));
  return archive;
}

}  // namespace qp
