#include "lib/base/interrupt.h"

#include <csignal>
#include <initializer_list>

namespace qp {
namespace {

volatile std::sig_atomic_t stop_signal = 0;
volatile std::sig_atomic_t progress_request = 0;

void on_stop(int number) {
  stop_signal = number;
  std::signal(number, SIG_DFL);  // the next one kills
}
void on_progress(int) { progress_request = 1; }

}  // namespace

void install_interrupt_handlers() {
  for (int number : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction old {};
    sigaction(number, nullptr, &old);
    if (old.sa_handler == SIG_IGN) continue;  // nohup, background jobs
    struct sigaction action {};
    action.sa_handler = on_stop;
    sigemptyset(&action.sa_mask);
    sigaction(number, &action, nullptr);  // no SA_RESTART: blocking calls return
  }
  struct sigaction action {};
  action.sa_handler = on_progress;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGUSR1, &action, nullptr);
}

bool interrupted() { return stop_signal != 0; }

void throw_if_interrupted() {
  if (stop_signal != 0) throw Interrupted{stop_signal};
}

bool take_progress_request() {
  if (progress_request == 0) return false;
  progress_request = 0;
  return true;
}

}  // namespace qp
