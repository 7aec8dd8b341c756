// Opcodes by hand: each pickle here can be read with Python's pickletools.dis.
#include "formats/container/pickle.h"

#include "tests/unit/formats/torch_fixture.h"

namespace qp {
namespace {

std::string_view allow_any(std::string_view module, std::string_view name) {
  if (module == "collections" && name == "OrderedDict") return "collections.OrderedDict";
  if (module == "m" && name == "f") return "m.f";
  throw input_error("global refused");
}

// Without PROTO 2 and STOP, which are added. String literals may hold zeros.
template <size_t n>
std::string program(const char (&body)[n]) {
  return "\x80\x02" + std::string(body, n - 1) + ".";
}
std::string failure(const std::string& bytes) {
  return error_of([&] { read_pickle(as_bytes(bytes), allow_any); });
}
void expect_failure(const std::string& bytes, const std::string& part) {
  const std::string message = failure(bytes);
  EXPECT_NE(message.find(part), std::string::npos) << message;
}
int64_t integer(const std::string& bytes) {
  const Pickle pickle = read_pickle(as_bytes(bytes), allow_any);
  EXPECT_EQ(pickle[pickle.root].kind, PickleKind::integer);
  return pickle[pickle.root].integer;
}

TEST(TorchPickleTest, Integers) {
  EXPECT_EQ(integer(program("K\xff")), 255);
  EXPECT_EQ(integer(program("M\x01\x02")), 513);
  EXPECT_EQ(integer(program("J\xfe\xff\xff\xff")), -2);
  EXPECT_EQ(integer(program("\x8a\x00")), 0);
  EXPECT_EQ(integer(program("\x8a\x01\xff")), -1);
  EXPECT_EQ(integer(program("\x8a\x02\xff\x00")), 255);
  EXPECT_EQ(integer(program("\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f")), INT64_MAX);
  EXPECT_EQ(integer(program("\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x80")), INT64_MIN);
  const std::string wide = program("\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01");
  const Pickle pickle = read_pickle(as_bytes(wide), allow_any);
  EXPECT_EQ(pickle[pickle.root].kind, PickleKind::big);
}

TEST(TorchPickleTest, RealIsBigEndian) {
  const std::string bytes = program("G\x3f\xf8\x00\x00\x00\x00\x00\x00");
  const Pickle pickle = read_pickle(as_bytes(bytes), allow_any);
  EXPECT_EQ(pickle[pickle.root].real, 1.5);
}

TEST(TorchPickleTest, Containers) {
  // {'a': [True, None], 'b': (1, 2, 3)}, with the key 'a' through the memo
  const std::string bytes =
      program("}(X\x01\x00\x00\x00" "aq\x07](\x88NeX\x01\x00\x00\x00" "bK\x01K\x02K\x03\x87u");
  const Pickle pickle = read_pickle(as_bytes(bytes), allow_any);
  const PickleValue& dict = pickle[pickle.root];
  ASSERT_EQ(dict.kind, PickleKind::dict);
  ASSERT_EQ(dict.items.size(), 4u);
  EXPECT_EQ(pickle[dict.items[0]].text, "a");
  const PickleValue& list = pickle[dict.items[1]];
  ASSERT_EQ(list.items.size(), 2u);
  EXPECT_EQ(pickle[list.items[0]].kind, PickleKind::boolean);
  EXPECT_EQ(pickle[list.items[0]].integer, 1);
  EXPECT_EQ(pickle[list.items[1]].kind, PickleKind::none);
  EXPECT_EQ(pickle[dict.items[3]].items.size(), 3u);
  EXPECT_EQ(pickle.bytes, bytes.size());
}

TEST(TorchPickleTest, CallsStayNodes) {
  const std::string bytes = program("cm\nf\nK\x05\x85R");
  const Pickle pickle = read_pickle(as_bytes(bytes), allow_any);
  const PickleValue& call = pickle[pickle.root];
  ASSERT_EQ(call.kind, PickleKind::call);
  EXPECT_EQ(pickle[call.items[0]].text, "m.f");
  EXPECT_EQ(pickle[pickle[call.items[1]].items[0]].integer, 5);
}

TEST(TorchPickleTest, StopsAtItsEnd) {
  const std::string two = program("N") + program("K\x01");
  EXPECT_EQ(read_pickle(as_bytes(two), allow_any).bytes, 4u);
}

TEST(TorchPickleTest, ListMayHoldItself) {
  const std::string bytes = program("]q\x00h\x00" "a");
  const Pickle pickle = read_pickle(as_bytes(bytes), allow_any);
  EXPECT_EQ(pickle[pickle.root].items.at(0), pickle.root);
}

TEST(TorchPickleTest, OpcodesThatAreNotAllowed) {
  // POP, DUP, INT, FLOAT, STRING, LONG, PERSID, INST, OBJ, GET, PUT, BINBYTES, EXT1, LONG4,
  // SHORT_BINUNICODE, NEWOBJ_EX, STACK_GLOBAL, MEMOIZE, FRAME, BYTEARRAY8, FROZENSET
  for (char op : std::string("02IFSLPiogpB\x82\x8b\x8c\x92\x93\x94\x95\x96\x91")) {
    expect_failure("\x80\x02NN" + std::string(1, op) + "aaaaaaaaaaaaaaaa\n.", "is not allowed");
  }
}

TEST(TorchPickleTest, Malformed) {
  expect_failure("", "ends too early");
  expect_failure("N.", "does not start with a protocol");
  expect_failure("\x80\x05N.", "protocol 5 is not supported");
  expect_failure("\x80\x02N", "ends too early");
  expect_failure("\x80\x02.", "more values than there are");
  expect_failure(program("NN"), "leaves values");
  expect_failure(program("N("), "more values than there are");  // STOP may not cross a mark
  expect_failure(program("t"), "no mark");
  expect_failure(program("\x85"), "more values than there are");
  expect_failure(program("](N\x86"), "more values than there are");  // TUPLE2 across a mark
  expect_failure(program("h\x00"), "memo 0 is not set");
  expect_failure(program("q\x00"), "more values than there are");
  expect_failure(program("NNa"), "expected a list, found a None");
  expect_failure(program("]NNs"), "expected a dict, found a list");
  expect_failure(program("}(Nu"), "key without a value");
  expect_failure(program("N)R"), "calls what is not a global");
  expect_failure(program("cm\nf\nNR"), "arguments are not a tuple");
  expect_failure(program("cos\nsystem\n"), "global refused");
  expect_failure(program("cos"), "ends too early");
  expect_failure(program("ccollections\nOrderedDict\nN\x85R"), "not of a list");
  expect_failure(program("ccollections\nOrderedDict\n]Na\x85R"), "not of pairs");
  expect_failure(program("X\xff\xff\xff\xff" "abc"), "ends too early");
}

// --- work bounded ---

TEST(TorchPickleTest, NestingIsBounded) {
  expect_failure("\x80\x02" + std::string(2000, '('), "nested too deeply");
}

TEST(TorchPickleTest, NumberOfValuesIsBounded) {
  expect_failure("\x80\x02" + std::string(kPickleMaxSteps + 1, 'N'), "too many values");
  std::string puts = "\x80\x02N";
  for (size_t i = 0; i <= kPickleMaxSteps; ++i) puts += std::string("q\0", 2);
  expect_failure(puts, "too many values");
}

// A long list of pairs made into a dict again and again: short input, quadratic work.
TEST(TorchPickleTest, CopiesAreBounded) {
  std::string bytes = "\x80\x02]q" + std::string(1, '\0') + "(";
  for (int i = 0; i < 50000; ++i) bytes += "NN\x86";
  bytes += "e";
  for (int i = 0; i < 50000; ++i) {
    bytes += "ccollections\nOrderedDict\nh" + std::string(1, '\0') + "\x85R";
  }
  expect_failure(bytes, "too many values");
}

}  // namespace
}  // namespace qp
