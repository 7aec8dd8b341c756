// Rotary position embedding (reference/architectures.md, section 3).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "lib/base/json.h"
#include "lib/engine/op.h"

namespace qp::engine {

// The angles of one kind of rotation in a model: which frequencies, for which window length.
class Rotary {
 public:
  // `scaling`: config.json's rope_scaling or rope_parameters (null: unscaled), whose rope_theta goes
  // before `theta`; `dim`: components that turn; `config`: for max_position_embeddings and
  // original_max_position_embeddings.
  // Errors: input, an unknown rope_type, numbers that make no sense, missing factors.
  Rotary(const Json& scaling, double theta, size_t dim, const Json& config);
  size_t dim() const { return dim_; }
  // f32 as the reference computes them. `length`: tokens of the window.
  std::vector<float> inv_freq(size_t length) const;
  float attention_scaling() const;  // of cos and sin
  // DeepSeek multiplies its scores by the square of this: 1 unless the rotation is scaled and
  // mscale_all_dim given.
  double mscale_all_dim() const;

  struct Table {
    std::vector<float> cos, sin;  // [length, dim / 2]
  };
  // Angles of positions 0 .. length - 1; kept for the next caller.
  std::shared_ptr<const Table> table(size_t length) const;

 private:
  enum class Kind { unscaled, linear, dynamic, llama3, yarn, longrope };
  std::vector<float> llama3(std::vector<float> f) const;
  std::vector<float> yarn(std::vector<float> f) const;
  double number(const char* key, double fallback) const;
  void check_factors(const char* key) const;

  Kind kind_ = Kind::unscaled;
  Json scaling_;
  double theta_;
  size_t dim_;
  double max_positions_, original_positions_, factor_ = 1;
  mutable std::mutex mutex_;
  mutable std::map<size_t, std::shared_ptr<const Table>> tables_;
};

class Rope : public Op {
 public:
  // Turns components [first, first + rotary.dim()) of each head of `head_dim`. interleaved: pairs
  // are (2i, 2i+1) as DeepSeek stores them; they come out in half-split order.
  Rope(std::shared_ptr<const Rotary> rotary, size_t heads, size_t head_dim, size_t first = 0,
       bool interleaved = false);
  size_t width() const override { return heads_ * head_dim_; }
  std::vector<size_t> inputs() const override { return {width()}; }
  int in_place() const override { return interleaved_ ? -1 : 0; }
  void forward(const Step& step, std::span<const ConstMatrix> in, Matrix out) const override;
  void backward(const Step& step, std::span<const ConstMatrix> in, ConstMatrix dout,
                std::span<const Matrix> din) const override;

 private:
  std::shared_ptr<const Rotary> rotary_;
  size_t heads_, head_dim_, first_;
  bool interleaved_;
};

}  // namespace qp::engine
