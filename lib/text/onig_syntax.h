// Regular expressions of tokenizer.json are written for Oniguruma; PCRE2 runs them here.
#pragma once

#include <string>
#include <string_view>

namespace qp {

// The PCRE2 pattern (for PCRE2_UTF, PCRE2_UCP, PCRE2_MULTILINE) that matches what Oniguruma's
// `pattern` matches. With `recent`, \p{..} covers the characters of Unicode 15 to 16 too (slower).
// `pattern` is valid UTF-8. Errors: input, for what has no equal here or no end.
std::string from_oniguruma(std::string_view pattern, bool recent);

}  // namespace qp
