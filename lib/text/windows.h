// Token windows: what calibration and evaluation feed to a model.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "lib/text/documents.h"
#include "lib/text/tokenizer.h"

namespace qp {

struct WindowOptions {
  uint64_t seqlen = 2048;
  // How many windows; 0: all there are.
  uint64_t count = 0;
  // With a seed `count` windows are drawn from all (reservoir sampling: all text is read, `count`
  // windows are held), without one the first are taken and no more text is read than they need.
  // They come in the order of the text either way.
  std::optional<uint64_t> seed;
  // Packed: the documents are one stream of tokens (each with the special tokens around it) that
  // is cut every seqlen tokens; what is left at the end is dropped. This is what AutoAWQ does, and
  // GPTQ's scripts do with wikitext. Otherwise each document is a window, cut after seqlen tokens;
  // a shorter one stays as it is, an empty one does not count. This is what llm-compressor does.
  bool packed = true;
};

// Windows one after the other; packed ones have seqlen tokens, others 1 to seqlen.
struct Windows {
  std::vector<int32_t> ids;
  std::vector<uint64_t> offsets{0};  // size() + 1 of them
  uint64_t available = 0;            // windows seen: all of them with a seed or count 0

  size_t size() const { return offsets.size() - 1; }
  size_t tokens() const { return ids.size(); }
  void add(std::span<const int32_t> window) {
    ids.insert(ids.end(), window.begin(), window.end());
    offsets.push_back(ids.size());
  }
  std::span<const int32_t> operator[](size_t i) const {
    return std::span(ids).subspan(offsets[i], offsets[i + 1] - offsets[i]);
  }
};

// Errors: usage, a seqlen of 0; input, text that has no window's worth of tokens; what Documents
// and Tokenizer throw. Fewer than `count` windows are no error here: compare size().
Windows text_windows(Documents& documents, const Tokenizer& tokenizer, const WindowOptions& options);

// Ids from elsewhere: .npy (int32, int64, uint16 or uint32, C order), .jsonl or .json (arrays of
// ids, or objects with "input_ids"), any other name: little-endian int32. gzip and zstd as above.
// A row of a 2-D .npy and a line of JSON is a window, cut after seqlen tokens; a 1-D .npy and raw
// ids are cut into windows of seqlen, the rest dropped. `packed` makes one stream of rows, too.
// Errors: as above; input, an id that is negative or not below `vocab_size`, naming where it is.
Windows token_windows(const std::string& path, int32_t vocab_size, const WindowOptions& options);

}  // namespace qp
