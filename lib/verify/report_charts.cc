#include "lib/verify/report_charts.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <map>
#include <numeric>

#include "lib/verify/svg.h"

namespace qp {

using namespace svg;

namespace {

std::string size_text(double bytes) {
  static constexpr std::array<const char*, 5> kUnits = {"B", "kB", "MB", "GB", "TB"};
  size_t unit = 0;
  while (bytes >= 1000 && unit + 1 < kUnits.size()) bytes /= 1000, ++unit;
  return fixed(bytes, unit == 0 ? 0 : 2) + " " + kUnits[unit];
}

std::string dash(size_t series) {
  static constexpr std::array<const char*, 4> kDashes = {"", "6 3", "2 3", "8 3 2 3"};
  const char* d = kDashes[series / kColors % kDashes.size()];
  return *d == '\0' ? "" : std::string(" stroke-dasharray=\"") + d + "\"";
}

}  // namespace

std::string chart_layers(const VerifyReport& r) {
  std::map<std::string, std::map<int64_t, double>> series;
  int64_t last = 0;
  double low = HUGE_VAL, high = -HUGE_VAL;
  for (const TensorReport& t : r.tensors) {
    if (!t.errors || t.layer < 0 || t.layer > 100'000) continue;
    double db = t.errors->sqnr_db();
    if (!std::isfinite(db)) continue;  // exact, or not to be told
    auto [it, fresh] = series[t.module].emplace(t.layer, db);
    it->second = std::min(it->second, db);
    last = std::max(last, t.layer);
    low = std::min(low, db);
    high = std::max(high, db);
  }
  if (series.empty()) return "";
  double step = nice_step(std::max(high - low, 1.0), 5);
  low = std::floor(low / step) * step;
  high = std::max(std::ceil(high / step) * step, low + step);
  double height = 300;
  auto x_of = [&](int64_t layer) {
    return kLeft + (kWidth - kLeft - kRight) * (last == 0 ? 0.5 : static_cast<double>(layer) / static_cast<double>(last));
  };
  auto y_of = [&](double db) { return kTop + (height - kTop - kBottom) * (high - db) / (high - low); };
  Svg svg(kWidth, height, "SQNR per layer");
  for (double v = low; v <= high + step / 2; v += step) {
    svg.line(kLeft, y_of(v), kWidth - kRight, y_of(v), "grid");
    svg.text(kLeft - 6, y_of(v) + 4, short_number(v), "end");
  }
  auto every = std::max<int64_t>(1, static_cast<int64_t>(nice_step(static_cast<double>(last) + 1, 12)));
  for (int64_t l = 0; l <= last; l += every) svg.text(x_of(l), height - kBottom + 18, std::to_string(l), "middle");
  svg.text((kLeft + kWidth) / 2, height - 4, "layer", "middle");
  svg.text(4, 10, "dB", "start");
  std::string legend = "<p class=\"legend\">";
  size_t number = 0;
  for (const auto& [name, points] : series) {
    std::string color = "var(--c" + std::to_string(number % kColors) + ")";
    std::string path;
    for (const auto& [layer, db] : points) path += fixed(x_of(layer)) + "," + fixed(y_of(db)) + " ";
    svg.raw("<polyline points=\"" + path + "\" fill=\"none\" stroke=\"" + color + "\" stroke-width=\"1.6\"" + dash(number) + "/>\n");
    for (const auto& [layer, db] : points) {
      svg.raw("<circle cx=\"" + fixed(x_of(layer)) + "\" cy=\"" + fixed(y_of(db)) + "\" r=\"2.6\" fill=\"" + color + "\"><title>" +
              escape_xml(name + ", layer " + std::to_string(layer) + ": " + fixed(db, 2) + " dB") + "</title></circle>\n");
    }
    legend += "<span><svg class=\"key\" viewBox=\"0 0 24 8\"><line x1=\"0\" y1=\"4\" x2=\"24\" y2=\"4\" stroke=\"" + color +
              "\" stroke-width=\"3\"" + dash(number) + "/></svg>" + escape_xml(name) + "</span> ";
    ++number;
  }
  return svg.finish() + legend + "</p>\n";
}

std::string chart_codes(const CodeHistogram& h) {
  std::vector<size_t> order(h.counts.size());
  std::iota(order.begin(), order.end(), size_t{0});
  auto value = [&](size_t k) { return code_value(h.numbers, k); };
  // -0 before +0; NaN codes at the end.
  std::ranges::stable_sort(order, [&](size_t a, size_t b) {
    double x = value(a), y = value(b);
    if (std::isnan(x) || std::isnan(y)) return !std::isnan(x) && std::isnan(y);
    return x < y || (x == y && std::signbit(x) && !std::signbit(y));
  });
  uint64_t most = 1, total = 0;
  for (uint64_t c : h.counts) most = std::max(most, c), total += c;
  double height = 220, plot = kWidth - kLeft - kRight, bar = plot / static_cast<double>(std::max<size_t>(order.size(), 1));
  Svg svg(kWidth, height, "histogram of codes, " + h.scheme);
  for (int i = 0; i <= 4; ++i) {
    double share = static_cast<double>(most) / static_cast<double>(std::max<uint64_t>(total, 1)) * i / 4;
    double y = height - kBottom - (height - kTop - kBottom) * i / 4;
    svg.line(kLeft, y, kWidth - kRight, y, "grid");
    svg.text(kLeft - 6, y + 4, fixed(share * 100, share < 0.1 ? 2 : 1) + "%", "end");
  }
  size_t every = std::max<size_t>(1, order.size() / 16);
  auto label = [](double v) {
    char text[32];
    std::snprintf(text, sizeof text, "%.2g", v);
    return std::string(text);
  };
  for (size_t i = 0; i < order.size(); ++i) {
    uint64_t count = h.counts[order[i]];
    double x = kLeft + bar * static_cast<double>(i), v = value(order[i]);
    std::string name = std::isnan(v) ? "NaN" : (v == 0 && std::signbit(v) ? "-0" : short_number(v));
    double tall = (height - kTop - kBottom) * static_cast<double>(count) / static_cast<double>(most);
    double share = 100 * static_cast<double>(count) / static_cast<double>(std::max<uint64_t>(total, 1));
    if (count > 0) {
      svg.rect(x + bar * 0.06, height - kBottom - tall, bar * 0.88, std::max(tall, 0.3), std::isnan(v) ? 3 : 0,
               name + " (code " + std::to_string(order[i]) + "): " + std::to_string(count) + ", " + fixed(share, 3) + " %");
    }
    if (i % every == every / 2) svg.text(x + bar / 2, height - kBottom + 18, every > 1 && std::isfinite(v) ? label(v) : name, "middle");
  }
  svg.text((kLeft + kWidth) / 2, height - 4, "number a code stands for, before its scale", "middle");
  return svg.finish();
}

std::string chart_sizes(const VerifyReport& r) {
  if (r.base_bytes == 0 || r.bytes == 0) return "";
  double height = 84, most = static_cast<double>(std::max(r.bytes, r.base_bytes)), left = 90, room = kWidth - left - 130;
  Svg svg(kWidth, height, "size before and after");
  double y = 8;
  for (auto [name, bytes, color] : {std::tuple{"base", r.base_bytes, size_t{1}}, std::tuple{"checkpoint", r.bytes, size_t{0}}}) {
    double w = room * static_cast<double>(bytes) / most;
    svg.text(left - 8, y + 20, name, "end");
    svg.rect(left, y, std::max(w, 1.0), 30, color, std::to_string(bytes) + " bytes");
    svg.text(left + w + 8, y + 20, size_text(static_cast<double>(bytes)), "start");
    y += 40;
  }
  return svg.finish();
}

}  // namespace qp
