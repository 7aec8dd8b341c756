#include "lib/engine/ops/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "lib/base/error.h"
#include "lib/base/parallel.h"
#include "lib/kernels/forward.h"

namespace qp::engine {

namespace {

Error wrong(const std::string& key, const std::string& what) {
  return input_error("'" + key + "' of the rotary parameters " + what).file("config.json");
}

}  // namespace

Rotary::Rotary(const Json& scaling, double theta, size_t dim, const Json& config)
    : scaling_(scaling.is_object() ? scaling : Json::object()), dim_(dim) {
  std::string type = json_string(scaling_, "rope_type", json_string(scaling_, "type", "default"));
  static const std::map<std::string, Kind> kinds = {
      {"default", Kind::unscaled}, {"mrope", Kind::unscaled},   {"linear", Kind::linear},
      {"dynamic", Kind::dynamic},  {"llama3", Kind::llama3},    {"yarn", Kind::yarn},
      {"longrope", Kind::longrope}, {"su", Kind::longrope}};
  auto it = kinds.find(type);
  if (it == kinds.end()) throw wrong("rope_type", "is '" + printable(type) + "', which is not known");
  kind_ = it->second;
  theta_ = number("rope_theta", theta);
  max_positions_ = static_cast<double>(json_int(config, "max_position_embeddings", 2048));
  original_positions_ = number("original_max_position_embeddings", max_positions_);
  if (config.contains("original_max_position_embeddings")) {  // Phi-3; it goes first
    original_positions_ = static_cast<double>(json_int(
        config, "original_max_position_embeddings", static_cast<int64_t>(original_positions_)));
  }
  if (!(max_positions_ > 0)) throw wrong("max_position_embeddings", "is not above 0");
  if (!(original_positions_ > 0)) throw wrong("original_max_position_embeddings", "is not above 0");
  bool stretched = kind_ == Kind::yarn || kind_ == Kind::longrope;
  factor_ = number("factor", stretched ? max_positions_ / original_positions_ : 1);
  if (!(factor_ > 0)) throw wrong("factor", "is not above 0");
  if (!(theta_ > 1)) throw wrong("rope_theta", "is not above 1");
  if (dim_ < 2 || dim_ % 2 != 0 || (kind_ == Kind::dynamic && dim_ == 2)) {
    throw input_error("has attention heads of which " + std::to_string(dim_) +
                      " components turn, which cannot be ('head_dim', 'partial_rotary_factor')")
        .file("config.json");
  }
  if (kind_ == Kind::llama3) {
    double low = number("low_freq_factor", 1), high = number("high_freq_factor", 4);
    if (!(low > 0) || !(high > low)) throw wrong("high_freq_factor", "is not above low_freq_factor");
  }
  for (const char* list : {"long_factor", "short_factor"}) {
    if (kind_ == Kind::longrope) check_factors(list);
  }
}

void Rotary::check_factors(const char* key) const {
  auto it = scaling_.find(key);
  bool good = it != scaling_.end() && it->is_array() && it->size() == dim_ / 2;
  for (size_t i = 0; good && i < it->size(); ++i) {
    good = (*it)[i].is_number() && (*it)[i].get<double>() > 0;
  }
  if (!good) throw wrong(key, "is no list of " + std::to_string(dim_ / 2) + " numbers above 0");
}

double Rotary::number(const char* key, double fallback) const {
  auto it = scaling_.find(key);
  if (it == scaling_.end() || it->is_null()) return fallback;
  if (!it->is_number() || !std::isfinite(it->get<double>())) throw wrong(key, "is no number");
  return it->get<double>();
}

std::vector<float> Rotary::llama3(std::vector<float> f) const {
  double low = number("low_freq_factor", 1), high = number("high_freq_factor", 4);
  for (float& v : f) {
    double wavelength = 2 * std::numbers::pi / static_cast<double>(v);
    double slow = static_cast<double>(v) / factor_;
    if (wavelength > original_positions_ / low) {
      v = static_cast<float>(slow);
    } else if (wavelength >= original_positions_ / high) {
      double s = (original_positions_ / wavelength - low) / (high - low);
      v = static_cast<float>((1 - s) * slow + s * static_cast<double>(v));
    }
  }
  return f;
}

std::vector<float> Rotary::yarn(std::vector<float> f) const {
  auto dim = static_cast<double>(dim_);
  auto correction = [&](double rotations) {
    return dim * std::log(original_positions_ / (rotations * 2 * std::numbers::pi)) /
           (2 * std::log(theta_));
  };
  double low = correction(number("beta_fast", 32)), high = correction(number("beta_slow", 1));
  if (json_bool(scaling_, "truncate", true)) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < f.size(); ++i) {
    double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    double v = static_cast<double>(f[i]);
    f[i] = static_cast<float>(v / factor_ * ramp + v * (1 - ramp));
  }
  return f;
}

std::vector<float> Rotary::inv_freq(size_t length) const {
  double base = theta_;
  auto tokens = static_cast<double>(length);
  auto dim = static_cast<double>(dim_);
  if (kind_ == Kind::dynamic && tokens > max_positions_) {
    base *= std::pow(factor_ * tokens / max_positions_ - (factor_ - 1), dim / (dim - 2));
  }
  std::vector<float> f(dim_ / 2);
  const Json* factors = nullptr;
  if (kind_ == Kind::longrope) {
    factors = &scaling_.at(tokens > original_positions_ ? "long_factor" : "short_factor");
  }
  for (size_t i = 0; i < f.size(); ++i) {
    double power = std::pow(base, 2 * static_cast<double>(i) / dim);
    if (factors != nullptr) power *= (*factors)[i].get<double>();
    f[i] = static_cast<float>(1 / power);
    if (kind_ == Kind::linear) f[i] = static_cast<float>(1 / power / factor_);
  }
  if (kind_ == Kind::llama3) return llama3(std::move(f));
  if (kind_ == Kind::yarn) return yarn(std::move(f));
  return f;
}

