// A directory built beside its final name and renamed when complete.
#pragma once

#include <string>
#include <vector>

#include "lib/base/file.h"

namespace qp {

// Marks a directory as unfinished and as ours to remove. Hidden: no checkpoint file.
constexpr const char* kPartialMarker = ".qpipe-partial";

class PartialDirectory {
 public:
  // Creates DIR.partial. A stale one of ours is removed; one in use, or not ours, is an error.
  // Errors: usage (an input would be replaced), system (exists).
  PartialDirectory(const std::string& directory, bool force, const std::vector<std::string>& inputs);
  ~PartialDirectory();  // without commit: removed
  PartialDirectory(const PartialDirectory&) = delete;
  PartialDirectory& operator=(const PartialDirectory&) = delete;

  const std::string& path() const { return partial_; }
  // Renames into place; with force, the old directory is exchanged and then removed.
  void commit(bool sync);

 private:
  std::string final_, partial_;
  Fd lock_;
  bool done_ = false;
};

}  // namespace qp
