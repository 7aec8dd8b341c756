// Properties and normal forms of characters, as the reference tokenizer sees them. Its parts were
// built from different versions of Unicode; which one is said per function. Data: ICU, whose "age"
// of a character tells the version that brought it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace qp {

// Property White_Space: what is trimmed, split at, and \s.
bool is_white_space(char32_t c);
// \w: alphabetic, mark, decimal digit, connector punctuation, joiner.
bool is_word(char32_t c);
// General category N.
bool is_number(char32_t c);
// ASCII punctuation and category P of Unicode 8.
bool is_punctuation(char32_t c);
// Category Mn, M, and Cc + Cf + Co, of Unicode 8.
bool is_nonspacing_mark(char32_t c);
bool is_mark(char32_t c);
bool is_other(char32_t c);
// Full lower-case mapping of one character, without context.
void append_lower(std::string& out, char32_t c);

enum class NormalForm { nfc, nfd, nfkc, nfkd };
// Normal form by the tables of Unicode 9: characters that came later stay as they are. Takes
// O(n log n) on any text. `text` is valid UTF-8.
std::string normalize(std::string_view text, NormalForm form);

// Ends (byte offsets, ascending, the last is text.size()) of the extended grapheme clusters.
std::vector<size_t> grapheme_ends(std::string_view text);

// A character that came with Unicode 15 to 16: the regular-expression library may not know it,
// the reference's does.
bool is_recent(char32_t c);
// Those of general category `category` ("L", "Lu", ..) or script "Han" as the inside of a regular
// expression's [class]; empty when there are none.
std::string recent_members(std::string_view category);

}  // namespace qp
