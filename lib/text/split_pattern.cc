#define PCRE2_CODE_UNIT_WIDTH 8
#include "lib/text/split_pattern.h"

#include <pcre2.h>

#include <algorithm>

#include "lib/base/error.h"
#include "lib/text/onig_syntax.h"
#include "lib/text/utf8.h"

namespace qp {
namespace {
// Backtracking over a long run of groups needs memory; it is reserved, not used, until then.
constexpr size_t kFirstStack = 32 << 10, kMaxStack = 256u << 20;
// Steps of one match: enough for a run over a whole long line, too few for exponential blow-up.
constexpr uint64_t kBaseSteps = 10'000'000, kStepsPerByte = 64;

std::string error_text(int code) {
  PCRE2_UCHAR text[256] = {};
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

struct Compiled {
  pcre2_code* code = nullptr;
  bool jit = false;

  Compiled() = default;
  Compiled(const Compiled&) = delete;
  Compiled& operator=(const Compiled&) = delete;
  ~Compiled() { pcre2_code_free(code); }

  void compile(std::string_view original, bool recent) {
    std::string pattern = from_oniguruma(original, recent);
    pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int error = 0;
    PCRE2_SIZE at = 0;
    code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                         PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                         &at, context);
    pcre2_compile_context_free(context);
    if (code == nullptr) {
      throw input_error("regular expression '" + printable(original) +
                        "' cannot be used: " + error_text(error));
    }
    jit = pcre2_jit_compile(code, PCRE2_JIT_COMPLETE) == 0;
  }
};
}  // namespace

struct MatchScratch::State {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(kFirstStack, kMaxStack, nullptr);
  uint32_t steps = 0;

  State() {
    if (stack != nullptr) pcre2_jit_stack_assign(context, nullptr, stack);
    pcre2_set_heap_limit(context, kMaxStack >> 10);
  }
  ~State() {
    pcre2_jit_stack_free(stack);
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
  }
};
MatchScratch::MatchScratch() : state_(std::make_unique<State>()) {}
MatchScratch::~MatchScratch() = default;

struct SplitPattern::Code {
  std::string original;
  Compiled plain, recent;
};

SplitPattern SplitPattern::regex(std::string_view pattern) {
  if (!is_utf8(pattern)) throw input_error("regular expression is not UTF-8");
  auto code = std::make_shared<Code>();
  code->original = pattern;
  code->plain.compile(pattern, false);
  code->recent.compile(pattern, true);
  SplitPattern p;
  p.code_ = std::move(code);
  return p;
}

SplitPattern SplitPattern::literal(std::string_view text) {
  if (text.empty()) return regex("");
  SplitPattern p;
  p.literal_ = text;
  return p;
}

bool SplitPattern::next(std::string_view text, size_t from, bool recent, MatchScratch& scratch,
                        Match& match) const {
  if (code_ == nullptr) {
    size_t at = text.find(literal_, from);
    if (at == std::string_view::npos) return false;
    match = {at, at + literal_.size()};
    return true;
  }
  const Compiled& compiled = recent ? code_->recent : code_->plain;
  MatchScratch::State& s = *scratch.state_;
  uint64_t steps = std::min<uint64_t>(kBaseSteps + kStepsPerByte * text.size(), UINT32_MAX);
  if (static_cast<uint32_t>(steps) != s.steps) {
    s.steps = static_cast<uint32_t>(steps);
    pcre2_set_match_limit(s.context, s.steps);
  }
  auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  int n = compiled.jit ? pcre2_jit_match(compiled.code, subject, text.size(), from,
                                         PCRE2_NO_UTF_CHECK, s.data, s.context)
                       : pcre2_match(compiled.code, subject, text.size(), from, PCRE2_NO_UTF_CHECK,
                                     s.data, s.context);
  if (n == PCRE2_ERROR_NOMATCH) return false;
  if (n < 0) {
    throw limit_error("regular expression '" + printable(code_->original) + "' gives up on " +
                      std::to_string(text.size()) + " bytes of text: " + error_text(n))
        .hint("split the text into shorter lines or documents");
  }
  const PCRE2_SIZE* at = pcre2_get_ovector_pointer(s.data);
  match = {at[0], at[1]};
  return match.begin <= match.end;  // \K in a lookahead can turn them round
}

void SplitPattern::each(std::string_view text, bool recent, MatchScratch& scratch,
                        const Found& found) const {
  size_t from = 0, last_end = std::string_view::npos;
  Match m{};
  while (from <= text.size() && next(text, from, recent, scratch, m)) {
    if (m.begin == m.end && m.begin == last_end) {
      if (from >= text.size()) return;
      from += utf8_length(text[from]);
      continue;
    }
    found(m.begin, m.end);
    from = last_end = m.end;
  }
}

}  // namespace qp
