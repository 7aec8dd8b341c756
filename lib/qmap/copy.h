// Moves parts of one store into a new qmap.
#pragma once

#include <functional>

#include "lib/base/hash.h"
#include "lib/qmap/store.h"
#include "lib/qmap/writer.h"

namespace qp {

// What copy_tensor() makes of a tensor: inline parts with the same elements, decoded; a tensor that
// stands for its values becomes them. Only offsets are placed.
Tensor place_copy(const Tensor& tensor, QmapWriter& writer);

// Copies the elements of `from` to where place_copy() put `to`, and sets the checksums.
// `advance` is told bytes as they are done.
void copy_tensor(const Store& store, const Tensor& from, Tensor& to, QmapWriter& writer,
                 const std::function<void(uint64_t)>& advance);
void copy_companion(const Store& store, const Companion& from, Companion& to, QmapWriter& writer);

// Re-points the extents of `model` (a copy of store's) so that it can live in another file:
// inline extents of a named qmap become references to it. Errors: none; extents of an unnamed
// qmap stay inline extents and must be copied: returns true for those.
bool refer_extent(const Store& store, Model& model, Extent& extent);

// Makes `model`, a copy of store's, one that lives in the writer's file: references where there are
// names to refer to, copies of what lies in a qmap without one. Statistics of a calibration are not
// carried: they stay in `model` with extents of the old file.
void carry(const Store& store, Model& model, QmapWriter& writer);

}  // namespace qp
