#include "cmd/tool/text_options.h"

#include <algorithm>
#include <cstdint>

#include "lib/base/error.h"
#include "lib/text/documents.h"
#include "lib/text/tokenizer.h"

namespace qp {

void TextArguments::declare(CLI::App& app, size_t default_n) {
  n = default_n;
  auto group = "Text";
  app.add_option("--text", text, "A file to read: plain text or JSON lines, also .gz and .zst; '-': standard input; repeatable")
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

namespace {

// The tokenizer that travels with a checkpoint. Errors: usage, when there is none.
Tokenizer tokenizer_of(const Store& store) {
  const Companion* json = store.model().companion("tokenizer.json");
  if (json == nullptr) {
    throw usage_error("has no tokenizer.json").file(store.label()).hint(
        "bring token ids with --tokens FILE, or convert the tokenizer with transformers");
  }
  const Companion* config = store.model().companion("tokenizer_config.json");
  return Tokenizer(store.text(json->extent), config == nullptr ? "" : store.text(config->extent),
                   store.label() + ": tokenizer.json");
}

}  // namespace

Windows TextArguments::windows(const Store& store, const arch::Architecture& model, Tool& tool) const {
  if (!text.empty() && !tokens.empty()) throw usage_error("--text and --tokens exclude each other");
  constexpr uint64_t kDefault = 2048;
  WindowOptions options;
  options.seqlen = seqlen > 0 ? seqlen : model.context > 0 ? std::min<uint64_t>(kDefault, model.context) : kDefault;
  options.count = n;
  options.seed = seed;
  options.packed = !per_document;
  if (model.context > 0 && options.seqlen > model.context) {
    throw usage_error("windows of " + std::to_string(options.seqlen) + " tokens are longer than the model's context of " +
                      std::to_string(model.context)).hint("use a smaller --seqlen");
  }
  auto vocab = static_cast<int32_t>(std::min<size_t>(model.vocab, INT32_MAX));
  Windows out;
  if (!tokens.empty()) {
    options.packed = false;  // rows are windows already
    out = token_windows(tokens, vocab, options);
  } else {
    Tokenizer tokenizer = tokenizer_of(store);
    for (const std::string& warning : tokenizer.warnings()) tool.warn(warning);
    std::optional<std::string> member;
    if (!field.empty()) member = field;
    Documents documents(text, member);
    out = text_windows(documents, tokenizer, options);
    auto largest = std::ranges::max_element(out.ids);
    if (largest != out.ids.end() && *largest >= vocab) {
      throw input_error("gives token " + std::to_string(*largest) + ", the model has " + std::to_string(vocab))
          .file(store.label() + ": tokenizer.json")
          .hint("tokenizer and model do not belong together");
    }
  }
  if (n > 0 && out.size() < n) {
    tool.warn("the text gives " + std::to_string(out.size()) + " windows of " + std::to_string(options.seqlen) +
              " tokens (asked for " + std::to_string(n) + ")");
  }
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
