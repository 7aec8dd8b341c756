// general.*: what a model's files say of it (reference/gguf.md 9.1).
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>

#include "formats/gguf/plan.h"
#include "lib/base/error.h"
#include "lib/qmap/store.h"

namespace qp {
namespace {

constexpr uint64_t kMaxFile = 1 << 20;

std::string text_of(const Store& store, const char* name) {
  const Companion* c = store.model().companion(name);
  return c == nullptr || c->extent.length > kMaxFile ? "" : store.text(c->extent);
}

// Settings of samplers in generation_config.json.
void describe_sampling(const Store& store, ggml::Metadata& out) {
  std::string text = text_of(store, "generation_config.json");
  if (text.empty()) return;
  Json config = parse_json(text, "generation_config.json");
  struct Row {
    const char *name, *key;
    bool integer;
  };
  constexpr Row kRows[] = {{"top_k", "top_k", true},
                           {"top_p", "top_p", false},
                           {"min_p", "min_p", false},
                           {"xtc_probability", "xtc_probability", false},
                           {"xtc_threshold", "xtc_threshold", false},
                           {"temperature", "temp", false},
                           {"penalty_last_n", "penalty_last_n", true},
                           {"penalty_repeat", "penalty_repeat", false},
                           {"mirostat", "mirostat", true},
                           {"mirostat_tau", "mirostat_tau", false},
                           {"mirostat_eta", "mirostat_eta", false}};
  for (const Row& row : kRows) {
    auto v = ggml::number_in(config, row.name);
    if (!v || !std::isfinite(*v) || std::abs(*v) > 1e9) continue;
    std::string key = "general.sampling." + std::string(row.key);
    if (row.integer) {
      out.set(key, static_cast<int32_t>(*v));
    } else {
      out.set(key, static_cast<float>(*v));
    }
  }
}

// The front matter of a model card: the few lines of YAML that Hugging Face's cards are made of,
// "key: value" and "key:" with "- value" below.
std::map<std::string, std::vector<std::string>> read_card(const std::string& text) {
  std::map<std::string, std::vector<std::string>> card;
  auto trimmed = [](std::string s) {
    size_t a = s.find_first_not_of(" \t\r"), b = s.find_last_not_of(" \t\r");
    s = a == s.npos ? "" : s.substr(a, b - a + 1);
    bool quoted = s.size() >= 2 && (s.front() == '"' || s.front() == '\'') && s.back() == s.front();
    return quoted ? s.substr(1, s.size() - 2) : s;
  };
  if (!text.starts_with("---\n") && !text.starts_with("---\r\n")) return card;
  std::string key;
  for (size_t at = text.find('\n') + 1; at < text.size();) {
    size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    at = end + 1;
    if (trimmed(line) == "---") break;
    std::string inner = trimmed(line);
    if (inner.starts_with("- ") && !key.empty()) {
      card[key].push_back(trimmed(inner.substr(2)));
      continue;
    }
    size_t colon = line.find(':');
    if (colon == line.npos || line.starts_with(' ') || line.starts_with('#')) {
      key.clear();
      continue;
    }
    key = line.substr(0, colon);
    std::string value = trimmed(line.substr(colon + 1));
    if (value.starts_with('[') || value.starts_with('{') || value.starts_with('|') ||
        value.starts_with('>')) {
      key.clear();  // flows and blocks are left out
    } else if (!value.empty()) {
      card[key].push_back(value);
    }
  }
  return card;
}

// "smollm2-135M" as "Smollm2 135M".
std::string title(std::string name) {
  std::ranges::replace(name, '-', ' ');
  std::string out;
  for (size_t at = 0; at < name.size();) {
    size_t end = std::min(name.find(' ', at), name.size());
    std::string word = name.substr(at, end - at);
    at = end + 1;
    if (word.empty()) continue;
    bool lower = std::ranges::none_of(word, [](char c) { return c >= 'A' && c <= 'Z'; });
    bool version = (word[0] >= '0' && word[0] <= '9') ||
                   (word[0] == 'v' && word.size() > 1 &&
                    word.find_first_not_of("0123456789.", 1) == word.npos);
    bool letter = false;
    for (char& c : word) {
      bool small = c >= 'a' && c <= 'z';
      if (lower && !version && small && !letter) c = static_cast<char>(c - 'a' + 'A');
      letter = small || (c >= 'A' && c <= 'Z');
    }
    out += (out.empty() ? "" : " ") + word;
  }
  return out;
}

// --name, the card, config.json's _name_or_path, or the directory the weights lie in.
std::string model_name(const Store& store, const ExportOptions& options,
                       const std::map<std::string, std::vector<std::string>>& card) {
  if (!options.model_name.empty()) return options.model_name;
  for (const char* key : {"name", "model_name"}) {
    if (auto it = card.find(key); it != card.end() && !it->second.empty())
      return it->second.front();
  }
  const Model& m = store.model();
  std::string path = m.config.is_object() ? json_string(m.config, "_name_or_path", "") : "";
  if (!path.empty() && std::ranges::count(path, '/') <= 1 && path[0] != '.' && path[0] != '/') {
    return title(path.substr(path.find('/') + 1));
  }
  for (const FileRef& f : m.files) {
    if (f.path.ends_with(".safetensors"))
      return title(std::filesystem::path(f.path).parent_path().filename());
  }
  return "";
}

// 1234567 as "1.2M".
std::string rounded(double n) {
  constexpr std::pair<double, char> kScales[] = {{1e12, 'T'}, {1e9, 'B'}, {1e6, 'M'}, {0, 'K'}};
  for (auto [above, letter] : kScales) {
    if (n <= above) continue;
    double scaled = n * (letter == 'K' ? 1e-3 : 1 / above);
    char text[64];
    bool one = std::nearbyint(scaled) < 10 && std::nearbyint(scaled) >= 1;
    std::snprintf(text, sizeof text, "%.*f%c",
                  one                          ? 1
                  : std::nearbyint(scaled) < 1 ? 2
                                               : 0,
                  scaled, letter);
    return text;
  }
  return "";
}

// Parameters; with experts, how many, and the parameters that a model of one of them would have.
std::string size_label(const std::vector<GgufOut>& tensors) {
  double shared = 0, one_expert = 0;
  uint64_t experts = 0, stacks = 0;
  for (const GgufOut& t : tensors) {
    const Shape& s = t.entry.shape;
    auto n = static_cast<double>(s.elements().value_or(0));
    size_t from_end = t.entry.name.find(".bias") == std::string::npos ? 3 : 2;
    if (t.entry.name.find("_exps.") == std::string::npos || s.rank() < 3) {
      shared += n;
      continue;
    }
    uint64_t count = std::max<uint64_t>(s[s.rank() - from_end], 1);
    one_expert += std::floor(n / static_cast<double>(count));
    experts += count;
    ++stacks;
  }
  if (stacks == 0) return rounded(shared);
  return std::to_string(experts / stacks) + "x" + rounded(shared + one_expert);
}

void describe_card(const std::map<std::string, std::vector<std::string>>& card,
                   ggml::Metadata& out) {
  for (auto [name, key] :
       {std::pair("license", "general.license"), std::pair("license_name", "general.license.name"),
        std::pair("license_link", "general.license.link")}) {
    auto it = card.find(name);
    if (it == card.end() || it->second.empty()) continue;
    std::string all;
    for (const std::string& v : it->second) all += (all.empty() ? "" : ",") + v;
    out.set(key, std::move(all));
  }
  for (auto [names, key] : {std::pair(std::array{"tags", "pipeline_tag"}, "general.tags"),
                            std::pair(std::array{"languages", "language"}, "general.languages")}) {
    std::vector<std::string> all;
    for (const char* name : names) {
      if (auto it = card.find(name); it != card.end())
        all.insert(all.end(), it->second.begin(), it->second.end());
    }
    if (!all.empty()) out.set(key, std::move(all));
  }
}

}  // namespace

void describe_model(const Store& store, const ExportOptions& options,
                    const std::vector<GgufOut>& tensors, ggml::Metadata& out) {
  auto card = read_card(text_of(store, "README.md"));
  out.set("general.type", std::string("model"));
  describe_sampling(store, out);
  if (std::string name = model_name(store, options, card); !name.empty())
    out.set("general.name", std::move(name));
  out.set("general.size_label", size_label(tensors));
  describe_card(card, out);
}

}  // namespace qp
