#include "cmd/tool/text_options.h"

#include <algorithm>

#include "lib/base/error.h"

namespace qp {

void TextArguments::declare(CLI::App& app, size_t default_n) {
  n = default_n;
  auto group = "Text";
  app.add_option("--text", text, "Files to read: plain text or JSON lines, also .gz and .zst; '-': standard input")
      ->type_name("FILE")->group(group);
  app.add_option("--field", field, "The member of each JSON line that holds the text")->type_name("NAME")->group(group);
  app.add_option("--tokens", tokens, "Token ids made elsewhere: .npy, .jsonl, or raw int32")->type_name("FILE")->group(group);
  app.add_option("-n,--windows", n, "Windows of tokens to use (0: all)")->type_name("N")->capture_default_str()->group(group);
  app.add_option("--seqlen", seqlen, "Tokens in a window (0: 2048, or the model's context)")
      ->type_name("N")->capture_default_str()->group(group);
  app.add_option("--seed", seed, "Choose the windows at random instead of the first ones")->type_name("N")->group(group);
  app.add_flag("--per-document", per_document, "A window per document instead of documents end to end")->group(group);
}

bool TextArguments::from_stdin() const {
  return std::ranges::find(text, "-") != text.end() || tokens == "-";
}

Windows TextArguments::windows(const Store&, const arch::Architecture&, Tool&) const {
  Windows out;
  std::string all = read_text_file(tokens, 1 << 30);
  for (size_t at = 0; at < all.size();) {
    size_t end = std::min(all.find('\n', at), all.size());
    out.push_back(parse_json(std::string_view(all).substr(at, end - at), tokens).get<std::vector<int32_t>>());
    at = end + 1;
  }
  if (n > 0 && out.size() > n) out.resize(n);
  return out;
}

Json TextArguments::described() const {
  Json out = {{"n", n}, {"seqlen", seqlen}};
  if (!field.empty()) out["field"] = field;
  if (seed) out["seed"] = *seed;
  if (per_document) out["per_document"] = true;
  return out;
}

}  // namespace qp
