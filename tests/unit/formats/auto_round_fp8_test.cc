// auto-round's static FP8, as the library writes it (tests/peers/auto-round.py).
#include <gtest/gtest.h>

#include "tests/unit/support/family.h"

namespace qp {
namespace {

TEST(AutoRound, StaticFp8) {
  const std::string up = "model.layers.0.mlp.up_proj";
  MadeCheckpoint c;
  c.quantization = {{"quant_method", "auto-round"},
                    {"packing_format", "auto_round:fp8_static"},
                    {"data_type", "fp"},
                    {"bits", 8},
                    {"act_bits", 8},
                    {"group_size", -1}};
  c.tensors = {bytes_tensor(up + ".weight", DType::f8_e4m3, {2, 2}, {0x38, 0x40, 0x30, 0xB8}),
               f32_tensor(up + ".weight_scale", {2}, {0.5, 2}),
               f32_tensor(up + ".input_scale", {1}, {3})};
  EXPECT_EQ(values_of(c, up + ".weight"), (Values{0.5, 1, 1, -2}));
  Exported e = write_as(c, "compressed-tensors");
  EXPECT_EQ(e.error, "");
  EXPECT_EQ(e.tensors.at(up + ".input_scale").bytes, c.at(up + ".input_scale").bytes);
  MadeCheckpoint bad = c;
  bad.remove(up + ".weight_scale");
  EXPECT_TRUE(contains(reading_fails(bad), "has no weight_scale")) << reading_fails(bad);
  bad = c;
  bad.remove(up + ".input_scale");
  EXPECT_TRUE(contains(reading_fails(bad), "input_scale")) << reading_fails(bad);
  bad = c;
  bad.quantization["bits"] = 4;
  EXPECT_TRUE(contains(reading_fails(bad), "expected fp of 8")) << reading_fails(bad);
}

}  // namespace
}  // namespace qp
