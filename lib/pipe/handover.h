// How stages hand over (DESIGN.md, "The pipe contract"): where a qmap is written, the handle line
// that tells the next stage, and how the next stage finds it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "lib/base/file.h"
#include "lib/base/hash.h"

namespace qp {

// What standard output is decides what is written there.
enum class StdoutKind { nowhere, regular, pipe };  // nowhere: a terminal, /dev/null, closed
StdoutKind stdout_kind();

struct OutputOptions {
  std::string path;    // -o FILE; empty: standard output decides
  bool force = false;
  bool resume = false;  // keep FILE.partial and continue it
  bool resumable = false;  // FILE.partial is kept when the work is interrupted
  bool stream = false;  // the qmap itself through the pipe
  bool sync = true;
  bool many = false;  // one of several results: its handle is left to the caller
  bool spill = false;  // an unnamed file for this process alone, never handed over
  std::vector<std::string> inputs;  // files the output must not overwrite
};

// What can be refused before long work: FILE is no regular file, an input, there already, or begun by
// an unfinished run. Errors: usage, system.
void check_output(const OutputOptions& options);

// Where a qmap goes. Write to fd(), then commit(). Destroyed without commit, it leaves nothing
// under the final name and, unless told to keep it, no partial file and no journal of one. What it
// resumes it keeps, unless told not to.
class QmapOutput {
 public:
  // Errors: usage (nowhere to write), system (exists, cannot create), limit.
  explicit QmapOutput(OutputOptions options);
  ~QmapOutput();
  QmapOutput(const QmapOutput&) = delete;
  QmapOutput& operator=(const QmapOutput&) = delete;

  int fd() const { return fd_.get(); }
  const std::string& label() const { return label_; }  // for messages
  const std::string& base() const { return base_; }    // what relative paths start from
  bool unnamed() const { return unnamed_; }
  bool resuming() const { return resuming_; }
  bool sync() const;
  // The line that hands over what has a name, with its newline.
  std::string handle(const Hash128& id) const;
  // FILE.partial stays when commit() is never reached (its content is worth resuming).
  void keep_partial(bool keep) { keep_ = keep; }

  // The file is complete and synced: gives it its name, and hands it over where standard output
  // is a pipe. Returns when the next stage has it. Errors: system (nobody took it in 30 s).
  void commit(const Hash128& id);

 private:
  void open_file();
  void open_spill();
  void stream_out();

  OutputOptions options_;
  Fd fd_;
  std::string label_, base_, partial_;
  bool unnamed_ = false, resuming_ = false, keep_ = false, done_ = false, to_stdout_ = false;
};

// $QPIPE_TMPDIR, $TMPDIR or /var/tmp.
std::string spill_directory();
// An unnamed file in it: gone when the last descriptor closes.
Fd make_spill();

// A handle or a qmap on standard input (`path` "-" or ""), in a FIFO, or in a file.
struct QmapInput {
  std::shared_ptr<const MappedFile> file;
  std::string base;  // directory of the file (or the working directory, for an unnamed one)
  bool named = false;
  std::string directory = {};  // a handle to a checkpoint (qexport's): then there is no file
};
// Errors: usage (terminal), input (empty, damaged handle, wrong id), system.
QmapInput open_qmap_input(const std::string& path);
// True when `path` is "-", a pipe, a FIFO, or a file that starts as a qmap or a handle does.
bool is_qmap_input(const std::string& path);

// Writes a line to standard output when it is a pipe (qexport's handle to a directory), else not.
void hand_over_directory(const std::string& directory);

}  // namespace qp
