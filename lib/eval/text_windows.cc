#include "lib/eval/text_windows.h"

#include <algorithm>

#include "lib/base/error.h"

namespace qp {

std::string_view name_of(PerplexityKind kind) {
  return kind == PerplexityKind::hugging_face ? "hf" : "llama.cpp";
}

TextWindows cut_windows(const std::vector<int32_t>& ids, const CutOptions& o) {
  bool llama = o.kind == PerplexityKind::llama_cpp;
  size_t least = llama ? 4 : 2;
  if (o.length < least) {
    throw usage_error("--seqlen " + std::to_string(o.length) + " is too short (expected at least " +
                      std::to_string(least) + ")");
  }
  size_t stride = o.stride == 0 || llama ? o.length : o.stride;
  if (stride > o.length) {
    throw usage_error("--stride " + std::to_string(stride) + " would leave tokens out (expected at "
                      "most --seqlen, " + std::to_string(o.length) + ")");
  }
  if (ids.size() < o.length) {
    throw input_error("the text has " + std::to_string(ids.size()) +
                      " tokens, fewer than one window (" + std::to_string(o.length) + ")")
        .hint("give more text, or a smaller --seqlen");
  }
  TextWindows out;
  size_t begin = 0, rows = 0, end = 0;
  for (; begin + o.length <= ids.size(); begin += stride) {
    if (o.count > 0 && out.windows.size() == o.count) break;
    auto window = std::span(ids).subspan(begin, o.length);
    out.windows.add(window);
    size_t first = llama ? o.length / 2 + 1 : std::max<size_t>(1, end > begin ? end - begin : 1);
    for (size_t i = first; i < o.length; ++i) {
      out.scored.push_back({rows + i - 1, static_cast<uint32_t>(out.windows.size() - 1),
                            static_cast<uint32_t>(i), window[i]});
    }
    if (llama && o.bos) out.windows.ids[rows] = *o.bos;
    rows += o.length;
    end = begin + o.length;
  }
  out.left_out = ids.size() - end;
  return out;
}

}  // namespace qp
