// tokenizer.*: the tokens, which of them are special, when they are put around a text, and the chat
// templates (reference/gguf.md 10.1 and 10.5).
#include <algorithm>
#include <array>

#include "formats/gguf/plan.h"
#include "formats/gguf/tokenizer.h"
#include "formats/gguf/vocabulary.h"
#include "lib/base/error.h"
#include "lib/qmap/store.h"

namespace qp {
namespace {

struct Special {
  const char *name, *key;  // "bos"; "unknown" as llama.cpp spells it
};
constexpr Special kSpecials[] = {{"bos", "bos"},       {"eos", "eos"},     {"unk", "unknown"},
                                 {"sep", "seperator"}, {"pad", "padding"}, {"cls", "cls"},
                                 {"mask", "mask"},     {"eot", "eot"},     {"eom", "eom"}};
constexpr size_t kInConfigJson = 7;  // as many of them config.json may name

std::string token_text(const Json& config, const std::string& name) {
  auto it = config.is_object() ? config.find(name) : config.end();
  if (!config.is_object() || it == config.end()) return "";
  if (it->is_string()) return it->get<std::string>();
  return it->is_object() ? json_string(*it, "content", "") : "";
}

// What tokenizer_config.json says, filled up by what the post-processor shows.
struct Around {
  std::map<std::string, std::string> text;  // "bos": "<s>"
  std::map<std::string, bool> added;        // "bos": put in front of every text
};

std::string special_at(const Json& list, bool front) {
  if (!list.is_array() || list.size() < 2) return "";
  const Json& item = front ? list.front() : list.back();
  auto it = item.is_object() ? item.find("SpecialToken") : item.end();
  return item.is_object() && it != item.end() && it->is_object() ? json_string(*it, "id", "") : "";
}

// TemplateProcessing: the special tokens at the ends of `single`, and those between the texts of
// `pair`, which are separators.
void read_template(const Json& processor, Around& a) {
  auto member = [&](const char* key) {
    auto it = processor.find(key);
    return it == processor.end() || !it->is_array() ? Json::array() : *it;
  };
  Json single = member("single"), pair = member("pair");
  std::string first = special_at(single, true), last = special_at(single, false);
  if (!first.empty()) {
    if (a.text["bos"].empty()) a.text["bos"] = first;
    if (a.text["cls"].empty() && first != a.text["bos"]) a.text["cls"] = first;
    a.added["bos"] = first == a.text["bos"] || first == a.text["cls"];
  }
  if (!last.empty()) {
    if (last != a.text["eos"]) {
      if (!a.text["eos"].empty()) a.text[a.text.contains("eot") ? "eom" : "eot"] = a.text["eos"];
      a.text["eos"] = last;
    }
    a.added["eos"] = true;
  }
  if (pair.empty()) return;
  size_t begin = !first.empty() && special_at(pair, true) == first ? 1 : 0;
  size_t end = pair.size() - (!last.empty() && special_at(pair, false) == last ? 1 : 0);
  if (end < begin + 3) return;  // nothing between the texts
  bool separates = false;
  for (size_t i = begin + 1; i + 1 < end; ++i) {
    const Json& item = pair[i];
    auto it = item.is_object() ? item.find("SpecialToken") : item.end();
    if (!item.is_object() || it == item.end() || !it->is_object()) continue;
    std::string id = json_string(*it, "id", "");
    bool known = id == a.text["sep"] || id == a.text["eos"];
    separates = separates || (known && (i > begin + 1 || last.empty()));
  }
  a.added["sep"] = separates;
  if (separates && a.text["sep"].empty()) a.text["sep"] = a.text["eos"];
}

void read_processors(const Json& root, Around& a) {
  auto it = root.find("post_processor");
  if (it == root.end() || !it->is_object()) return;
  auto list = it->find("processors");
  Json all = list != it->end() && list->is_array() ? *list : Json::array({*it});
  for (const Json& p : all) {
    if (!p.is_object()) continue;
    std::string type = json_string(p, "type", "");
    if (type == "RobertaProcessing") {
      for (const char* name : {"bos", "eos", "sep"}) a.added[name] = true;
    }
    if (type == "TemplateProcessing") read_template(p, a);
  }
}

Around read_around(const TokenizerFiles& files) {
  Around a;
  for (const Special& s : kSpecials) {
    std::string text = token_text(files.config, std::string(s.name) + "_token");
    if (!text.empty()) a.text[s.name] = text;
  }
  if (!files.json) return a;
  if (a.text["bos"].empty() && !a.text["cls"].empty()) a.text["bos"] = a.text["cls"];
  if (a.text["eos"].empty() && !a.text["sep"].empty()) a.text["eos"] = a.text["sep"];
  read_processors(files.json->root, a);
  return a;
}

// The id that tokenizer.json's added tokens give a text; -1: none.
int64_t added_id(const TokenizerFiles& files, const std::string& text) {
  if (text.empty() || !files.json) return -1;
  auto list = files.json->root.find("added_tokens");
  if (list == files.json->root.end() || !list->is_array()) return -1;
  for (const Json& entry : *list) {
    if (entry.is_object() && json_string(entry, "content", "") == text)
      return json_int(entry, "id", -1);
  }
  return -1;
}

void describe_specials(const TokenizerFiles& files, const ggml::Config& config, uint64_t vocabulary,
                       ggml::Metadata& out) {
  Around a = read_around(files);
  for (size_t i = 0; i < std::size(kSpecials); ++i) {
    const Special& s = kSpecials[i];
    int64_t id = added_id(files, a.text[s.name]);
    std::string beside = std::string(s.name) + "_token_id";
    const Json* said = i < kInConfigJson ? config.find(beside) : nullptr;
    if (id < 0 && said != nullptr && said->is_number_integer()) id = said->get<int64_t>();
    if (id < 0 || static_cast<uint64_t>(id) >= vocabulary) continue;
    out.set("tokenizer.ggml." + std::string(s.key) + "_token_id", static_cast<uint32_t>(id));
  }
  for (const Special& s : kSpecials) {
    std::string key = "add_" + std::string(s.name) + "_token";
    std::optional<bool> flag;
    if (auto it = a.added.find(s.name); it != a.added.end()) flag = it->second;
    if (files.config.is_object() && files.config.contains(key) && files.config[key].is_boolean()) {
      flag = files.config[key].get<bool>();
    }
    bool known = std::string_view(s.name) == "bos" || std::string_view(s.name) == "eos" ||
                 std::string_view(s.name) == "sep";
    if (flag && known) out.set("tokenizer.ggml." + key, *flag);
  }
}

// One template, or several with names.
void describe_templates(const Json& value, ggml::Metadata& out) {
  if (value.is_string()) return out.set("tokenizer.chat_template", value.get<std::string>());
  if (!value.is_array()) return;
  std::vector<std::string> names;
  for (const Json& entry : value) {
    if (!entry.is_object() || !entry.contains("template") || !entry["template"].is_string())
      continue;
    std::string name = json_string(entry, "name", ""), text = entry["template"].get<std::string>();
    std::ranges::replace_if(
        name, [](char c) { return !isalnum(static_cast<unsigned char>(c)) || (c & 0x80) != 0; },
        '_');
    if (name == "default") {
      out.set("tokenizer.chat_template", text);
    } else if (!name.empty()) {
      out.set("tokenizer.chat_template." + name, text);
      if (std::ranges::find(names, name) == names.end()) names.push_back(name);
    }
  }
  if (!names.empty()) out.set("tokenizer.chat_templates", std::move(names));
}

void describe_chat(const Store& store, const TokenizerFiles& files, ggml::Metadata& out) {
  auto text = [&](const char* name) {
    const Companion* c = store.model().companion(name);
    return c == nullptr || c->extent.length > (1 << 24) ? std::string() : store.text(c->extent);
  };
  if (files.config.is_object() && files.config.contains("chat_template")) {
    return describe_templates(files.config["chat_template"], out);
  }
  if (std::string jinja = text("chat_template.jinja"); !jinja.empty()) {
    return describe_templates(Json(jinja), out);
  }
  std::string json = text("chat_template.json");
  if (json.empty()) return;
  Json parsed = parse_json(json, "chat_template.json");
  if (parsed.is_object() && parsed.contains("chat_template")) {
    describe_templates(parsed["chat_template"], out);
  }
}

}  // namespace

void describe_tokenizer(const Store& store, const ExportOptions& options, uint64_t vocabulary,
                        ggml::Metadata& out) {
  const Model& m = store.model();
  TokenizerFiles files = read_tokenizer_files(store);
  auto tokens = gguf_tokens(files, vocabulary, options.pre_tokenizer);
  ggml::Config config(m.config);
  if (!tokens) {
    options.warn("there is no tokenizer.json or tokenizer.model: the GGUF will have no vocabulary");
    out.set("tokenizer.ggml.model", std::string("no_vocab"));
    out.count("vocab_size", vocabulary);
    return;
  }
  out.set("tokenizer.ggml.model", tokens->model);
  out.set("tokenizer.ggml.pre", tokens->pre);
  out.set("tokenizer.ggml.tokens", std::move(tokens->text));
  if (!tokens->scores.empty()) out.set("tokenizer.ggml.scores", std::move(tokens->scores));
  out.set("tokenizer.ggml.token_type", std::move(tokens->types));
  if (!tokens->merges.empty()) out.set("tokenizer.ggml.merges", std::move(tokens->merges));
  describe_specials(files, config, vocabulary, out);
  const PreTokenizer* pre = find_pre_tokenizer(tokens->pre);
  bool silent = out.find("tokenizer.ggml.add_bos_token") == nullptr;
  // llama.cpp would put a BOS in front of every text of some pre-tokenizers.
  if (tokens->model == "gpt2" && pre != nullptr && pre->add_bos && silent) {
    out.set("tokenizer.ggml.add_bos_token", false);
  }
  if (files.config.is_object() && files.config.contains("add_prefix_space") &&
      files.config["add_prefix_space"].is_boolean()) {
    out.set("tokenizer.ggml.add_space_prefix", files.config["add_prefix_space"].get<bool>());
  }
  const ggml::Family& family = ggml::family_of(m);
  if (family.adjust_tokenizer != nullptr) family.adjust_tokenizer(config, out);
  describe_chat(store, files, out);
}

}  // namespace qp
