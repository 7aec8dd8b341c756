// UTF-8: decoding of text known to be valid, and the one meaning of text that is not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace qp {

// Bytes of the character that starts with `lead` in valid UTF-8.
inline size_t utf8_length(char lead) {
  auto u = static_cast<unsigned char>(lead);
  if (u < 0x80) return 1;
  if (u < 0xe0) return 2;
  return u < 0xf0 ? 3 : 4;
}

// The character at `p` of valid UTF-8; moves `p` behind it.
inline char32_t next_utf8(const char*& p) {
  auto byte = [&](int i) { return static_cast<char32_t>(static_cast<unsigned char>(p[i])); };
  char32_t c = byte(0);
  if (c < 0x80) {
    p += 1;
  } else if (c < 0xe0) {
    c = (c & 0x1f) << 6 | (byte(1) & 0x3f);
    p += 2;
  } else if (c < 0xf0) {
    c = (c & 0x0f) << 12 | (byte(1) & 0x3f) << 6 | (byte(2) & 0x3f);
    p += 3;
  } else {
    c = (c & 0x07) << 18 | (byte(1) & 0x3f) << 12 | (byte(2) & 0x3f) << 6 | (byte(3) & 0x3f);
    p += 4;
  }
  return c;
}
inline char32_t char_at(std::string_view text, size_t at) {
  const char* p = text.data() + at;
  return next_utf8(p);
}
// Where the character before `at` (> 0) begins, in valid UTF-8.
inline size_t previous_char(std::string_view text, size_t at) {
  do {
    --at;
  } while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80);
  return at;
}

// `c` is a Unicode scalar value.
void append_utf8(std::string& out, char32_t c);
std::string to_utf8(char32_t c);

size_t count_chars(std::string_view text);

// Whether `text` is valid UTF-8 (no surrogates, no overlong forms, nothing above U+10FFFF).
bool is_utf8(std::string_view text);
// Each maximal part of `text` that begins a character but is none, and each other stray byte,
// becomes U+FFFD: what Python's decode(errors="replace") and the Unicode Standard (3.9,
// "substitution of maximal subparts") do.
std::string replace_invalid_utf8(std::string_view text);

}  // namespace qp
