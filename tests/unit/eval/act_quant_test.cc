// What enters a linear under scales from calibration, against numbers worked by hand.
#include "lib/eval/act_quant.h"

#include <gtest/gtest.h>

#include "lib/config/presets.h"
#include "tests/unit/support/tensor_store.h"

namespace qp {
namespace {

using Floats = std::vector<float>;

class Entering {
 public:
  // A linear of these scheme, columns and activation parts; its weights do not matter.
  Entering(const Scheme& scheme, size_t cols, const std::vector<std::pair<Role, Floats>>& inputs) {
    Shape shape{1, cols};
    std::vector<std::string> parts;
    for (const PartSpec& p : part_specs(scheme, shape, DType::f32)) {
      parts.emplace_back(byte_size(p.dtype, p.shape).value(), '\0');
    }
    Tensor& w = store_.add_quantized("up.weight", scheme, shape, DType::f32, parts);
    for (const auto& [role, values] : inputs) {
      Extent at = store_.put(raw_bytes(values));
      w.parts.push_back({role, DType::f32, Shape{values.size()}, at, nullptr});
    }
  }
  Floats operator()(const Floats& x) {
    ActivationQuant quant(store_.store(), gemm::Precision::f32);
    EXPECT_TRUE(quant.not_simulated().empty());
    Floats storage;
    engine::ConstMatrix y = quant.before({"up", "up"}, {x.data(), 1, x.size()}, {}, storage);
    return {y.data, y.data + x.size()};
  }

 private:
  TensorStore store_;
};

TEST(ActQuant, StaticScale) {
  Entering q(find_scheme("int8-static"), 3, {{Role::input_scale, {0.5f}}});
  EXPECT_EQ(q({1.1f, -8.3f, 100}), (Floats{1, -8.5f, 63.5f}));
}

TEST(ActQuant, PreScaleMultipliesBeforeRounding) {
  Scheme scheme = find_scheme("int8-static");
  scheme.numerics = "modelopt";
  Entering q(scheme, 3, {{Role::input_scale, {0.5f}}, {Role::pre_scale, {2, 0.25f, 0}}});
  // 1.1 * 2 = 2.2 -> 4 steps = 2 -> 1; 9 * 0.25 = 2.25 -> 4 (even) = 2 -> 8; what a pre_scale of 0
  // takes away, the weights have lost too.
  EXPECT_EQ(q({1.1f, 9, 5}), (Floats{1, 8, 0}));
}

TEST(ActQuant, ModelOptsSecondStageIsTheReciprocal) {
  Floats x(16, 0.0f);
  x[0] = 12, x[1] = 0.9f, x[2] = -3.1f, x[3] = 6.8f;
  // amax / 6 = 2 is a scale that E4M3 holds under 1/128, so the steps are 2 * {0, .5, 1, 1.5, 2, 3,
  // 4, 6}.
  Floats expected(16, 0.0f);
  expected[0] = 12, expected[1] = 1, expected[2] = -3, expected[3] = 6;
  for (Role role : {Role::input_scale, Role::input_global_scale}) {
    bool modelopt = role == Role::input_scale;
    Scheme scheme = find_scheme("nvfp4");
    if (modelopt) scheme.numerics = "modelopt";
    Entering q(scheme, 16, {{role, {modelopt ? 1.0f / 128 : 128.0f}}});
    EXPECT_EQ(q(x), expected);
  }
}

}  // namespace
}  // namespace qp
