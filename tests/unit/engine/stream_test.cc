#include "lib/stream/stream.h"

#include <gtest/gtest.h>

#include <cmath>

#include "lib/base/error.h"
#include "lib/pipe/handover.h"
#include "tests/unit/support/model_dir.h"

namespace qp {
namespace {

// Tells when weights were loaded ('w') and when a product ran ('x').
class Events : public WeightSource, public LinearHook {
 public:
  using WeightSource::WeightSource;
  engine::Weight load(const engine::WeightUse& use, gemm::Precision precision,
                      engine::Weight used) const override {
    text += 'w';
    return WeightSource::load(use, precision, std::move(used));
  }
  ConstMatrix before(const engine::LinearUse&, ConstMatrix x, std::span<const uint32_t>,
                     std::vector<float>&) override {
    text += 'x';
    return x;
  }
  mutable std::string text;
};

struct Opened {
  explicit Opened(const TinyLlama& tiny) {
    tiny.write(dir);
    store = open_model(dir.path());
    weights = std::make_unique<Events>(*store);
    model = arch::make_architecture(store->model(), *weights);
  }
  std::vector<float> run(const Windows& windows, StreamOptions options) {
    Stream stream(*model, *weights, windows, options, {make_spill(), make_spill()});
    Progress progress;
    stream.embed();
    weights->text.clear();
    for (size_t i = 0; i < model->layers; ++i) stream.layer(i, weights.get(), progress);
    std::vector<float> out(stream.rows() * model->hidden);
    stream.read(0, stream.rows(), out.data());
    return out;
  }
  TempDir dir;
  std::unique_ptr<Store> store;
  std::unique_ptr<Events> weights;
  std::unique_ptr<arch::Architecture> model;
};

template <class Body>
Error error_of(ErrorKind kind, Body body) {
  try {
    body();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), kind) << e.what();
    return e;
  }
  ADD_FAILURE() << "nothing was thrown";
  return defect_error("");
}

Windows windows_of(const std::vector<std::vector<int32_t>>& all) {
  Windows windows;
  for (const auto& ids : all) windows.add(ids);
  return windows;
}

const Windows kWindows = windows_of({{1, 2, 3}, {4}, {5, 6, 7, 8, 9}});

TEST(Stream, WavesChangeNoBit) {
  Opened o((TinyLlama()));
  std::vector<float> whole = o.run(kWindows, {});
  // All weights of a layer, then its products: 9 tensors, and 7 products of one batch.
  EXPECT_EQ(o.weights->text, "wwwwwwwwwxxxxxxxwwwwwwwwwxxxxxxx");
  uint64_t low = 0, high = uint64_t{1} << 32;  // to the byte that works
  while (high - low > 1) {
    StreamOptions options;
    options.memory = (low + high) / 2;
    try {
      Stream(*o.model, *o.weights, kWindows, options, {Fd(), Fd()});
      high = options.memory;
    } catch (const Error& e) {
      ASSERT_EQ(e.kind(), ErrorKind::limit);
      low = options.memory;
    }
  }
  StreamOptions small;
  small.memory = high;
  EXPECT_EQ(o.run(kWindows, small), whole);
  EXPECT_NE(o.weights->text.find("xw"), std::string::npos) << o.weights->text;
  EXPECT_LT(o.weights->text.find("xw"), o.weights->text.size() / 2);
  StreamOptions apart;
  apart.batch_windows = 1;
  EXPECT_EQ(o.run(kWindows, apart), whole);
}

TEST(Stream, SaysHowMuchMemoryWorks) {
  Opened o((TinyLlama()));
  StreamOptions options;
  options.memory = 1 << 20;
  Error e = error_of(ErrorKind::limit, [&] { o.run(kWindows, options); });
  EXPECT_TRUE(e.tensor().starts_with("model.layers.0.")) << e.tensor();
  size_t at = e.hint().find("--max-memory ");
  ASSERT_NE(at, std::string::npos) << e.what();
  options.memory = std::stoull(e.hint().substr(at + 13)) << 20;
  EXPECT_NO_THROW(o.run(kWindows, options));
}

TEST(Stream, NamesTheLayerWhoseActivationsAreNotFinite) {
  TinyLlama tiny;
  std::vector<float> values(16 * 8, 0.5f);
  values[3] = std::nanf("");
  tiny.at("model.layers.1.mlp.up_proj.weight").bytes = bf16_bytes(values);
  Opened o(tiny);
  Error e = error_of(ErrorKind::input, [&] { o.run(kWindows, {}); });
  EXPECT_NE(e.reason().find("model.layers.1"), std::string::npos) << e.what();
  EXPECT_NE(e.reason().find("window 0, token 0"), std::string::npos) << e.what();
}

TEST(Stream, RefusesTokensOutsideTheVocabulary) {
  Opened o((TinyLlama()));
  for (int32_t token : {12, -1, 1 << 30}) {
    Error e = error_of(ErrorKind::input, [&] { o.run(windows_of({{1, 2}, {3, token}}), {}); });
    EXPECT_EQ(e.tensor(), "model.embed_tokens.weight");
    EXPECT_NE(e.reason().find(std::to_string(token)), std::string::npos) << e.what();
  }
}

TEST(Stream, RefusesWindowsLongerThanTheTableOfPositions) {
  TinyLlama gpt2;
  gpt2.config = {{"architectures", {"GPT2LMHeadModel"}}, {"n_embd", 8}, {"n_layer", 1}, {"n_head", 2},
                 {"n_positions", 4}, {"vocab_size", 12}};
  gpt2.tensors = {bf16_tensor("wte.weight", {12, 8}), bf16_tensor("wpe.weight", {4, 8}),
                  bf16_tensor("ln_f.weight", {8}), bf16_tensor("ln_f.bias", {8})};
  auto add = [&](const std::string& name, uint64_t in, uint64_t out) {
    gpt2.tensors.push_back(bf16_tensor("h.0." + name + ".weight", in ? Shape{in, out} : Shape{out}));
    gpt2.tensors.push_back(bf16_tensor("h.0." + name + ".bias", Shape{out}));
  };
  add("ln_1", 0, 8), add("ln_2", 0, 8);
  add("attn.c_attn", 8, 24), add("attn.c_proj", 8, 8);
  add("mlp.c_fc", 8, 32), add("mlp.c_proj", 32, 8);
  Opened o(gpt2);
  EXPECT_EQ(o.model->context, 4u);
  EXPECT_NO_THROW(o.run(windows_of({{1, 2, 3, 4}}), {}));
  Error e = error_of(ErrorKind::usage, [&] { o.run(windows_of({{1, 2, 3, 4, 5}}), {}); });
  EXPECT_EQ(e.tensor(), "wpe.weight");
  EXPECT_NE(e.hint().find("--seqlen"), std::string::npos);
}

}  // namespace
}  // namespace qp
