// What the charts of the HTML report are drawn with: inline SVG, colours by CSS variables of the page.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>

#include "lib/verify/report.h"

namespace qp::svg {

inline constexpr double kWidth = 860, kLeft = 56, kRight = 12, kTop = 14, kBottom = 40;
inline constexpr int kColors = 8;  // --c0 .. --c7 of the page

inline std::string fixed(double v, int digits = 1) {
  char text[48];
  std::snprintf(text, sizeof text, "%.*f", digits, v);
  return text;
}

inline std::string short_number(double v) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", v);
  return text;
}

// 1, 2 or 5 times a power of ten, so that about `lines` of them fill `range`.
inline double nice_step(double range, int lines) {
  double raw = std::max(range, 1e-12) / lines, power = std::pow(10, std::floor(std::log10(raw)));
  for (double f : {1.0, 2.0, 5.0}) {
    if (raw <= f * power) return f * power;
  }
  return 10 * power;
}

class Svg {
 public:
  Svg(double width, double height, const std::string& label) {
    out_ = "<svg viewBox=\"0 0 " + fixed(width) + " " + fixed(height) + "\" role=\"img\" aria-label=\"" +
           escape_xml(label) + "\">\n";
  }
  void line(double x1, double y1, double x2, double y2, const char* cls) {
    out_ += "<line x1=\"" + fixed(x1) + "\" y1=\"" + fixed(y1) + "\" x2=\"" + fixed(x2) + "\" y2=\"" + fixed(y2) +
            "\" class=\"" + cls + "\"/>\n";
  }
  void text(double x, double y, const std::string& s, const char* anchor) {
    out_ += "<text x=\"" + fixed(x) + "\" y=\"" + fixed(y) + "\" text-anchor=\"" + anchor + "\">" + escape_xml(s) + "</text>\n";
  }
  void rect(double x, double y, double w, double h, size_t color, const std::string& title) {
    out_ += "<rect x=\"" + fixed(x, 2) + "\" y=\"" + fixed(y, 2) + "\" width=\"" + fixed(w, 2) + "\" height=\"" + fixed(h, 2) +
            "\" fill=\"var(--c" + std::to_string(color) + ")\"><title>" + escape_xml(title) + "</title></rect>\n";
  }
  void raw(const std::string& s) { out_ += s; }
  std::string finish() { return out_ + "</svg>\n"; }

 private:
  std::string out_;
};

}  // namespace qp::svg
