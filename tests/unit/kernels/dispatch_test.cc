// QPIPE_ISA chooses the table; each case runs in a process of its own, as the choice is made once.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>

#include "lib/base/error.h"
#include "lib/kernels/kernels.h"

namespace qp::kernels {
namespace {

// Exits with 0 if active() is `isa`, with the error's code and its text if it throws.
[[noreturn]] void exit_with_choice(const char* env, const char* isa) {
  setenv("QPIPE_ISA", env, 1);
  try {
    std::exit(std::strcmp(active().isa, isa) == 0 ? 0 : 99);
  } catch (const Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    std::exit(e.exit_code());
  }
}

class Dispatch : public ::testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(Dispatch, EverySupportedOneCanBeForced) {
  for (const Table* t : supported()) {
    EXPECT_EXIT(exit_with_choice(t->isa, t->isa), ::testing::ExitedWithCode(0), "");
  }
}

TEST_F(Dispatch, EmptyMeansTheBest) {
  TableList list = supported();
  EXPECT_EXIT(exit_with_choice("", list.data[list.size - 1]->isa), ::testing::ExitedWithCode(0),
              "");
}

TEST_F(Dispatch, UnknownAndUnsupportedAreUsageErrors) {
  EXPECT_EXIT(exit_with_choice("sse9", ""), ::testing::ExitedWithCode(2),
              "QPIPE_ISA is 'sse9' \\(expected one of: scalar.*\\)");
#if defined(__x86_64__)
  EXPECT_EXIT(exit_with_choice("neon", ""), ::testing::ExitedWithCode(2), "expected one of");
#endif
}

TEST_F(Dispatch, TablesAreWholeAndDistinct) {
  ASSERT_GE(supported().size, 1u);
  EXPECT_STREQ(supported().data[0]->isa, "scalar");
  std::set<std::string> names;
  for (const Table* t : supported()) {
    EXPECT_TRUE(names.insert(t->isa).second);
    EXPECT_TRUE(t->group_absmax && t->group_minmax && t->int_codes && t->e4m3_codes &&
                t->e2m1_codes && t->nvfp4_scales && t->mx_scales && t->int_values &&
                t->e4m3_values && t->e2m1_values && t->to_f32 && t->from_f32 && t->compare &&
                t->histogram);
  }
}

}  // namespace
}  // namespace qp::kernels
