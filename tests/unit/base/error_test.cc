#include "lib/base/error.h"

#include <gtest/gtest.h>

namespace qp {
namespace {

TEST(Printable, EscapesWhatATerminalWouldObey) {
  EXPECT_EQ(printable("a\tb\\c\x7f"), "a\\x09b\\x5cc\\x7f");
  EXPECT_EQ(printable("größe"), "größe");
}

TEST(Printable, CutsTheMiddleBetweenCharacters) {
  EXPECT_EQ(printable("0123456789", 10), "0123456789");
  EXPECT_EQ(printable("0123456789a", 10), "01234…6789a");
  // The limit falls inside a character of two, three and four bytes, at both ends.
  for (std::string character : {"ö", "…", "😀"}) {
    std::string name;
    for (int i = 0; i < 100; ++i) name += character;
    for (size_t limit = 40; limit < 60; ++limit) {
      std::string cut = printable(name, limit), half;
      size_t at = 0;
      while (cut.compare(at, character.size(), character) == 0 && at < limit / 2) at += character.size();
      EXPECT_EQ((cut.size() - 3) % character.size(), 0u) << cut;
      for (size_t i = 0; i < cut.size();) {  // nothing but whole characters and one ellipsis
        if (cut.compare(i, character.size(), character) == 0) {
          i += character.size();
        } else {
          ASSERT_EQ(cut.compare(i, 3, "…"), 0) << cut;
          i += 3;
        }
      }
    }
  }
}

TEST(Printable, PathsAreShownWhole) {
  std::string path(1500, 'x');
  path += "/model.safetensors";
  EXPECT_TRUE(std::string(input_error("is bad").file(path).what()).starts_with(path + ": is bad"));
}

}  // namespace
}  // namespace qp
