// Which pre-tokenizer of llama.cpp a tokenizer has: known by the ids that it makes of one text.
#include <algorithm>
#include <string>

#include "formats/gguf/tokenizer.h"
#include "formats/gguf/vocabulary.h"
#include "lib/base/sha256.h"

namespace qp {
namespace {

struct Row {
  std::string_view hash, name;
};
constexpr Row kRows[] = {
#include "formats/gguf/pre_hashes.inc"
};

// Spaces, digits, emoji, scripts and contractions: what pre-tokenizers differ in.
constexpr std::string_view kSample =
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n\360\237\232\200 (normal) \360\237"
    "\230\266\342\200\215\360\237\214\253\357\270\217 (multiple emojis concatenated) \342"
    "\234\205 \360\237\246\231\360\237\246\231 3 33 333 3333 33333 333333 3333333 3333"
    "3333 3.3 3..3 3...3 \341\236\200\341\236\266\341\236\223\341\237\213\341\236\217\341"
    "\237\202\341\236\226\341\236\267\341\236\237\341\237\201\341\236\237\341\236\242\341"
    "\236\266\341\236\205\360\237\230\201 ?\346\210\221\346\203\263\345\234\250apple\345"
    "\267\245\344\275\2341314151\345\244\251\357\275\236 ------======= \320\275\320\265"
    "\321\211\320\276 \320\275\320\260 \320\221\321\212\320\273\320\263\320\260\321\200"
    "\321\201\320\272\320\270 ''''''```````\"\"\"\"......!!!!!!?\?\?\?\?\? I've been '"
    "told he's there, 'RE you sure? 'M not sure I'll make it, 'D you like some tea? We"
    "'Ve a'lL";

}  // namespace

std::string pre_tokenizer_hash(const Tokenizer& tokenizer) {
  std::string list = "[";
  for (int32_t id : tokenizer.encode(kSample, true)) {
    list += (list.size() > 1 ? ", " : "") + std::to_string(id);
  }
  return sha256_hex(list + "]");
}

std::string_view pre_tokenizer_named(std::string_view hash) {
  auto it = std::ranges::lower_bound(kRows, hash, {}, &Row::hash);
  return it != std::end(kRows) && it->hash == hash ? it->name : "";
}

std::string_view pre_tokenizer_like(const Json& root) {
  auto member = [](const Json& object, const char* key) {
    auto it = object.is_object() ? object.find(key) : object.end();
    return object.is_object() && it != object.end() ? *it : Json();
  };
  if (!member(root, "normalizer").is_null()) return "";
  Json pre = member(root, "pre_tokenizer"), steps = member(pre, "pretokenizers");
  if (!steps.is_array()) steps = Json::array({pre});
  std::vector<std::string> splits;
  bool bytes = false;
  for (const Json& step : steps) {
    std::string type = step.is_object() ? json_string(step, "type", "") : "";
    if (type == "ByteLevel" && !bytes) {
      bytes = true;
      if (json_bool(step, "add_prefix_space", true)) return "";
      if (json_bool(step, "use_regex", true))
        splits.emplace_back(find_pre_tokenizer("gpt-2")->splits[0]);
    } else if (type == "Split" && !bytes && json_string(step, "behavior", "") == "Isolated" &&
               !json_bool(step, "invert", false)) {
      splits.push_back(json_string(member(step, "pattern"), "Regex", ""));
    } else if (type == "Digits" && !bytes && json_bool(step, "individual_digits", false)) {
      splits.emplace_back("\\p{N}");
    } else {
      return "";
    }
  }
  bool whole = json_bool(member(root, "model"), "ignore_merges", false);
  for (std::string_view name :
       {"gpt-2", "llama-bpe", "qwen2", "smaug-bpe", "smollm", "deepseek-v3", "deepseek-coder",
        "gpt-4o", "tekken", "falcon", "bloom", "qwen35", "default"}) {
    const PreTokenizer* known = find_pre_tokenizer(name);
    if (bytes && known->ignore_merges == whole && std::ranges::equal(known->splits, splits))
      return name;
  }
  return "";
}

}  // namespace qp
