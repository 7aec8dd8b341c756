// Token windows whose perplexity is measured, and which of their tokens count.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "lib/stream/stream.h"

namespace qp {

// Two definitions of the perplexity of a text.
// hugging_face: windows of `length` tokens, one every `stride`; a token counts in the first window
// that has it, if anything stands before it there. With stride = length every window begins anew.
// llama_cpp: windows one after the other, their first token replaced by `bos` when there is one;
// tokens count from length / 2 + 1 on.
enum class PerplexityKind { hugging_face, llama_cpp };
std::string_view name_of(PerplexityKind kind);  // "hf", "llama.cpp"

struct CutOptions {
  PerplexityKind kind = PerplexityKind::hugging_face;
  size_t length = 2048, stride = 0;  // stride 0: length
  size_t count = 0;                  // windows at most; 0: all
  std::optional<int32_t> bos;
};

// A token that is scored: row `row - 1` of all windows' rows predicts it.
struct ScoredToken {
  size_t row;       // of the prediction, counted over all windows
  uint32_t window, position;  // of the token itself
  int32_t token;
};

struct TextWindows {
  Windows windows;
  std::vector<ScoredToken> scored;  // in order of rows
  size_t left_out = 0;              // tokens at the end that fill no window
};

// Cuts a text. Errors: usage (a window of fewer than 2 tokens, a stride beyond the length); input
// (the text is empty or shorter than a window).
TextWindows cut_windows(const std::vector<int32_t>& ids, const CutOptions& options);

}  // namespace qp
