#include "lib/target/match.h"

#include <algorithm>

#include "lib/base/error.h"

namespace qp::target {
namespace {

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  return out;
}

// A glob as a regular expression over the whole name: '*' is anything, all else is itself.
std::string glob_regex(std::string_view glob) {
  std::string out;
  for (char c : glob) {
    if (c == '*') {
      out += ".*";
    } else {
      if (std::string_view("\\.^$|()[]{}+?").find(c) != std::string_view::npos) out += '\\';
      out += c;
    }
  }
  return out + "$";
}

// Calls `visit` with every run of whole components of a dotted name until it returns true.
template <class Visit>
bool any_run(std::string_view name, Visit visit) {
  for (size_t from = 0; from <= name.size(); ++from) {
    if (from > 0 && name[from - 1] != '.') continue;
    for (size_t to = from; to <= name.size(); ++to) {
      bool end = to == name.size() || name[to] == '.';
      if (end && to > from && visit(name.substr(from, to - from))) return true;
    }
  }
  return false;
}

template <class Visit>
bool any_component(std::string_view name, Visit visit) {
  while (true) {
    auto dot = name.find('.');
    if (visit(name.substr(0, dot))) return true;
    if (dot == std::string_view::npos) return false;
    name.remove_prefix(dot + 1);
  }
}

bool has_regexes(Dialect d) {
  return d == Dialect::name_or_regex || d == Dialect::path_suffix || d == Dialect::substring_nocase;
}
bool has_globs(Dialect d) { return d == Dialect::modelopt_vllm || d == Dialect::modelopt_sglang; }
bool searches(Dialect d) {
  return d == Dialect::substring || d == Dialect::prefix || d == Dialect::modelopt_vllm ||
         d == Dialect::substring_nocase;
}

// vLLM cuts the end of "x*" and "x.*" before it looks for the rest anywhere.
std::string cut_star(std::string text) {
  if (text.ends_with('*')) text.pop_back();
  if (text.ends_with('.')) text.pop_back();
  return text;
}

}  // namespace

std::string_view name_of(Dialect d) {
  switch (d) {
    case Dialect::name_or_regex: return "equal, or re: from the start";
    case Dialect::path_suffix: return "equal, re: from the start, or the dotted end of the path";
    case Dialect::exact: return "equal";
    case Dialect::sub_path: return "whole components anywhere";
    case Dialect::substring: return "contained anywhere";
    case Dialect::components: return "whole components anywhere";
    case Dialect::regex_start: return "regular expression from the start";
    case Dialect::prefix: return "the name begins with it";
    case Dialect::modelopt_vllm: return "equal, contained, or a glob";
    case Dialect::modelopt_sglang: return "whole components, or a glob";
    case Dialect::substring_nocase: return "contained, whatever the case, or re:";
  }
  return "";
}

NameList::NameList(Dialect dialect, std::vector<std::string> entries)
    : dialect_(dialect), entries_(std::move(entries)) {
  for (const std::string& entry : entries_) {
    try {
      if (dialect == Dialect::regex_start) {
        patterns_.emplace_back(entry);
      } else if (has_regexes(dialect) && entry.starts_with("re:")) {
        patterns_.emplace_back(entry.substr(3));
      } else if (has_globs(dialect) && entry.find('*') != std::string::npos) {
        patterns_.emplace_back(glob_regex(entry));
        if (dialect == Dialect::modelopt_vllm) texts_.push_back(cut_star(entry));
      } else if (searches(dialect)) {
        texts_.push_back(dialect == Dialect::substring_nocase ? lower(entry) : entry);
      } else {
        names_.insert(entry);
        // SGLang's fp8 takes "model.x" and "x" for the same.
        if (dialect == Dialect::sub_path && entry.starts_with("model."))
          names_.insert(entry.substr(6));
      }
    } catch (const Error&) {
      bad_.push_back(entry);
    }
  }
}

bool NameList::covers_plain(std::string_view module) const {
  auto has = [&](std::string_view text) { return names_.contains(std::string(text)); };
  auto contained = [&](std::string_view where) {
    return std::ranges::any_of(texts_,
                               [&](const std::string& t) { return where.find(t) != where.npos; });
  };
  switch (dialect_) {
    case Dialect::name_or_regex:
    case Dialect::exact: return has(module);
    case Dialect::path_suffix:
      while (!has(module)) {
        auto dot = module.find('.');
        if (dot == module.npos) return false;
        module.remove_prefix(dot + 1);
      }
      return true;
    case Dialect::sub_path:
    case Dialect::components:
    case Dialect::modelopt_sglang: return !names_.empty() && any_run(module, has);
    case Dialect::prefix:
      return std::ranges::any_of(texts_,
                                 [&](const std::string& t) { return module.starts_with(t); });
    case Dialect::substring:
    case Dialect::modelopt_vllm: return contained(module);
    case Dialect::substring_nocase: return contained(lower(module));
    case Dialect::regex_start: break;
  }
  return false;
}

bool NameList::covers(std::string_view module) const {
  if (dialect_ == Dialect::modelopt_sglang && module.starts_with("language_model.")) {
    module.remove_prefix(15);  // SGLang does not look at it
  }
  if (covers_plain(module)) return true;
  for (const Regex& p : patterns_) {
    if (p.matches_start(module)) return true;
    bool by_part = dialect_ == Dialect::modelopt_sglang;
    if (by_part && any_component(module, [&](std::string_view c) { return p.matches_start(c); }))
      return true;
  }
  return false;
}

std::vector<std::string> strings_of(const Json& list) {
  std::vector<std::string> out;
  if (!list.is_array()) return out;
  for (const Json& entry : list) {
    if (entry.is_string()) out.push_back(entry.get<std::string>());
  }
  return out;
}

}  // namespace qp::target
