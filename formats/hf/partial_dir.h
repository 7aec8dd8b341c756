// A directory built beside its final name and renamed when complete.
#pragma once

#include <string>
#include <vector>

#include "lib/base/file.h"

namespace qp {

// Marks a directory as unfinished and as ours to remove. Hidden: no checkpoint file.
constexpr const char* kPartialMarker = ".qpipe-partial";
// Marks a directory that --force is about to replace: it holds the device and inode of its
// replacement, so it counts only in DIR.partial, and only beside exactly that DIR.
constexpr const char* kReplacedMarker = ".qpipe-replaced";

class PartialDirectory {
 public:
  // Creates DIR.partial. A stale one of ours is removed; one in use, or not ours, is an error.
  // Errors: usage (an input would be replaced), system (exists).
  PartialDirectory(const std::string& directory, bool force,
                   const std::vector<std::string>& inputs);
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
