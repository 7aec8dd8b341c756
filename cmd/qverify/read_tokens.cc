#include "cmd/qverify/read_tokens.h"

#include <limits>

#include "lib/base/error.h"
#include "lib/text/windows.h"

namespace qp {

std::string read_texts(const std::vector<std::string>& paths, const std::optional<std::string>& field) {
  Documents documents(paths, field);
  std::string text;
  Document d;
  while (documents.next(d)) {
    if (d.begins && !text.empty()) text += "\n\n";
    text += d.text;
  }
  if (text.empty()) throw input_error("holds no text").file(paths.front());
  return text;
}

std::vector<int32_t> read_token_file(const std::string& path) {
  WindowOptions one;
  one.seqlen = 1;  // windows of one token: the stream itself
  return token_windows(path, std::numeric_limits<int32_t>::max(), one).ids;
}

std::string read_whole(const std::string& path) {
  ByteSource source(path);
  std::string text;
  char buffer[64 << 10];
  while (size_t n = source.read(buffer)) text.append(buffer, n);
  return text;
}

}  // namespace qp
