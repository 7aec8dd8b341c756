#include <vector>

#include "lib/verify/report_charts.h"
#include "lib/verify/svg.h"

namespace qp {

using namespace svg;

namespace {

constexpr double kHeight = 220;

struct Point {
  double x, y;
  std::string title;
};

// One line from 0 up.
std::string line_chart(const std::string& label, const std::string& x_name, const std::vector<Point>& points) {
  if (points.empty()) return "";
  double first = points.front().x, last = points.back().x, high = 0;
  for (const Point& p : points) high = std::max(high, p.y);
  if (!std::isfinite(high)) return "";
  double step = nice_step(std::max(high, 1e-9), 4);
  high = std::max(std::ceil(high / step) * step, step);
  auto x_of = [&](double x) {
    return kLeft + (kWidth - kLeft - kRight) * (last > first ? (x - first) / (last - first) : 0.5);
  };
  auto y_of = [&](double y) { return kTop + (kHeight - kTop - kBottom) * (1 - y / high); };
  Svg svg(kWidth, kHeight, label);
  for (double v = 0; v <= high + step / 2; v += step) {
    svg.line(kLeft, y_of(v), kWidth - kRight, y_of(v), "grid");
    svg.text(kLeft - 6, y_of(v) + 4, short_number(v), "end");
  }
  double every = std::max(1.0, nice_step(last - first, 12));
  for (double x = std::ceil(first / every) * every; x <= last; x += every) {
    svg.text(x_of(x), kHeight - kBottom + 18, short_number(x), "middle");
  }
  svg.text((kLeft + kWidth) / 2, kHeight - 4, x_name, "middle");
  std::string path;
  for (const Point& p : points) path += fixed(x_of(p.x)) + "," + fixed(y_of(p.y)) + " ";
  svg.raw("<polyline points=\"" + path + "\" fill=\"none\" stroke=\"var(--c0)\" stroke-width=\"1.6\"/>\n");
  for (const Point& p : points) {
    svg.raw("<circle cx=\"" + fixed(x_of(p.x)) + "\" cy=\"" + fixed(y_of(p.y)) + "\" r=\"2.6\" fill=\"var(--c0)\"><title>" +
            escape_xml(p.title) + "</title></circle>\n");
  }
  return svg.finish();
}

}  // namespace

std::string chart_hidden_states(const EvalResult& r) {
  std::vector<Point> points;
  for (size_t i = 0; i < r.layers.size(); ++i) {
    const LayerError& l = r.layers[i];
    points.push_back({static_cast<double>(i), l.relative,
                      "layer " + std::to_string(i) + ": relative error " + short_number(l.relative) + ", cosine " +
                          fixed(l.cosine, 6) + ", MSE " + short_number(l.mse)});
  }
  return line_chart("relative error of hidden states per layer", "layer", points);
}

std::string chart_kl_positions(const EvalResult& r) {
  std::vector<Point> points;
  for (const auto& [position, kl] : r.kl_by_position) {
    points.push_back({static_cast<double>(position), kl,
                      "from token " + std::to_string(position) + " of the window: " + short_number(kl)});
  }
  return line_chart("mean KL divergence by position in the window", "position in the window", points);
}

std::string chart_kl_histogram(const EvalResult& r) {
  if (r.kl_histogram.empty()) return "";
  auto bin_of = [](double edge) { return std::lround(10 * std::log10(edge)); };
  long first = bin_of(r.kl_histogram.front().first), last = bin_of(r.kl_histogram.back().first);
  uint64_t most = 1;
  for (const auto& [edge, count] : r.kl_histogram) most = std::max(most, count);
  double bar = (kWidth - kLeft - kRight) / static_cast<double>(last - first + 1);
  Svg svg(kWidth, kHeight, "tokens by their KL divergence");
  for (long bin = first; bin <= last; ++bin) {
    if (bin % 10 != 0) continue;
    double x = kLeft + bar * static_cast<double>(bin - first);
    svg.line(x, kTop, x, kHeight - kBottom, "grid");
    svg.text(x, kHeight - kBottom + 18, short_number(std::pow(10, static_cast<double>(bin) / 10)), "middle");
  }
  for (const auto& [edge, count] : r.kl_histogram) {
    double tall = (kHeight - kTop - kBottom) * static_cast<double>(count) / static_cast<double>(most);
    svg.rect(kLeft + bar * (static_cast<double>(bin_of(edge) - first) + 0.06), kHeight - kBottom - tall, bar * 0.88,
             std::max(tall, 0.3), 0, "from " + short_number(edge) + " nats: " + std::to_string(count) + " tokens");
  }
  svg.text((kLeft + kWidth) / 2, kHeight - 4, "KL divergence of a token, nats", "middle");
  return svg.finish();
}

}  // namespace qp
