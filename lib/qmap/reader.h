// Opens a qmap file.
#pragma once

#include <memory>
#include <string>

#include "lib/base/file.h"
#include "lib/qmap/model.h"

namespace qp {

// `base` is the directory that relative paths start from when the file itself is unnamed.
// Checks magic, version, lengths and the manifest's hash; fills the mtimes.
// Errors: input, naming the file.
Model read_qmap(const std::shared_ptr<const MappedFile>& file, const std::string& base);

bool has_qmap_magic(std::span<const std::byte> first_bytes);

}  // namespace qp
