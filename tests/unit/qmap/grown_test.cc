// Tensors seen larger, and scales repeated, against values written out by hand.
#include "lib/qmap/grown.h"

#include "lib/config/presets.h"
#include "tests/unit/support/family.h"

namespace qp {
namespace {

Part blob(Model& m, Role role, DType dtype, Shape shape, std::string bytes) {
  Part p{.role = role, .dtype = dtype, .shape = shape, .extent = {}, .decode = nullptr};
  p.extent = {.file = kBlob, .offset = m.blobs.size(), .length = bytes.size(), .xxh3 = {}};
  m.blobs.push_back(std::move(bytes));
  return p;
}

std::string text(const std::vector<int>& bytes) { return {bytes.begin(), bytes.end()}; }

// [2, 8], 4 bits in groups of 4, low nibble first. Row 0: -8 .. -1 in scales 1 and 2; row 1: 0 .. 7
// in scales 0.5 and 4.
Model symmetric() {
  Model m;
  Scheme s = find_scheme("w4a16");
  s.weights.group_size = 4;
  s.weights.scale_dtype = DType::f32;
  m.schemes = {s};
  Tensor t;
  t.name = "w.weight";
  t.dtype = DType::f32;
  t.shape = {2, 8};
  t.scheme = 0;
  t.parts = {blob(m, Role::codes, DType::u8, {2, 4}, text({0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe})),
             blob(m, Role::scale, DType::f32, {2, 2}, raw_bytes(Values{1, 2, 0.5f, 4}))};
  m.tensors = {t};
  return m;
}

Values seen(const Model& m) { return values_of(Store(m, nullptr, "made"), "w.weight"); }

const Values kRow0 = {-8, -7, -6, -5, -8, -6, -4, -2}, kRow1 = {0, 0.5f, 1, 1.5f, 16, 20, 24, 28};

Values joined(std::initializer_list<Values> rows) {
  Values out;
  for (const Values& r : rows) out.insert(out.end(), r.begin(), r.end());
  return out;
}

TEST(Grown, RowsAndColumnsOfZeros) {
  Model m = symmetric();
  ASSERT_EQ(seen(m), joined({kRow0, kRow1}));
  auto rows = padded(m, m.tensors[0], {4, 8});
  ASSERT_TRUE(rows);
  m.tensors = {*rows};
  EXPECT_EQ(seen(m), joined({kRow0, kRow1, Values(8), Values(8)}));
  Model n = symmetric();
  auto columns = padded(n, n.tensors[0], {3, 14});  // the last group is not full
  ASSERT_TRUE(columns);
  n.tensors = {*columns};
  EXPECT_EQ(seen(n), joined({kRow0, Values(6), kRow1, Values(6), Values(14)}));
  Store store(n, nullptr, "made");
  const Tensor& t = store.model().tensors[0];
  auto bytes = store.read(*t.part(Role::scale));
  Values scales(12);  // nothing that is added has a scale of zero
  std::memcpy(scales.data(), bytes.data(), bytes.size());
  EXPECT_EQ(scales, (Values{1, 2, 2, 2, 0.5f, 4, 4, 4, 0.5f, 4, 4, 4}));
  std::vector<std::byte> scratch;
  const std::byte* last = store.rows(*t.part(Role::codes), 2, 1, scratch);  // a row that is not stored
  EXPECT_EQ(std::vector<std::byte>(last, last + 7), std::vector<std::byte>(7, std::byte{0x88}));
}

TEST(Grown, ThreeBitsInAStream) {
  Model m = symmetric();
  m.schemes[0].weights.num_bits = 3;
  m.tensors[0].parts[0] = blob(m, Role::codes, DType::u8, {2, 3}, text({0, 0, 0, 0xff, 0xff, 0xff}));
  ASSERT_EQ(seen(m), (Values{-4, -4, -4, -4, -8, -8, -8, -8, 1.5f, 1.5f, 1.5f, 1.5f, 12, 12, 12, 12}));
  auto wide = padded(m, m.tensors[0], {2, 13});
  ASSERT_TRUE(wide);
  m.tensors = {*wide};
  Values v = seen(m);
  EXPECT_EQ(Values(v.begin() + 8, v.begin() + 13), Values(5));
  EXPECT_EQ(Values(v.begin() + 21, v.end()), Values(5));
}

TEST(Grown, ZeroPoints) {
  Model m = symmetric();
  m.schemes[0].weights.symmetric = false;
  m.tensors[0].parts.push_back(blob(m, Role::zero_point, DType::u8, {2, 2}, text({8, 8, 8, 8})));
  ASSERT_EQ(seen(m), joined({kRow0, kRow1}));
  auto t = padded(m, m.tensors[0], {3, 12});
  ASSERT_TRUE(t);
  Model n = m;
  n.tensors = {*t};
  EXPECT_EQ(seen(n), joined({kRow0, Values(4), kRow1, Values(4), Values(12)}));
  m.schemes[0].weights.group_size = 16;  // a group that is not full has a zero point of its own
  EXPECT_FALSE(padded(m, m.tensors[0], {2, 16}));
}

TEST(Grown, WhatCannotBePadded) {
  Model m = symmetric();
  EXPECT_FALSE(padded(m, m.tensors[0], {1, 8}));
  EXPECT_FALSE(padded(m, m.tensors[0], {2, 8, 1}));
  m.tensors[0].parts.push_back(blob(m, Role::g_idx, DType::i32, {8}, std::string(32, 0)));
  EXPECT_FALSE(padded(m, m.tensors[0], {2, 16}));
  m.tensors[0].transposed = true;
  EXPECT_FALSE(padded(m, m.tensors[0], {4, 8}));
}

TEST(Grown, ScalesRepeated) {
  for (bool rows : {false, true}) {
    Model m = symmetric();
    if (rows) {  // one scale a row
      m.schemes[0].weights.strategy = Strategy::channel;
      m.tensors[0].parts[1] = blob(m, Role::scale, DType::f32, {2, 1}, raw_bytes(Values{1, 2}));
    }
    Values before = seen(m);
    regroup(m, m.tensors[0], 2);
    EXPECT_EQ(m.tensors[0].part(Role::scale)->shape, (Shape{2, 4}));
    EXPECT_EQ(m.schemes[static_cast<size_t>(m.tensors[0].scheme)].weights.group_size, 2);
    EXPECT_EQ(seen(m), before);
    EXPECT_NE(failure_of([&] { regroup(m, m.tensors[0], 3); }).find("3 does not divide"), std::string::npos);
  }
  Model m = symmetric();
  m.tensors[0].parts.push_back(blob(m, Role::g_idx, DType::i32, {8}, std::string(32, 0)));
  EXPECT_NE(failure_of([&] { regroup(m, m.tensors[0], 2); }).find("g_idx"), std::string::npos);
}

}  // namespace
}  // namespace qp
