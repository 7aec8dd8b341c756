// The manifest of a qmap: JSON, written as a stream and read by SAX, so that 92,000 tensors cost
// about 100 ms and little memory. Keys and their meaning: man/qmap.5, MANIFEST.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "lib/qmap/model.h"

namespace qp {

// Calls `sink` with consecutive pieces of the text. File paths are written relative to `base`.
// Requires: no extent of kind kBlob is left.
void write_manifest(const Model& model, const std::string& base,
                    const std::function<void(std::string_view)>& sink);

// Fills everything but config, mtimes and id. File paths are made absolute against `base`.
// Errors: input, naming `path`.
Model read_manifest(std::span<const std::byte> text, const std::string& path,
                    const std::string& base);

}  // namespace qp
