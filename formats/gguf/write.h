// Writes a GgufPlan: one file, shards, or standard output.
#pragma once

#include "formats/gguf/plan.h"
#include "formats/hf/writer.h"

namespace qp {

// `options.directory` is the file to write; "": standard output, which need not be seekable.
// Files are FILE.partial until they are complete, synced and compared with their sources.
// Errors: usage (would overwrite an input), system (exists, disk full), defect (verification).
WriteResult write_gguf(const Store& store, const GgufPlan& plan, const WriteOptions& options,
                       Progress& progress);

}  // namespace qp
