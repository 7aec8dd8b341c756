// llama3's rotary scaling, recovered from the divisors llama.cpp's converter computed from it
// (reference/gguf.md section 12, item 8).
#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "formats/gguf/llama.h"

namespace qp {
namespace {

struct Llama3 {
  double factor, high, original;  // low_freq_factor is 1
};

double wavelength(size_t i, size_t pairs, double theta) {
  double exponent = static_cast<double>(i) / static_cast<double>(pairs);
  return 2 * std::numbers::pi * std::pow(theta, exponent);
}

double divisor(const Llama3& s, double length) {
  if (length < s.original / s.high) return 1;
  if (length > s.original) return s.factor;
  double smooth = (s.original / length - 1) / (s.high - 1);
  return 1 / ((1 - smooth) / s.factor + smooth);
}

// The converter computes in f32, so the last digits differ.
bool fits(const Llama3& s, std::span<const float> factors, double theta) {
  for (size_t i = 0; i < factors.size(); ++i) {
    double expected = divisor(s, wavelength(i, factors.size(), theta));
    if (!(std::abs(factors[i] - expected) <= 1e-4 * expected)) return false;
  }
  return true;
}

// Between the plateaus, smooth is linear in 1 / wavelength: two points give both unknowns.
std::optional<Llama3> solve(std::span<const float> factors, double theta, double factor) {
  std::vector<std::pair<double, double>> points;  // (1 / wavelength, smooth)
  for (size_t i = 0; i < factors.size(); ++i) {
    if (factors[i] <= 1 || factors[i] >= factor) continue;
    points.emplace_back(1 / wavelength(i, factors.size(), theta),
                        (1 / static_cast<double>(factors[i]) - 1 / factor) / (1 - 1 / factor));
  }
  if (points.size() < 2) return std::nullopt;
  auto [x0, s0] = points.front();
  auto [x1, s1] = points.back();
  double slope = (s1 - s0) / (x1 - x0), intercept = s0 - slope * x0;
  if (!(intercept < 0) || !(slope > 0)) return std::nullopt;
  double high = 1 - 1 / intercept;
  return Llama3{factor, std::round(high * 1000) / 1000, std::round(slope * (high - 1))};
}

}  // namespace

std::optional<Json> llama3_scaling(std::span<const float> factors, double theta) {
  if (factors.empty() || !(theta > 1)) return std::nullopt;
  for (float f : factors) {
    if (!std::isfinite(f) || f < 1) return std::nullopt;
  }
  double factor = *std::ranges::max_element(factors);
  if (factor == 1) return Json();
  std::vector<Llama3> candidates = {{factor, 4, 8192}};  // Llama 3.1 to 3.3
  if (auto solved = solve(factors, theta, factor)) {
    // Contexts are powers of two; the solution of f32 values is off in its last digits.
    Llama3 neat = *solved;
    neat.high = std::round(neat.high);
    neat.original = std::exp2(std::round(std::log2(neat.original)));
    candidates.push_back(neat);
    candidates.push_back(*solved);
  }
  for (const Llama3& s : candidates) {
    if (!(s.high > 1) || !(s.original >= 1) || s.original > 1e12 || !fits(s, factors, theta)) {
      continue;
    }
    return Json{{"factor", s.factor},
                {"high_freq_factor", s.high},
                {"low_freq_factor", 1.0},
                {"original_max_position_embeddings", static_cast<uint64_t>(s.original)},
                {"rope_type", "llama3"}};
  }
  return std::nullopt;
}

}  // namespace qp
