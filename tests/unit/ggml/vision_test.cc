#include "lib/ggml/vision.h"

#include <gtest/gtest.h>

#include "lib/base/error.h"

namespace qp::ggml {
namespace {

Model tower(const std::vector<std::pair<const char*, Shape>>& tensors) {
  Model m;
  m.architecture = "Qwen2VLForConditionalGeneration";
  m.config = {
      {"hidden_size", 12},
      {"model_type", "qwen2_vl"},
      {"vision_config",
       {{"depth", 2}, {"embed_dim", 6}, {"hidden_size", 12}, {"num_heads", 2}, {"patch_size", 3}}}};
  for (const auto& [name, shape] : tensors) {
    Tensor& t = m.tensors.emplace_back();
    t.name = name;
    t.shape = shape;
    t.dtype = DType::bf16;
  }
  return m;
}

constexpr const char* kPatches = "visual.patch_embed.proj.weight";

TEST(VisionMap, CutsFramesAndThirds) {
  Model m = tower({{kPatches, {6, 3, 2, 3, 3}},
                   {"visual.blocks.1.attn.qkv.weight", {18, 6}},
                   {"model.embed_tokens.weight", {5, 12}}});
  VisionMap map = map_vision(m);
  ASSERT_EQ(map.tensors.size(), 5u);
  const View& second = map.tensors[1].mapped.pieces[0].view;
  EXPECT_EQ(map.tensors[1].mapped.name, "v.patch_embd.weight.1");
  EXPECT_EQ(second.first, 9u);  // element [0, 0, 1, 0, 0]
  EXPECT_EQ(second.strides, (std::vector<uint64_t>{54, 18, 3, 1}));
  EXPECT_EQ(map.tensors[1].dtype, DType::f32);
  EXPECT_EQ(map.tensors[4].mapped.name, "v.blk.1.attn_v.weight");
  EXPECT_EQ(map.tensors[4].mapped.pieces[0].view.first, 72u);
  EXPECT_EQ(map.tensors[4].dtype, DType::bf16);
  EXPECT_EQ(map.dropped.size(), 1u);
}

TEST(VisionMap, RefusesWhatDoesNotFit) {
  Shape patches{6, 3, 2, 3, 3};
  EXPECT_THROW(map_vision(tower({})), Error);
  EXPECT_THROW(map_vision(tower({{kPatches, {6, 3, 4, 3, 3}}})), Error);  // four frames
  for (auto [name, shape] : {std::pair("visual.blocks.0.attn.qkv.weight", Shape{16, 6}),
                             std::pair("visual.blocks.2.norm1.weight", Shape{6}),
                             std::pair("visual.blocks.0.other.weight", Shape{6}),
                             std::pair("model.visual.patch_embed.proj.weight", patches)}) {
    EXPECT_THROW(map_vision(tower({{kPatches, patches}, {name, shape}})), Error) << name;
  }
}

TEST(VisionMap, SaysWhatIsMissing) {
  Model m = tower({});
  Metadata out("clip.vision");
  Json images = {{"image_mean", {0.5, 0.5, 0.5}}};
  EXPECT_THROW(describe_vision(m, images, out), Error);
  images["image_std"] = images["image_mean"];
  describe_vision(m, images, out);
  EXPECT_EQ(std::get<uint32_t>(*out.find("clip.vision.feed_forward_length")), 12u);
  m.config.erase("vision_config");
  EXPECT_THROW(describe_vision(m, images, out), Error);
}

}  // namespace
}  // namespace qp::ggml
