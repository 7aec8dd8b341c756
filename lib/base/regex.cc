#define PCRE2_CODE_UNIT_WIDTH 8
#include "lib/base/regex.h"

#include <pcre2.h>

#include "lib/base/error.h"

namespace qp {

struct Regex::Code {
  pcre2_code* code = nullptr;
  ~Code() { pcre2_code_free(code); }
};

namespace {
// Steps a match may take: a name is short, so only a runaway pattern gets there.
constexpr uint32_t kMatchLimit = 1'000'000;

bool run(const pcre2_code* code, std::string_view text, uint32_t options) {
  pcre2_match_data* data = pcre2_match_data_create_from_pattern(code, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_set_match_limit(context, kMatchLimit);
  int n = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0, options,
                      data, context);
  pcre2_match_context_free(context);
  pcre2_match_data_free(data);
  return n >= 0;
}
}  // namespace

Regex::Regex(std::string_view pattern) {
  int error = 0;
  PCRE2_SIZE at = 0;
  auto code = std::make_shared<Code>();
  code->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), 0, &error,
                             &at, nullptr);
  if (code->code == nullptr) {
    PCRE2_UCHAR text[256] = {};
    pcre2_get_error_message(error, text, sizeof text);
    throw usage_error("regular expression '" + printable(pattern) + "' is wrong at character " +
                      std::to_string(at) + ": " + reinterpret_cast<const char*>(text));
  }
  code_ = std::move(code);
}

bool Regex::matches_start(std::string_view text) const {
  return run(code_->code, text, PCRE2_ANCHORED);
}
bool Regex::found_in(std::string_view text) const { return run(code_->code, text, 0); }

}  // namespace qp
