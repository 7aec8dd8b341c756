#include "lib/eval/choices.h"

#include <algorithm>

#include "lib/base/error.h"
#include "lib/base/json.h"
#include "lib/eval/statistics.h"

namespace qp {
namespace {

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

ChoiceItem read_item(const Json& line, const std::string& where) {
  auto fail = [&](const std::string& what) {
    return input_error(what).file(where).hint(
        R"(a line is {"context": "..", "choices": ["..", ".."], "answer": 0})");
  };
  if (!line.is_object()) throw fail("is no JSON object");
  ChoiceItem item;
  auto context = line.find("context");
  if (context == line.end()) context = line.find("question");
  if (context == line.end() || !context->is_string()) throw fail("has no text 'context'");
  item.context = context->get<std::string>();
  auto choices = line.find("choices");
  if (choices == line.end() || !choices->is_array() || choices->size() < 2) {
    throw fail("has no list 'choices' of at least two texts");
  }
  for (const Json& c : *choices) {
    if (!c.is_string() || c.get<std::string>().empty()) throw fail("has a choice that is no text");
    item.choices.push_back(c.get<std::string>());
  }
  auto answer = line.find("answer");
  if (answer == line.end() || !answer->is_number_integer() || answer->get<int64_t>() < 0 ||
      answer->get<uint64_t>() >= item.choices.size()) {
    throw fail("has no 'answer' that is an index of its choices");
  }
  item.answer = answer->get<size_t>();
  return item;
}

size_t best_of(const std::vector<double>& values) {
  return static_cast<size_t>(std::ranges::max_element(values) - values.begin());
}

Estimate accuracy(const std::vector<ChoiceScore>& items, size_t ChoiceScore::*picked) {
  uint64_t right = 0;
  for (const ChoiceScore& s : items) right += s.*picked == s.answer ? 1u : 0u;
  return share_of(right, items.size());
}

}  // namespace

std::vector<ChoiceItem> read_choices(std::string_view text, const std::string& path) {
  std::vector<ChoiceItem> items;
  for (size_t number = 1; !text.empty(); ++number) {
    size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (std::ranges::all_of(line, is_space)) continue;
    std::string where = path + ":" + std::to_string(number);
    items.push_back(read_item(parse_json(line, where), where));
  }
  if (items.empty()) throw input_error("has no items").file(path);
  return items;
}

ChoiceTokens cut_choices(const std::vector<ChoiceItem>& items, const Encode& encode, int32_t bos,
                         int32_t stand_in, size_t context_length) {
  ChoiceTokens out;
  size_t rows = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    for (const std::string& choice : items[i].choices) {
      std::string context = items[i].context, rest = choice;
      if (!context.empty() && !is_space(context.back()) && !is_space(rest.front())) rest = " " + rest;
      size_t kept = context.size();
      while (kept > 0 && is_space(context[kept - 1])) --kept;
      rest = context.substr(kept) + rest;
      context.resize(kept);
      std::vector<int32_t> head = encode(context), whole = encode(context + rest);
      if (whole.size() <= head.size()) {
        throw input_error("item " + std::to_string(i) + " has a choice of no tokens: '" +
                          printable(choice) + "'");
      }
      size_t scored = whole.size() - head.size();
      int32_t front = bos >= 0 ? bos : head.empty() ? stand_in : -1;
      if (front >= 0) whole.insert(whole.begin(), front);
      if (whole.size() == scored) {
        throw input_error("item " + std::to_string(i) + " has no context, and the tokenizer no "
                          "token to begin with");
      }
      if (scored > context_length) {
        throw input_error("item " + std::to_string(i) + " has a choice of " +
                          std::to_string(scored) + " tokens (the model reads " +
                          std::to_string(context_length) + ")");
      }
      // The last token is only predicted.
      std::vector<int32_t> window(whole.begin(), whole.end() - 1);
      if (window.size() > context_length) {
        window.erase(window.begin(), window.end() - static_cast<std::ptrdiff_t>(context_length));
      }
      for (size_t k = 0; k < scored; ++k) {
        size_t at = window.size() - scored + k;
        out.scored.push_back({rows + at, static_cast<uint32_t>(out.windows.size()),
                              static_cast<uint32_t>(at + 1), whole[whole.size() - scored + k]});
      }
      rows += window.size();
      out.windows.add(window);
    }
  }
  return out;
}

std::vector<ChoiceScore> score_choices(const std::vector<ChoiceItem>& items,
                                       const ChoiceTokens& tokens, std::span<const double> nll) {
  std::vector<double> sums(tokens.windows.size(), 0.0);
  for (size_t i = 0; i < nll.size(); ++i) sums[tokens.scored[i].window] -= nll[i];
  std::vector<ChoiceScore> out;
  size_t at = 0;
  for (const ChoiceItem& item : items) {
    ChoiceScore s;
    s.answer = item.answer;
    std::vector<double> per_byte;
    for (const std::string& choice : item.choices) {
      s.log_likelihood.push_back(sums[at++]);
      s.bytes.push_back(choice.size());
      per_byte.push_back(s.log_likelihood.back() / static_cast<double>(choice.size()));
    }
    s.picked = best_of(s.log_likelihood);
    s.picked_norm = best_of(per_byte);
    out.push_back(std::move(s));
  }
  return out;
}

Choices summarize(std::vector<ChoiceScore> items, std::vector<ChoiceScore> base_items) {
  Choices c;
  c.accuracy = accuracy(items, &ChoiceScore::picked);
  c.accuracy_norm = accuracy(items, &ChoiceScore::picked_norm);
  if (!base_items.empty()) {
    c.base_accuracy = accuracy(base_items, &ChoiceScore::picked);
    c.base_accuracy_norm = accuracy(base_items, &ChoiceScore::picked_norm);
  }
  c.items = std::move(items);
  c.base_items = std::move(base_items);
  return c;
}

}  // namespace qp
