// The progress bar: on a terminal's standard error, with rate and time left; one line of the same
// on SIGUSR1 wherever standard error goes.
#pragma once

#include <memory>
#include <string>

#include "lib/base/progress.h"

namespace qp {

std::unique_ptr<Progress> make_progress_line(const std::string& tool, bool quiet);

}  // namespace qp
