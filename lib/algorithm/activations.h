// Static scales of activations and of the KV cache, from what qcalibrate saw.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "lib/plan/plan.h"
#include "lib/qmap/store.h"

namespace qp {

struct ComputedPart {
  PartSpec spec;
  std::vector<std::byte> bytes;
};

class ActivationScales {
 public:
  // Errors: usage, when the plan needs statistics that the store does not have.
  ActivationScales(const Store& store, const Plan& plan);

  // The parts of a tensor that hold its static activation parameters: input_scale (of the range that
  // the observer chose; dtype of the weight, F32 in numerics that compute in F32), or NVFP4's second
  // stage (input_global_scale in compressed-tensors' numerics, input_scale = amax / 2688 in
  // others). None for dynamic activations. Inputs that no token reached, of experts, take the
  // largest range among the experts of the layer. Errors: usage, an input without statistics.
  std::vector<ComputedPart> parts(const PlanEntry& entry, const Scheme& scheme) const;

 private:
  float range_of(const PlanEntry& entry) const;
  std::map<std::string, float>::const_iterator find(const PlanEntry& entry) const;

  const Store& store_;
  std::map<std::string, float> ranges_;   // by module; 0: no token came
  std::map<std::string, float> experts_;  // by what agrees in a layer
};

// Whether a scheme's activation side needs calibration.
bool needs_calibration(const Scheme& scheme);

// One scale of the KV cache, F32 [1]: amax / 448, as these numerics compute it.
struct CacheScale {
  std::string name;  // "model.layers.0.self_attn.k_scale"
  float scale = 0;
};
// Errors: usage, no statistics of keys and values.
std::vector<CacheScale> cache_scales(const Store& store, std::string_view numerics, DType dtype);

}  // namespace qp
