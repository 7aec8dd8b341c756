#include "lib/calibration/checkpoint.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "lib/base/error.h"

namespace qp {
namespace {

constexpr uint64_t kMaxJournal = uint64_t{1} << 30;

// Another one each time the machine starts.
std::string boot_id() {
  try {
    return read_text_file("/proc/sys/kernel/random/boot_id", 64);
  } catch (const Error&) {
    return "";
  }
}

}  // namespace

std::string Checkpoint::state_path(size_t i) const {
  return partial_ + ".states" + std::to_string(i);
}

Checkpoint::Checkpoint(const std::string& partial, const std::string& run, bool resume)
    : partial_(partial) {
  if (partial.empty()) {
    states_ = spill_states();
    return;
  }
  journal_path_ = partial + ".journal";
  if (resume) read(run);
  int flags = O_RDWR | O_CREAT | O_CLOEXEC | (finished_.empty() ? O_TRUNC : 0);
  for (size_t i = 0; i < states_.size(); ++i) {
    states_[i].reset(open(state_path(i).c_str(), flags, 0666));
    if (!states_[i]) throw system_error("cannot create", errno).file(state_path(i));
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
  for (size_t i = 0; i < states_.size(); ++i) {
    if (stat(state_path(i).c_str(), &st) != 0) return;  // then there is nothing to go on from
  }
  std::vector<Json> lines;
  size_t at = end + 1, count = 0;  // of lines that can be taken over
  std::string boot = boot_id();
  for (; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
    Json line = parse_json(std::string_view(text).substr(at, end - at), journal_path_);
    bool synced = json_bool(line, "synced", false);
    if (synced || json_string(line, "boot", "") == boot) {
      count = lines.size() + 1;
      durable_ = synced;
      at_ = end + 1;
      state_ = static_cast<size_t>(json_int(line, "state", 0));
    }
    lines.push_back(line["layer"]);
  }
  // Of lines before one that counts, only statistics are needed, and those were synced with it or
  // are of this boot as well.
  lines.resize(count);
  finished_ = std::move(lines);
}

void Checkpoint::add(const Json& layer, size_t state, bool synced) {
  Json entry = {{"state", state}, {"synced", synced}, {"boot", boot_id()}, {"layer", layer}};
  std::string line = entry.dump() + "\n";
  write_all(journal_.get(), std::as_bytes(std::span(line)), at_, journal_path_);
  at_ += line.size();
  if (synced) sync_fd(journal_.get(), journal_path_);
}

Checkpoint::~Checkpoint() {
  if (!named() || keep_) return;
  unlink(journal_path_.c_str());
  for (size_t i = 0; i < states_.size(); ++i) unlink(state_path(i).c_str());
}

}  // namespace qp
