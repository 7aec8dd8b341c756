// Archives by hand, field by field as PKWARE's APPNOTE lays them out.
#include "formats/container/zip.h"

#include "tests/unit/formats/torch_fixture.h"

namespace qp {
namespace {

void put(std::string& out, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out += static_cast<char>(value >> (8 * i));
}

// One entry; what differs between the two headers of a bad archive can be set apart.
struct Item {
  std::string name, data;
  uint16_t method = 0, flags = 0, disk = 0;
  std::string local_name = {};           // "" = name
  int64_t size = -1, local_size = -1;    // -1 = that of data
  int64_t packed_size = -1;              // -1 = size
  int64_t header = -1;                   // -1 = where it is
  std::string local_extra = {}, extra = {};
};

struct Archive {
  std::vector<Item> items;
  int64_t count = -1, directory_at = -1, directory_size = -1;
  uint16_t disk = 0;
  std::string comment = {}, directory_tail = {};

  std::string bytes() const {
    std::string out, directory;
    for (const Item& item : items) {
      const auto at = item.header >= 0 ? static_cast<uint64_t>(item.header) : out.size();
      const auto size = item.size >= 0 ? static_cast<uint64_t>(item.size) : item.data.size();
      const std::string& local = item.local_name.empty() ? item.name : item.local_name;
      const auto local_size = item.local_size >= 0 ? static_cast<uint64_t>(item.local_size) : size;
      put(out, 0x04034b50, 4), put(out, 20, 2), put(out, item.flags, 2), put(out, item.method, 2);
      put(out, 0, 8), put(out, local_size, 4), put(out, local_size, 4);
      put(out, local.size(), 2), put(out, item.local_extra.size(), 2);
      out += local + item.local_extra + item.data;
      put(directory, 0x02014b50, 4), put(directory, 20, 2), put(directory, 20, 2);
      put(directory, item.flags, 2), put(directory, item.method, 2), put(directory, 0, 8);
      put(directory, item.packed_size >= 0 ? static_cast<uint64_t>(item.packed_size) : size, 4);
      put(directory, size, 4), put(directory, item.name.size(), 2);
      put(directory, item.extra.size(), 2), put(directory, 0, 2), put(directory, item.disk, 2);
      put(directory, 0, 6), put(directory, at, 4);
      directory += item.name + item.extra;
    }
    directory += directory_tail;
    const uint64_t at = out.size();
    const uint64_t n = count >= 0 ? static_cast<uint64_t>(count) : items.size();
    out += directory;
    put(out, 0x06054b50, 4), put(out, disk, 2), put(out, disk, 2), put(out, n, 2), put(out, n, 2);
    put(out, directory_size >= 0 ? static_cast<uint64_t>(directory_size) : directory.size(), 4);
    put(out, directory_at >= 0 ? static_cast<uint64_t>(directory_at) : at, 4);
    put(out, comment.size(), 2);
    return out + comment;
  }
};

std::string failure(const std::string& bytes) {
  return error_of([&] { read_zip(as_bytes(bytes)); });
}
void expect_failure(const std::string& bytes, const std::string& part) {
  const std::string message = failure(bytes);
  EXPECT_NE(message.find(part), std::string::npos) << message;
}
void expect_failure(const Item& item, const std::string& part) {
  expect_failure(Archive{{item}}.bytes(), part);
}

TEST(TorchZipTest, FindsEntriesByName) {
  const std::string bytes = Archive{{{"a/x", "hello"}, {"a/y", ""}, {"a/z", "!"}}}.bytes();
  ASSERT_TRUE(is_zip(as_bytes(bytes)));
  const ZipArchive archive = read_zip(as_bytes(bytes));
  ASSERT_EQ(archive.entries.size(), 3u);
  const ZipEntry* x = archive.find("a/x");
  ASSERT_NE(x, nullptr);
  EXPECT_EQ(bytes.substr(x->offset, x->size), "hello");
  EXPECT_EQ(archive.find("a/y")->size, 0u);
  EXPECT_EQ(bytes[archive.find("a/z")->offset], '!');
  EXPECT_EQ(archive.find("a"), nullptr);
}

// PyTorch pads with a local extra field that the directory does not have, and leaves the local
// sizes to a descriptor behind the data.
TEST(TorchZipTest, LocalExtraFieldMovesTheData) {
  Item item{"a", "data"};
  item.local_extra = std::string("FB\x03\0ZZZ", 7);
  item.flags = 1 << 3;
  item.local_size = 0;
  const std::string bytes = Archive{{item}}.bytes();
  const ZipArchive archive = read_zip(as_bytes(bytes));
  EXPECT_EQ(archive.entries.at(0).offset, 30u + 1 + 7);
  item.flags = 0;
  expect_failure(item, "disagree");
}

TEST(TorchZipTest, CommentMustEndTheFile) {
  Archive archive{{{"a", "data"}}};
  archive.comment = "PK\x05\x06 is no record here";
  EXPECT_EQ(failure(archive.bytes()), "");
  expect_failure(archive.bytes() + "x", "no end of central directory");
  expect_failure("PK\x05\x06", "no end of central directory");
  EXPECT_EQ(failure(Archive{}.bytes()), "");
}

TEST(TorchZipTest, Zip64FieldOfAnEntry) {
  Item item{"a", "data"};
  item.size = 0xffffffff;
  item.local_size = 4;
  put(item.extra, 1, 2), put(item.extra, 16, 2), put(item.extra, 4, 8), put(item.extra, 4, 8);
  const std::string bytes = Archive{{item}}.bytes();
  EXPECT_EQ(read_zip(as_bytes(bytes)).entries.at(0).size, 4u);
  Item huge = item;
  huge.extra.clear();
  put(huge.extra, 1, 2), put(huge.extra, 16, 2);
  put(huge.extra, ~0ull, 8), put(huge.extra, ~0ull, 8);
  expect_failure(huge, "outside the file");
  item.extra.resize(12);
  item.extra[2] = 8;  // only one of the two sizes
  expect_failure(item, "short zip64 field");
  item.extra[2] = 9;
  expect_failure(item, "bad extra field");
}

TEST(TorchZipTest, EntriesThatAreNotSupported) {
  Item item{"a", "data"};
  item.method = 8;
  expect_failure(item, "entry 'a' is compressed (method 8, expected 0, stored)");
  item = {"a", "data"};
  item.flags = 1;
  expect_failure(item, "encrypted");
  item = {"a", "data"};
  item.disk = 1;
  expect_failure(item, "several parts");
  Archive archive{{{"a", "data"}}};
  archive.disk = 1;
  expect_failure(archive.bytes(), "several parts");
}

TEST(TorchZipTest, HeadersThatDisagree) {
  Item item{"a", "data"};
  item.local_name = "b";
  expect_failure(item, "disagree");
  item = {"a", "data"};
  item.local_size = 3;
  expect_failure(item, "disagree");
  item = {"a", "data"};
  item.packed_size = 3;
  expect_failure(item, "sizes differ");
  expect_failure(Archive{{{"a", "1"}, {"a", "2"}}}.bytes(), "occurs twice");
}

TEST(TorchZipTest, EntriesOutsideTheFile) {
  Item item{"a", "data"};
  item.header = 5;
  expect_failure(item, "no local header");
  item.header = 0xfffffff0;
  expect_failure(item, "outside the file");
  item = {"a", "data"};
  item.size = 5;  // reaches into the central directory
  expect_failure(item, "outside the file");
  item.size = 0x7fffffff;
  expect_failure(item, "outside the file");
}

TEST(TorchZipTest, EntriesThatOverlap) {
  // The first entry's data is a whole local header, which the second record points at.
  const std::string inner = Archive{{{"b", "data"}}}.bytes().substr(0, 35);
  Item hidden{"b", "data"};
  hidden.header = 31;
  expect_failure(Archive{{{"a", inner}, hidden}}.bytes(), "entry 'a' and entry 'b' overlap");
}

TEST(TorchZipTest, DirectoryOutsideTheFile) {
  Archive archive{{{"a", "data"}}};
  archive.directory_at = 0x7fffffff;
  expect_failure(archive.bytes(), "does not fit");
  archive = {{{"a", "data"}}};
  archive.directory_size = 0x7fffffff;
  expect_failure(archive.bytes(), "does not fit");
  archive = {{{"a", "data"}}};
  archive.count = 2;
  expect_failure(archive.bytes(), "2 entries do not fit");
  archive.count = 0;
  expect_failure(archive.bytes(), "bytes after the last record");
  archive = {{{"a", "data"}}};
  archive.directory_at = 0;
  expect_failure(archive.bytes(), "no central directory record");
}

TEST(TorchZipTest, Zip64EndRecord) {
  const std::string good = torch_fixture("zip64.pt");
  EXPECT_EQ(failure(good), "");
  std::string base = good;
  const auto set = [&](size_t from_end, uint64_t value, int bytes) {
    std::string changed = base, field;
    put(field, value, bytes);
    changed.replace(changed.size() - from_end, field.size(), field);
    return changed;
  };
  // From the end: end record 22, locator 20, zip64 end record 56 bytes.
  expect_failure(set(42 - 8, ~0ull, 8), "zip64 end record outside the file");
  expect_failure(set(42 - 8, 0, 8), "no zip64 end record");
  expect_failure(set(98 - 24, 1u << 30, 8), "several parts");  // one count of two
  expect_failure(set(22 - 12, 1, 4), "disagree");
  base = set(22 - 16, 0xffffffff, 4);  // the offset is in the zip64 record only
  EXPECT_EQ(failure(base), "");
  expect_failure(set(98 - 48, ~0ull, 8), "does not fit");
}

}  // namespace
}  // namespace qp
