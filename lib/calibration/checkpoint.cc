#include "lib/calibration/checkpoint.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "lib/base/error.h"
#include "lib/pipe/handover.h"

namespace qp {
namespace {

constexpr uint64_t kMaxJournal = uint64_t{1} << 30;

}  // namespace

std::string Checkpoint::state_path(int i) const {
  return partial_ + ".states" + std::to_string(i);
}

Checkpoint::Checkpoint(const std::string& partial, const std::string& run, bool resume)
    : partial_(partial) {
  if (partial.empty()) {
    states_ = {make_spill(), make_spill()};
    return;
  }
  journal_path_ = partial + ".journal";
  if (resume) read(run);
  int flags = O_RDWR | O_CREAT | O_CLOEXEC | (finished_.empty() ? O_TRUNC : 0);
  for (int i = 0; i < 2; ++i) {
    auto s = static_cast<size_t>(i);
    states_[s].reset(open(state_path(i).c_str(), flags, 0666));
    if (!states_[s]) throw system_error("cannot create", errno).file(state_path(i));
  }
  journal_.reset(open(journal_path_.c_str(), flags, 0666));
  if (!journal_) throw system_error("cannot create", errno).file(journal_path_);
  if (!finished_.empty()) return;
  std::string first = run + "\n";
  write_all(journal_.get(), std::as_bytes(std::span(first)), 0, journal_path_);
  at_ = first.size();
}

// What an earlier process finished; nothing when there is no journal.
void Checkpoint::read(const std::string& run) {
  struct stat st {};
  if (stat(journal_path_.c_str(), &st) != 0) return;
  std::string text = read_text_file(journal_path_, kMaxJournal);
  size_t end = text.find('\n');
  if (end == std::string::npos) return;
  if (text.substr(0, end) != run) {
    keep_ = true;  // they are that run's
    throw usage_error("belongs to another run: model, text, options, version or instruction set differ")
        .file(journal_path_)
        .hint("use --force to start again");
  }
  for (int i = 0; i < 2; ++i) {
    if (stat(state_path(i).c_str(), &st) != 0) return;  // then there is nothing to go on from
  }
  at_ = end + 1;
  while ((end = text.find('\n', at_)) != std::string::npos) {
    finished_.push_back(parse_json(std::string_view(text).substr(at_, end - at_), journal_path_));
    at_ = end + 1;
  }
}

void Checkpoint::add(const Json& layer) {
  std::string line = layer.dump() + "\n";
  write_all(journal_.get(), std::as_bytes(std::span(line)), at_, journal_path_);
  at_ += line.size();
  sync_fd(journal_.get(), journal_path_);
}

Checkpoint::~Checkpoint() {
  if (!named() || keep_) return;
  unlink(journal_path_.c_str());
  for (int i = 0; i < 2; ++i) unlink(state_path(i).c_str());
}

}  // namespace qp