namespace {

double mscale(double factor, double scale) {
  return factor <= 1 ? 1 : 0.1 * scale * std::log(factor) + 1;
}

}  // namespace

double Rotary::mscale_all_dim() const {
  double all = number("mscale_all_dim", 0);
  return kind_ == Kind::unscaled || all == 0 ? 1 : mscale(factor_, all);
}

float Rotary::attention_scaling() const {
  if (kind_ != Kind::yarn && kind_ != Kind::longrope) return 1;
  if (double given = number("attention_factor", 0); given > 0) return static_cast<float>(given);
  if (kind_ == Kind::longrope) {
    double stretch = std::log(factor_) / std::log(original_positions_);
    return factor_ <= 1 ? 1 : static_cast<float>(std::sqrt(1 + stretch));
  }
  double m = number("mscale", 0), all = number("mscale_all_dim", 0);
  bool both = m != 0 && all != 0;
  return static_cast<float>(both ? mscale(factor_, m) / mscale(factor_, all) : mscale(factor_, 1));
}

std::shared_ptr<const Rotary::Table> Rotary::table(size_t length) const {
  std::lock_guard lock(mutex_);
  auto& entry = tables_[length];
  if (entry) return entry;
  auto table = std::make_shared<Table>();
  std::vector<float> f = inv_freq(length);
  float scale = attention_scaling();
  table->cos.resize(length * f.size());
  table->sin.resize(length * f.size());
  for (size_t p = 0; p < length; ++p) {
    for (size_t i = 0; i < f.size(); ++i) {
      float angle = static_cast<float>(p) * f[i];
      table->cos[p * f.size() + i] = std::cos(angle) * scale;
      table->sin[p * f.size() + i] = std::sin(angle) * scale;
    }
  }
  if (tables_.size() > 8) tables_.clear();  // windows of many lengths: keep the latest
  tables_[length] = table;
  return table;
}

Rope::Rope(std::shared_ptr<const Rotary> rotary, size_t heads, size_t head_dim, size_t first,
           bool interleaved)
    : rotary_(std::move(rotary)), heads_(heads), head_dim_(head_dim), first_(first),
      interleaved_(interleaved) {
  if (first_ + rotary_->dim() > head_dim_) throw defect_error("a rotation wider than the head");
}

void Rope::forward(const Step& step, std::span<const ConstMatrix> in, Matrix out) const {
  const kernels::ForwardTable& k = kernels::forward();
  size_t half = rotary_->dim() / 2, end = first_ + rotary_->dim();
  size_t past = step.past == nullptr ? 0 : step.past->rows;
  for (size_t w = 0; w < step.batch.windows(); ++w) {
    size_t begin = step.batch.starts[w], rows = step.batch.starts[w + 1] - begin;
    auto table = rotary_->table(past + rows);
    parallel_for(rows, [&](size_t p, int) {
      const float* cos = table->cos.data() + (past + p) * half;
      const float* sin = table->sin.data() + (past + p) * half;
      for (size_t h = 0; h < heads_; ++h) {
        const float* x = in[0].row(begin + p) + h * head_dim_;
        float* y = out.row(begin + p) + h * head_dim_;
        if (x != y) {
          std::copy(x, x + first_, y);
          std::copy(x + end, x + head_dim_, y + end);
        }
        if (!interleaved_) {
          k.rotate_half(x + first_, cos, sin, 2 * half, y + first_);
          continue;
        }
        for (size_t i = 0; i < half; ++i) {
          float a = x[first_ + 2 * i], b = x[first_ + 2 * i + 1];
          y[first_ + i] = a * cos[i] - b * sin[i];
          y[first_ + half + i] = b * cos[i] + a * sin[i];
        }
      }
    });
  }
}

void Rope::backward(const Step& step, std::span<const ConstMatrix>, ConstMatrix dout,
                    std::span<const Matrix> din) const {
  size_t half = rotary_->dim() / 2, end = first_ + rotary_->dim();
  for (size_t w = 0; w < step.batch.windows(); ++w) {
    size_t begin = step.batch.starts[w], rows = step.batch.starts[w + 1] - begin;
    auto table = rotary_->table(rows);
    parallel_for(rows, [&](size_t p, int) {
      const float* cos = table->cos.data() + p * half;
      const float* sin = table->sin.data() + p * half;
      for (size_t h = 0; h < heads_; ++h) {
        const float* dy = dout.row(begin + p) + h * head_dim_;
        float* dx = din[0].row(begin + p) + h * head_dim_;
        for (size_t i = 0; i < head_dim_; ++i) {
          if (i < first_ || i >= end) dx[i] += dy[i];
        }
        for (size_t i = 0; i < half; ++i) {
          size_t a = first_ + (interleaved_ ? 2 * i : i), b = first_ + (interleaved_ ? 2 * i + 1 : i + half);
          dx[a] += dy[first_ + i] * cos[i] + dy[first_ + half + i] * sin[i];
          dx[b] += dy[first_ + half + i] * cos[i] - dy[first_ + i] * sin[i];
        }
      }
    });
  }
}

}  // namespace qp::engine
