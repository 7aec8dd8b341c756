// Options of programs that write a qmap.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "lib/pipe/handover.h"

namespace qp {

struct OutputArguments {
  std::string path;
  bool force = false, stream = false, no_sync = false;

  void declare(CLI::App& app) {
    app.add_option("-o,--output", path, "File to write; without it the result goes to the next program in the pipe")
        ->type_name("FILE")
        ->group("Output");
    app.add_flag("--force", force, "Replace an existing output")->group("Output");
    app.add_flag("--stream", stream, "Send the qmap itself through the pipe (for ssh)")->group("Output");
    app.add_flag("--no-sync", no_sync, "Do not wait for the disk (fsync)")->group("Output");
  }
  OutputOptions options(std::vector<std::string> inputs) const {
    OutputOptions o;
    o.path = path;
    o.force = force;
    o.stream = stream;
    o.sync = !no_sync;
    o.inputs = std::move(inputs);
    return o;
  }
};

}  // namespace qp
