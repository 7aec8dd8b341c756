// Signals as exceptions: SIGINT, SIGTERM and SIGHUP ask the program to stop, work loops notice at
// the next chunk, clean up by unwinding, and run_tool dies of the signal. A second one kills.
#pragma once

namespace qp {

struct Interrupted {
  int signal;
};

void install_interrupt_handlers();
// Throws Interrupted when a signal has asked to stop. Cheap; call once per chunk.
void throw_if_interrupted();
bool interrupted();

// SIGUSR1 asks for a progress line. True once per signal.
bool take_progress_request();

}  // namespace qp
