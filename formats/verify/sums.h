// SHA-256 sums of a checkpoint's files, as coreutils' sha256sum writes and checks them.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lib/base/progress.h"
#include "lib/verify/numbers.h"

namespace qp {

struct FileSum {
  std::string name;    // relative to the manifest's checkpoint
  std::string sha256;  // 64 digits, lower case
};

// "SHA256SUMS" in a directory, "FILE.sha256" beside a file.
std::string default_manifest(const std::string& checkpoint);

// Sums of every file of a checkpoint (its directory's, hidden ones left out, or the one file),
// sorted by name, in parallel, without the manifest itself. Errors: system, input (a file changed).
std::vector<FileSum> sum_files(const std::string& checkpoint, const std::string& manifest,
                               Progress& progress);

// One line per file; names with a backslash or a line break are escaped as coreutils does.
std::string manifest_text(const std::vector<FileSum>& sums);

// The lines of a manifest, sha256sum's forms and BSD's ("SHA256 (name) = sum"). Lines that are
// none become findings (manifest-format), and so do names that lead out of the directory.
std::vector<FileSum> parse_manifest(std::string_view text, std::vector<Finding>& findings);

// Findings: manifest-format, manifest-missing (a listed file is not there), manifest-changed,
// manifest-extra (a file that is not listed). Errors: system (no manifest).
std::vector<Finding> check_manifest(const std::string& checkpoint, const std::string& manifest,
                                    Progress& progress);

// The rules of check_manifest(), with what each checks.
std::vector<std::pair<std::string, std::string>> manifest_rules();

}  // namespace qp
