// QPIPE_ISA chooses the implementation; each case runs in a process of its own, as the choice is
// made once.
#include <cstdio>
#include <cstdlib>

#include "lib/base/error.h"
#include "lib/gemm/gemm.h"
#include "lib/kernels/kernels.h"
#include "tests/unit/gemm/gemm_data.h"

namespace qp::gemm {
namespace {

// Exits with 0 if these are in use, with the error's code and its text if it throws.
[[noreturn]] void exit_with_choice(const char* env, std::string bf16, std::string f32,
                                   std::string table) {
  setenv("QPIPE_ISA", env, 1);
  try {
    std::string isa = kernels::active_isa();
    bool same = backend(Precision::bf16) == bf16 && backend(Precision::f32) == f32 &&
                kernels::active().isa == table && (*env == 0 || isa == env);
    std::exit(same ? 0 : 99);
  } catch (const Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    std::exit(e.exit_code());
  }
}

class GemmDispatch : public ::testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(GemmDispatch, EverySupportedOneCanBeForced) {
  for (const Pair& p : supported()) {
    std::string plain = p.f32->isa;  // amx and avx512_bf16 are for bf16 alone
    EXPECT_EXIT(exit_with_choice(p.isa, p.isa, plain, plain), ::testing::ExitedWithCode(0), "")
        << p.isa;
  }
}

TEST_F(GemmDispatch, EmptyMeansTheBest) {
  PairList list = supported();
  const Pair& best = list.data[list.size - 1];
  std::string plain = best.f32->isa;
  EXPECT_EXIT(exit_with_choice("", best.isa, plain, plain), ::testing::ExitedWithCode(0), "");
}

TEST_F(GemmDispatch, UnknownIsAUsageError) {
  EXPECT_EXIT(exit_with_choice("sse9", "", "", ""), ::testing::ExitedWithCode(2),
              "QPIPE_ISA is 'sse9' \\(expected one of: scalar.*\\)");
}

TEST_F(GemmDispatch, ScalarIsAlwaysThereAndPanelsFitTheUnit) {
  ASSERT_GE(supported().size, 1u);
  EXPECT_STREQ(supported().data[0].isa, "scalar");
  for (const Pair& p : supported()) {
    for (const Backend* be : {p.bf16, p.f32}) {
      EXPECT_EQ(Packed::unit() % be->cols, 0u) << be->isa;
      EXPECT_EQ(64 % be->depth_unit, 0u) << be->isa;
      EXPECT_EQ(be->depth_block % be->depth_unit, 0u) << be->isa;
    }
  }
}

}  // namespace
}  // namespace qp::gemm
