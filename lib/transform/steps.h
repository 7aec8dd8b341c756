// The steps, each in a file of its name.
#pragma once

#include "lib/transform/folds.h"
#include "lib/transform/transform.h"

namespace qp::transform {

// Hadamard rotations of what flows between layers (R1) and of values (R2), fused into the weights;
// norms' weights move into the matrices behind them, a tied head comes apart. QuaRot, SpinQuant's
// form without "had". Errors: usage, where something between keeps them apart (LayerNorm, norms
// after a block, towers of other modalities).
Edits rotate_hidden(const Subject& subject);
Edits rotate_values(const Subject& subject);
// Outliers of activations, as qcalibrate saw them, move into weights: s = amax_x^alpha / amax_w^(1
// - alpha) per channel that a norm or a linear makes (SmoothQuant).
Edits smoothquant(const Subject& subject);
// Per channel s = mean|x|^r, r such that rounding spoils the outputs least (AWQ).
Edits awq(const Subject& subject);

// Divides what makes the fold's channels by `scales` [fold.channels] and multiplies what reads
// them. Norms end up on numbers of their dtype, and readers are multiplied by what they really were
// divided by, so that nothing is lost there; a norm weight of 0 stays.
void apply(const Fold& fold, std::vector<float> scales, const engine::WeightSource& weights,
           Edits& edits);

// Of a fold of kind `none`: what reads the value gets a pre_scale of 1 / scales, in its dtype.
void apply_pre_scale(const Fold& fold, const std::vector<float>& scales,
                     const engine::WeightSource& weights, Edits& edits);

}  // namespace qp::transform
