// Files that are refused: those PyTorch or Python wrote, and good files that were damaged.
#include <algorithm>

#include "formats/container/torch_file.h"
#include "tests/unit/formats/torch_fixture.h"

namespace qp {
namespace {

std::string refusal(const std::string& name) {
  return error_of([&] { parse_torch(torch_fixture("bad_" + name)); });
}

void expect_refused(const std::string& name, const std::string& part) {
  const std::string message = refusal(name);
  EXPECT_NE(message.find(part), std::string::npos) << name << ": " << message;
  EXPECT_TRUE(message.starts_with("model.bin: ")) << message;
}

TEST(TorchRefuseTest, CodeIsNamedAndNotRun) {
  for (const char* name : {"os_system.pt", "os_system_stream.pt"}) {
    expect_refused(name, "'posix.system'");
    expect_refused(name, "refuses to run code");
  }
  expect_refused("whole_module.pt", "'torch.nn.modules.linear.Identity'");
  expect_refused("whole_module.pt", "state_dict");
}

TEST(TorchRefuseTest, OtherProtocolsSayHowToSaveAgain) {
  for (const char* name : {"protocol4.pt", "protocol4_stream.pt"}) {
    expect_refused(name, "pickle protocol 4 is not supported (expected 2)");
    expect_refused(name, "pickle_protocol=2");
  }
}

TEST(TorchRefuseTest, Archives) {
  expect_refused("deflated.pt", "is compressed (method 8");
  expect_refused("big_endian.pt", "big-endian");
  expect_refused("no_pickle.pt", "no data.pkl");
  expect_refused("torchscript.pt", "TorchScript");
  expect_refused("no_storage.pt", "tensor 'w': storage '0' is not in the file");
  expect_refused("short_storage.pt", "tensor 'w': storage '0' has 12 bytes (expected 4 elements");
}

TEST(TorchRefuseTest, ObjectsThatAreNoStateDict) {
  expect_refused("list.pt", "the object in it is of type list (expected a dict of tensors)");
  expect_refused("tensor.pt", "the object in it is of type object (expected a dict of tensors)");
  expect_refused("same_name.pt", "tensor 'a.b': name occurs twice");
}

TEST(TorchRefuseTest, TensorsThatAreNotPlain) {
  expect_refused("expanded.pt", "tensor 'w': shape [1000] from element 0 on needs more");
  expect_refused("sparse.pt", "'torch._utils._rebuild_sparse_tensor'");
  expect_refused("meta.pt", "'torch._utils._rebuild_meta_tensor_no_storage'");
  expect_refused("conjugated.pt", "tensor 'w': conjugated or negated view");
  expect_refused("float4.pt", "tensor 'w': dtype float4_e2m1fn_x2");
  expect_refused("complex128.pt", "'torch.ComplexDoubleStorage'");
  expect_refused("rank7.pt", "tensor 'w': has 7 dimensions");
}

TEST(TorchRefuseTest, OtherFiles) {
  const auto message = [](const std::string& content) {
    return error_of([&] { parse_torch(content); });
  };
  EXPECT_NE(message("").find("not a PyTorch checkpoint"), std::string::npos);
  EXPECT_NE(message("{\"a\": 1}").find("not a PyTorch checkpoint"), std::string::npos);
  std::string tar(512, '\0');
  tar.replace(257, 5, "ustar");
  EXPECT_NE(message(tar).find("tar form"), std::string::npos);
}

// --- damage ---

// Replaces the only occurrence of `from`, which keeps its length, and parses.
std::string edited(const std::string& fixture, const std::string& from, const std::string& to) {
  std::string content = torch_fixture(fixture);
  const size_t at = content.find(from);
  EXPECT_EQ(from.size(), to.size());
  EXPECT_NE(at, std::string::npos);
  if (at != std::string::npos) content.replace(at, from.size(), to);
  return error_of([&] { parse_torch(content); });
}

void expect_part(const std::string& message, const std::string& part) {
  EXPECT_NE(message.find(part), std::string::npos) << message;
}

// In parameter.pt the tensor is: offset 0, size (3,), stride (1,), with memo entries between.
TEST(TorchRefuseTest, NumbersOutsideTheStorage) {
  const std::string good = torch_fixture("parameter.pt");
  const size_t at = good.find("QK");  // persistent id, then BININT1 offset
  ASSERT_NE(at, std::string::npos);
  const std::string tail = good.substr(at, 16);
  ASSERT_EQ(tail.substr(0, 6), std::string("QK\0K\x03\x85", 6));
  expect_part(edited("parameter.pt", std::string("QK\0K\x03\x85", 6), {"QK\1K\x03\x85", 6}),
              "tensor 'w': strides lead outside its storage of 3 elements");
  expect_part(edited("parameter.pt", std::string("QK\0K\x03\x85", 6), {"QK\4K\1\x85", 6}),
              "needs more than its storage");
  expect_part(edited("parameter.pt", std::string("QK\0K\x03\x85", 6), {"QK\3K\1\x85", 6}),
              "shape [1] from element 3 on needs more");
  expect_part(edited("parameter.pt", std::string("QK\0K\x03\x85", 6), {"QN\x30K\x03\x85", 6}),
              "opcode 0x30 at byte");
  expect_part(edited("parameter.pt", std::string("QK\0K\x03\x85", 6), {"QK\0K\x04\x85", 6}),
              "shape [4] from element 0 on needs more");
}

TEST(TorchRefuseTest, EntriesThatDisagree) {
  expect_part(edited("zip64.pt", "archive/data/0", "archive/data/1"), "disagree");
  expect_part(edited("rezipped.pt", "PK\x05\x06", "PK\x05\x07"), "no end of central directory");
}

// The pickle in data.pkl made one value shorter: what was its end stays behind the new one.
TEST(TorchRefuseTest, PickleEndsWithItsEntry) {
  const std::string good = torch_fixture("bad_list.pt");  // ].. (tensor) a .
  const size_t at = good.find("\x80\x02]");
  ASSERT_NE(at, std::string::npos);
  std::string content = good;
  content.replace(at + 2, 2, "}.");
  expect_part(error_of([&] { parse_torch(content); }), "bytes follow the pickle");
}

TEST(TorchRefuseTest, StreamEndsWithItsLastStorage) {
  expect_part(error_of([] { parse_torch(torch_fixture("views_stream.pt") + "x"); }),
              "1 bytes follow the last storage");
}

// --- objects by hand, in a stream with at most the storage "k" of four floats ---

std::string text(const std::string& value) {
  return "U" + std::string(1, static_cast<char>(value.size())) + value;
}
std::string stream(const std::string& object) {
  std::string out("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15);
  out += "\x80\x02M\xe9\x03." "\x80\x02}." "\x80\x02" + object + ".";
  if (object.find(text("storage")) == std::string::npos) return out + "\x80\x02].";
  out += "\x80\x02]" + text("k") + "a.";
  return out + std::string("\4\0\0\0\0\0\0\0", 8) + std::string(16, '\0');
}
const std::string kStorage = "(" + text("storage") + "ctorch\nFloatStorage\n" + text("k") +
                             text("cpu") + "K\x04tQ";
// The arguments are pickle code that leaves an int, a tuple and a tuple.
std::string tensor(const std::string& offset, const std::string& size, const std::string& stride) {
  return "ctorch._utils\n_rebuild_tensor\n(" + kStorage + offset + size + stride + "tR";
}
const std::string kZero("K\0", 2), kFour = "K\x04\x85", kOne = "K\x01\x85";
const std::string kMost = "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f";  // 2^63 - 1
std::string refused(const std::string& object) {
  return error_of([&] { parse_torch(stream(object)); });
}
std::string refused_tensor(const std::string& made) {
  return refused("}" + text("w") + made + "s");
}

TEST(TorchRefuseTest, SizesAtTheLimits) {
  EXPECT_EQ(refused_tensor(tensor(kZero, kFour, kOne)), "");
  expect_part(refused_tensor(tensor(kMost, kFour, kOne)), "tensor 'w': shape [4] from element");
  expect_part(refused_tensor(tensor(kZero, kMost + "\x85", kOne)), "needs more than its storage");
  expect_part(refused_tensor(tensor(kZero, kMost + kMost + "\x86", kOne)), "of the same length");
  expect_part(refused_tensor(tensor(kZero, kMost + kMost + "\x86", "K\x01K\x01\x86")),
              "needs more than its storage");
  expect_part(refused_tensor(tensor(kZero, kFour, kMost + "\x85")), "strides lead outside");
  expect_part(refused_tensor(tensor(kZero, "K\x02\x85", kMost + "\x85")), "strides lead outside");
  expect_part(refused_tensor(tensor("J\xff\xff\xff\xff", kFour, kOne)), "offset is not a size");
  expect_part(refused_tensor(tensor(kZero, "J\xff\xff\xff\xff\x85", kOne)),
              "dimension is not a size");
  expect_part(refused_tensor(tensor(kZero, kFour, "J\xff\xff\xff\xff\x85")),
              "stride is not a size");
  expect_part(refused_tensor(tensor(kZero, "\x88\x85", kOne)), "dimension is not a size");
}

// t.narrow() of an empty tensor moves the offset of a storage without elements; PyTorch loads it.
TEST(TorchRefuseTest, EmptyViewsMayPointAnywhere) {
  EXPECT_EQ(refused_tensor(tensor(kMost, std::string("K\0\x85", 3), kMost + "\x85")), "");
}

TEST(TorchRefuseTest, Names) {
  const std::string made = tensor(kZero, kFour, kOne);
  EXPECT_EQ(refused("}" + text("\xe2\x82\xac") + made + "s"), "");
  for (const char* bad : {"\xff", "\xc0\x80", "\xed\xa0\x80", "\xe2\x82", "\xf4\x90\x80\x80"}) {
    expect_part(refused("}" + text(bad) + made + "s"), "name is not UTF-8");
  }
  expect_part(refused("}(" + text("w") + made + text("w") + made + "u"), "name occurs twice");
  expect_part(refused("}(" + text("model") + "}" + text("model") + "}u"), "'model' occurs twice");
}

TEST(TorchRefuseTest, DictsThatGrowWithoutEnd) {
  const std::string nul(1, '\0');
  // a dict that holds itself
  expect_part(refused("}q" + std::string(1, '\1') + text("w") + "h\x01s"), "nested too deeply");
  // thirty dicts, each holding the one before it twice
  std::string object = "}q\x01";
  for (int i = 0; i < 30; ++i) {
    object = "}(" + text("a") + object + text("b") + "h\x01uq\x01";
  }
  expect_part(refused(object), "too many entries");
  // the same with an empty key, so that it is not the names' length that ends it
  object = "}q\x01";
  for (int i = 0; i < 30; ++i) object = "}(U" + nul + object + "U" + nul + "h\x01uq\x01";
  expect_part(refused(object), "too many entries");
}

TEST(TorchRefuseTest, StorageReferences) {
  const auto with_id = [](const std::string& id) {
    return refused_tensor("ctorch._utils\n_rebuild_tensor\n((" + id + "tQ" + kZero + kFour + kOne +
                          "tR");
  };
  const std::string type = "ctorch\nFloatStorage\n";
  EXPECT_EQ(with_id(text("storage") + type + text("k") + text("cpu") + "K\x04N"), "");
  expect_part(with_id(text("module") + type + text("k") + text("cpu") + "K\x04"), "no storage");
  expect_part(with_id(text("storage") + type + text("k")), "wrong number of fields");
  expect_part(with_id(text("storage") + kFour + text("k") + text("cpu") + "K\x04"), "malformed");
  expect_part(with_id(text("storage") + type + text("k") + text("cpu") + "K\x05"),
              "has 16 bytes (expected 5 elements of 4)");
  expect_part(with_id(text("storage") + type + text("k") + text("cpu") + kMost),
              "has 16 bytes (expected 9223372036854775807 elements of 4)");
  expect_part(with_id(text("storage") + type + text("j") + text("cpu") + "K\x04"),
              "storage 'k' belongs to no tensor");
  const auto view = [&](const std::string& at, const std::string& count) {
    return with_id(text("storage") + type + text("k") + text("cpu") + "K\x04" + text("v") + at +
                   count + "\x87");
  };
  EXPECT_EQ(view(kZero, "K\x04"), "");
  expect_part(view("K\x01", "K\x04"), "view is larger than its storage");
  expect_part(view(kMost, kMost), "view is larger than its storage");
  expect_part(view("K\x02", "K\x02"), "needs more than its storage of 2 elements");
}

const char* const kGood[] = {"views.pt",       "views_stream.pt",    "dtypes_3.pt", "module.pt",
                             "parameter.pt",   "attribute.pt",       "nested.pt",   "checkpoint.pt",
                             "python2_stream.pt", "zip64.pt"};

TEST(TorchRefuseTest, TruncatedAnywhere) {
  for (const char* name : kGood) {
    const std::string whole = torch_fixture(name);
    for (size_t n = 0; n < whole.size(); ++n) {
      // A copy of exactly n bytes: a sanitizer sees a read past its end.
      const std::vector<char> cut(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(n));
      const std::span<const std::byte> bytes = std::as_bytes(std::span(cut));
      EXPECT_NE(error_of([&] { parse_torch_file(bytes, "cut"); }), "") << name << " " << n;
    }
  }
}

// A changed byte may go unnoticed (it may be a weight, or a date); it must not lead outside.
TEST(TorchRefuseTest, AnyByteChanged) {
  for (const char* name : kGood) {
    std::string content = torch_fixture(name);
    for (size_t at = 0; at < content.size(); ++at) {
      const char old = content[at];
      for (char change : {'\x01', '\x80', '\x3f', '\xff'}) {
        content[at] = static_cast<char>(old ^ change);
        error_of([&] {
          for (const TorchTensor& t : parse_torch(content).tensors) {
            EXPECT_LE(t.storage_offset, t.offset);
            EXPECT_LE(t.offset, t.storage_offset + t.storage_bytes);
            EXPECT_LE(t.storage_offset + t.storage_bytes, content.size());
            EXPECT_LE(byte_size(t.dtype, t.shape).value(), t.storage_bytes);
            if (dtype_bits(t.dtype) == 8) torch_elements<uint8_t>(content, t);
          }
        });
      }
      content[at] = old;
    }
  }
}

}  // namespace
}  // namespace qp
