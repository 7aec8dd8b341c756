#include "lib/calibration/observer.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "lib/base/error.h"
#include "lib/calibration/collector.h"
#include "lib/tensor/minifloat.h"

namespace qp {
namespace {

struct Name {
  std::string_view name;
  Observer::Kind kind;
};
constexpr std::array<Name, 4> kNames = {{{"max", Observer::Kind::max},
                                         {"percentile", Observer::Kind::percentile},
                                         {"mse", Observer::Kind::mse},
                                         {"delayed", Observer::Kind::delayed}}};

// Lower edge of a bin (collector.h): the f32 whose upper bits it is.
float edge(size_t bin) { return std::bit_cast<float>(static_cast<uint32_t>(bin) << 17); }
double middle(size_t bin) {
  return (static_cast<double>(edge(bin)) + static_cast<double>(edge(bin + 1))) / 2;
}

float largest(const InputSums& s) {
  return s.history.empty() ? 0 : *std::ranges::max_element(s.history);
}

float percentile(const InputSums& s, double percent) {
  uint64_t total = 0, seen = 0;
  for (uint64_t n : s.bins) total += n;
  double want = static_cast<double>(total) * percent / 100;
  for (size_t b = 0; b < s.bins.size(); ++b) {
    seen += s.bins[b];
    if (s.bins[b] == 0 || static_cast<double>(seen) < want) continue;
    return b == 0 ? largest(s) : std::min(edge(b + 1), largest(s));  // mostly zeros have no range
  }
  return largest(s);
}

// x rounded to the grid whose largest value stands for `amax`.
double rounded(double x, double amax, bool fp8) {
  if (fp8) {
    double scale = amax / 448;
    return static_cast<double>(e4m3_to_f32(f32_to_e4m3(static_cast<float>(std::min(x, amax) / scale)))) * scale;
  }
  double scale = amax / 127;
  return std::min(std::nearbyint(x / scale), 127.0) * scale;
}

float least_error(const InputSums& s, bool fp8) {
  size_t first = 0, last = s.bins.size();
  while (first < last && s.bins[first] == 0) ++first;
  while (last > first && s.bins[last - 1] == 0) --last;
  float top = largest(s), best = top;
  double least = INFINITY;
  // Ranges from 1/64 of the largest number up; below that everything is clipped away.
  size_t lowest = last > 6 * 64 ? last - 6 * 64 : 0;
  for (size_t at = std::max(first, lowest); at < last; ++at) {
    double amax = at + 1 == last ? static_cast<double>(top) : middle(at), error = 0;
    if (!(amax > 0)) continue;
    for (size_t b = first; b < last; ++b) {
      if (s.bins[b] == 0) continue;
      double d = middle(b) - rounded(middle(b), amax, fp8);
      error += d * d * static_cast<double>(s.bins[b]);
    }
    if (error < least) least = error, best = static_cast<float>(amax);
  }
  return best;
}

}  // namespace

Observer::Kind observer_from_name(std::string_view name) {
  std::array<std::string_view, kNames.size()> known;
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i].name == name) return kNames[i].kind;
    known[i] = kNames[i].name;
  }
  throw usage_error("unknown observer '" + printable(name) + "' (expected max, percentile, mse or delayed)")
      .hint(did_you_mean(name, known));
}

std::string_view name_of(Observer::Kind kind) {
  for (const Name& n : kNames) {
    if (n.kind == kind) return n.name;
  }
  return "";
}

Json to_json(const Observer& o) {
  Json out = {{"name", name_of(o.kind)}};
  if (o.kind == Observer::Kind::percentile) out["percent"] = o.percent;
  if (o.kind == Observer::Kind::mse) out["dtype"] = o.dtype;
  if (o.kind == Observer::Kind::delayed) out["history"] = o.history, out["margin"] = o.margin;
  return out;
}

Observer observer_from_json(const Json& j) {
  Observer o;
  o.kind = observer_from_name(json_string(j, "name", "max"));
  if (auto it = j.find("percent"); it != j.end() && it->is_number()) o.percent = it->get<double>();
  o.dtype = json_string(j, "dtype", o.dtype);
  o.history = static_cast<int>(json_int(j, "history", o.history));
  o.margin = static_cast<int>(json_int(j, "margin", o.margin));
  return o;
}

bool needs_histogram(const Observer& o) {
  return o.kind == Observer::Kind::percentile || o.kind == Observer::Kind::mse;
}

float observe(const InputSums& s, const Observer& o) {
  if (s.rows == 0) return 0;
  switch (o.kind) {
    case Observer::Kind::max: return largest(s);
    case Observer::Kind::percentile: return percentile(s, o.percent);
    case Observer::Kind::mse: return least_error(s, o.dtype == "fp8");
    case Observer::Kind::delayed: break;
  }
  size_t n = std::min(s.history.size(), static_cast<size_t>(std::max(1, o.history)));
  float top = *std::max_element(s.history.end() - static_cast<std::ptrdiff_t>(n), s.history.end());
  return std::ldexp(top, o.margin);
}

}  // namespace qp
