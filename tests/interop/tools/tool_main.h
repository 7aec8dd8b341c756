// What every test tool does around its work.
#pragma once

#include <iostream>
#include <string_view>

#include "lib/base/error.h"

namespace qp {

// Runs the tool; an error is printed, and its exit code returned.
inline int tool_main(std::string_view name, int (*run)(int, char**), int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const Error& e) {
    std::cerr << name << ": " << e.what() << "\n";
    return e.exit_code();
  }
}

}  // namespace qp
