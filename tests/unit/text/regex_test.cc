// Oniguruma's expressions through PCRE2. Expected matches: Oniguruma's documentation (RE).
#include <gtest/gtest.h>

#include "lib/base/error.h"
#include "lib/text/split_pattern.h"

namespace qp {
namespace {
std::vector<std::string> matches(std::string_view pattern, std::string_view text,
                                 bool recent = false) {
  MatchScratch scratch;
  std::vector<std::string> out;
  SplitPattern::regex(pattern).each(text, recent, scratch, [&](size_t begin, size_t end) {
    out.emplace_back(text.substr(begin, end - begin));
  });
  return out;
}
using Words = std::vector<std::string>;

TEST(Oniguruma, LinesOptionsAndQuantifiers) {
  EXPECT_EQ(matches("^b", "a\nb"), (Words{"b"})) << "^ is at every line";
  EXPECT_EQ(matches("(?m:a.b)", "a\nb"), (Words{"a\nb"})) << "m is for the dot";
  EXPECT_EQ(matches("a{,2}b", "aab"), (Words{"aab"}));
  EXPECT_EQ(matches("(?:a{2}+)b", "aaaab"), (Words{"aaaab"})) << "a + behind {} repeats";
  EXPECT_EQ(matches("a{2}?b", "b"), (Words{"b"})) << "a ? behind {n} makes optional";
  EXPECT_EQ(matches("a++b", "aab"), (Words{"aab"}));
}

TEST(Oniguruma, ClassesOfCharacters) {
  EXPECT_EQ(matches("\\h+", "12fg"), (Words{"12f"})) << "h is a hexadecimal digit";
  EXPECT_EQ(matches("\\s", "\xe1\xa0\x8e\xc2\x85"), (Words{"\xc2\x85"})) << "not U+180E";
  EXPECT_EQ(matches("[\\p{L}&&[^\\p{Han}]]+", "a\xe4\xb8\xad" "b"), (Words{"a", "b"}));
  EXPECT_EQ(matches("[a[bc]]+", "abcd"), (Words{"abc"}));
  EXPECT_EQ(matches("[^\\W\\d]+", "a1_"), (Words{"a", "_"}));
  EXPECT_EQ(matches("\\p{^L}", "a1"), (Words{"1"}));
  EXPECT_EQ(matches("[[:punct:]]", "a+\xe2\x82\xac"), (Words{"+", "\xe2\x82\xac"}));
}

TEST(Oniguruma, RecentCharactersWhenTheTextHasThem) {
  // U+31350 (Unicode 15) is a letter and Han.
  EXPECT_EQ(matches("\\p{L}+", "\xf0\xb1\x8d\x90", true).size(), 1u);
  EXPECT_EQ(matches("\\p{Han}+", "\xf0\xb1\x8d\x90", true).size(), 1u);
}

TEST(Oniguruma, EmptyMatchesMoveOn) {
  EXPECT_EQ(matches("x*", "axb"), (Words{"", "x", ""}));
}

TEST(Oniguruma, WhatHasNoEqualIsRefused) {
  for (const char* pattern : {"(?~a)", "\\y", "[a", "\\p{NoSuchThing}", "\\pL", "a\\", "[[:x:]]"}) {
    EXPECT_THROW(matches(pattern, "a"), Error) << pattern;
  }
}

TEST(Oniguruma, RunawayPatternsEnd) {
  std::string text(40, 'a');
  try {
    (void)matches("(a|a)+\\z(?<!a)|(?:a?){30}b(?:(a+)+)+c", std::string(5000, 'a'));
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::limit);
  }
  EXPECT_THROW(matches("(?:a+)+b|(?:(?:a|aa)+)+c", std::string(60, 'a')), Error);
}

}  // namespace
}  // namespace qp
