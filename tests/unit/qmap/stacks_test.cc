// Stacks of experts taken apart, against values written out by hand.
#include "lib/qmap/stacks.h"

#include "lib/config/presets.h"
#include "lib/plan/plan.h"
#include "lib/qmap/decode.h"
#include "tests/unit/support/family.h"

namespace qp {
namespace {

const std::string kExperts = "model.layers.0.mlp.experts";

// Element (e, out, in) of gate_up is 100 e + 10 out + in; of down the same and 1000. E = 2, H = 3,
// F = 2. `turn`: matrices stored [in, out].
TestTensor stacked(const std::string& name, float base, uint64_t out, uint64_t in, bool turn) {
  Values v;
  for (uint64_t e = 0; e < 2; ++e) {
    for (uint64_t i = 0; i < out * in; ++i) {
      uint64_t o = turn ? i % out : i / in, k = turn ? i / out : i % in;
      v.push_back(base + static_cast<float>(100 * e + 10 * o + k));
    }
  }
  return f32_tensor(name, turn ? Shape{2, in, out} : Shape{2, out, in}, v);
}

MadeCheckpoint checkpoint(bool turn, const char* type = "qwen3_moe") {
  MadeCheckpoint c;
  c.config["model_type"] = type;
  c.tensors = {stacked(kExperts + ".down_proj", 1000, 3, 2, turn),
               f32_tensor(kExperts + ".down_proj_bias", {2, 3}, {1, 2, 3, 4, 5, 6}),
               stacked(kExperts + ".gate_up_proj", 0, 4, 3, turn),
               f32_tensor(kExperts + ".gate_up_proj_bias", {2, 4}, {1, 2, 3, 4, 5, 6, 7, 8})};
  return c;
}

struct Opened {
  explicit Opened(const MadeCheckpoint& c) {
    c.write(dir);
    store = open_model(dir.path());
  }
  // The model with all experts apart.
  std::unique_ptr<Store> apart() const {
    return store->with(with_experts_apart(store->model(), [](const auto&) { return true; }));
  }
  TempDir dir;
  std::unique_ptr<Store> store;
};

TEST(Stacks, EitherOrientation) {
  for (bool turn : {false, true}) {
    Opened o(checkpoint(turn));
    auto stacks = find_stacks(o.store->model());
    ASSERT_EQ(stacks.size(), 1u);
    EXPECT_EQ(stacks.at(kExperts).transposed, turn);
    auto apart = o.apart();
    EXPECT_EQ(apart->model().tensors.size(), 12u);
    EXPECT_EQ(values_of(*apart, kExperts + ".1.gate_proj.weight"),
              (Values{100, 101, 102, 110, 111, 112}));
    EXPECT_EQ(values_of(*apart, kExperts + ".0.up_proj.weight"), (Values{20, 21, 22, 30, 31, 32}));
    EXPECT_EQ(values_of(*apart, kExperts + ".1.down_proj.weight"),
              (Values{1100, 1101, 1110, 1111, 1120, 1121}));
    EXPECT_EQ(values_of(*apart, kExperts + ".1.gate_proj.bias"), (Values{5, 6}));
    EXPECT_EQ(values_of(*apart, kExperts + ".1.up_proj.bias"), (Values{7, 8}));
    EXPECT_EQ(values_of(*apart, kExperts + ".0.down_proj.bias"), (Values{1, 2, 3}));
  }
}

TEST(Stacks, GateAndUpAlternateInGptOss) {
  Opened o(checkpoint(true, "gpt_oss"));
  auto apart = o.apart();
  EXPECT_EQ(values_of(*apart, kExperts + ".1.gate_proj.weight"),
            (Values{100, 101, 102, 120, 121, 122}));
  EXPECT_EQ(values_of(*apart, kExperts + ".1.up_proj.weight"),
            (Values{110, 111, 112, 130, 131, 132}));
  EXPECT_EQ(values_of(*apart, kExperts + ".1.up_proj.bias"), (Values{6, 8}));
}

TEST(Stacks, NamesOfMixtral) {
  Opened o(checkpoint(false, "mixtral"));
  auto apart = o.apart();
  EXPECT_EQ(values_of(*apart, kExperts + ".0.w1.weight").size(), 6u);
  EXPECT_EQ(values_of(*apart, kExperts + ".0.w3.weight").size(), 6u);
  EXPECT_EQ(values_of(*apart, kExperts + ".0.w2.weight").size(), 6u);
}

TEST(Stacks, ShapesThatDoNotFitAreNone) {
  MadeCheckpoint c = checkpoint(false);
  c.at(kExperts + ".down_proj").shape = {2, 1, 6};
  EXPECT_TRUE(find_stacks(Opened(c).store->model()).empty());
  c = checkpoint(false);
  c.at(kExperts + ".gate_up_proj_bias").shape = {4, 2};
  EXPECT_TRUE(find_stacks(Opened(c).store->model()).empty());
  c = checkpoint(false);
  c.remove(kExperts + ".down_proj");
  EXPECT_TRUE(find_stacks(Opened(c).store->model()).empty());
}

TEST(Stacks, ATurnedTensor) {
  Opened o(checkpoint(true));
  const Tensor& t = *o.store->model().find(kExperts + ".down_proj");
  Tensor view = turned(t);
  EXPECT_EQ(view.shape.str(), "[2, 3, 2]");
  RowSource source(*o.store, view);
  RowScratch scratch;
  const float* v = source.get_f32(2, 2, scratch, true);  // across the border of the experts
  EXPECT_EQ(Values(v, v + 4), (Values{1020, 1021, 1100, 1101}));
}

TEST(Stacks, APieceStaysInsideItsExtent) {
  Opened o(checkpoint(false));
  const Part& p = o.store->model().find(kExperts + ".down_proj")->parts.front();
  EXPECT_TRUE(piece_of(p, Shape{2, 2}, 8, {2, 1}));
  EXPECT_FALSE(piece_of(p, Shape{2, 2}, 9, {2, 1}));
  EXPECT_FALSE(piece_of(p, Shape{2, 2}, UINT64_MAX / 2, {2, 1}));
  EXPECT_FALSE(piece_of(p, Shape{2, 2}, 0, {UINT64_MAX, 1}));
  EXPECT_FALSE(piece_of(*piece_of(p, Shape{2, 2}, 0, {2, 1}), Shape{1, 1}, 0, {1, 1}));
}

TEST(Stacks, NumbersOfAManifestAreNotBelieved) {
  Opened o(checkpoint(false));
  const Part& p = o.store->model().find(kExperts + ".down_proj")->parts.front();  // 48 bytes
  auto bytes = [&](uint64_t begin, uint64_t whole, Shape shape = {2, 2}) {
    Decode d;
    d.stored = DType::f32;
    d.strides = {2, 1};
    d.begin = begin;
    d.whole = whole;
    Part q = p;
    q.shape = shape;
    q.decode = std::make_shared<const Decode>(d);
    return stored_bytes(q);
  };
  EXPECT_EQ(bytes(32, 48), 48u);
  EXPECT_EQ(bytes(0, 0), 16u);
  EXPECT_FALSE(bytes(36, 48));          // ends past the extent
  EXPECT_FALSE(bytes(34, 64));          // not on an element
  EXPECT_FALSE(bytes(4, 0));            // begins in an extent of its own
  EXPECT_FALSE(bytes(64, 48, {2, 0}));  // empty, but begins outside
  EXPECT_FALSE(bytes(UINT64_MAX - 3, UINT64_MAX));
  Decode plain;
  plain.stored = DType::f32;
  plain.whole = 48;
  Part q = p;
  q.decode = std::make_shared<const Decode>(plain);
  EXPECT_FALSE(stored_bytes(q));  // pieces have strides
}

Plan plan_of(const Store& store, const char* scheme, std::vector<std::string> ignore = {}) {
  Recipe recipe;
  recipe.rules.push_back(scheme_rule(find_scheme(scheme), "--scheme"));
  for (std::string& i : ignore) recipe.ignore.emplace_back(std::move(i));
  return make_plan(store.model(), recipe, "test");
}

TEST(Stacks, AreQuantizedApart) {
  Opened o(checkpoint(true, "llama4"));
  Plan plan = plan_of(*o.store, "fp8-dynamic");
  EXPECT_EQ(plan.entries.size(), 12u);
  EXPECT_EQ(plan.quantized, 6u);
  const PlanEntry& first = plan.entries.front();
  EXPECT_EQ(first.tensor->name, kExperts + ".0.down_proj.weight");
  EXPECT_EQ(first.input, kExperts + ".down_proj[0]");
  EXPECT_EQ(first.info.agree, kExperts + ".w2");
  // Gate and up left out: they are kept, but apart as the others.
  plan = plan_of(*o.store, "fp8-dynamic", {kExperts + ".gate_up_proj"});
  EXPECT_EQ(plan.entries.size(), 12u);
  EXPECT_EQ(plan.quantized, 2u);
}

TEST(Stacks, StayWholeWhenNothingReachesThem) {
  Opened o(checkpoint(true));
  for (const std::string& ignore :
       {kExperts + ".gate_up_proj", std::string("re:.*experts"), std::string("Expert")}) {
    std::vector<std::string> all = {ignore};
    if (ignore.ends_with("gate_up_proj"))
      all.push_back(kExperts + ".down_proj");
    Plan plan = plan_of(*o.store, "fp8-dynamic", all);
    EXPECT_EQ(plan.entries.size(), 4u) << ignore;
    EXPECT_EQ(plan.quantized, 0u) << ignore;
    EXPECT_EQ(plan.entries.front().reason, "ignored by '" + all.back() + "'");
  }
}

TEST(Stacks, Mxfp4OfGptOssStaysWhole) {
  Opened other(checkpoint(true)), oss(checkpoint(true, "gpt_oss"));
  // Rows of 3 are no blocks of 32: the refusals name what would have been quantized.
  auto named = [](const Opened& o) {
    try {
      plan_of(*o.store, "mxfp4");
    } catch (const Error& e) {
      return e.tensor();
    }
    return std::string("none");
  };
  EXPECT_EQ(named(oss), kExperts + ".down_proj");
  EXPECT_EQ(named(other), kExperts + ".0.down_proj.weight");
}

// GPT-2's Conv1D [in, out] is a linear, seen turned.
TEST(Stacks, Conv1D) {
  MadeCheckpoint c;
  c.config = {{"model_type", "gpt2"}, {"torch_dtype", "float32"}};
  c.tensors = {f32_tensor("h.0.mlp.c_fc.weight", {2, 3}, {1, 2, 3, 4, 5, 6})};
  Opened o(c);
  Plan plan = plan_of(*o.store, "fp8-dynamic");
  ASSERT_EQ(plan.quantized, 1u);
  EXPECT_EQ(plan.entries[0].source->shape.str(), "[3, 2]");
  RowSource source(*o.store, *plan.entries[0].source);
  RowScratch scratch;
  const float* v = source.get_f32(0, 3, scratch, true);
  EXPECT_EQ(Values(v, v + 6), (Values{1, 4, 2, 5, 3, 6}));
}

}  // namespace
}  // namespace qp
