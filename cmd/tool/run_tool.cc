#include "cmd/tool/run_tool.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <iostream>

#include "cmd/tool/generate.h"
#include "cmd/tool/progress_line.h"
#include "lib/base/file.h"
#include "lib/base/interrupt.h"
#include "lib/base/parallel.h"

namespace qp {
namespace {

void add_common(CLI::App& app, CommonOptions& o, std::string& generate) {
  app.add_option("-j,--threads", o.threads, "Threads (default: one per processor)")
      ->check(CLI::Range(1, 1024))
      ->type_name("N")
      ->group("Common");
  app.add_option("--max-memory", o.max_memory,
                 "Memory to stay under, as 8G or 80% of what the cgroup allows")
      ->type_name("SIZE")
      ->capture_default_str()
      ->group("Common");
  app.add_flag("--json", o.json, "Results as JSON on standard output")->group("Common");
  app.add_flag("-q,--quiet", o.quiet, "Print errors only")->group("Common");
  app.add_flag("-v,--verbose", o.verbose, "Say more; repeat for more")->group("Common");
  app.add_flag("--strict", o.strict, "Treat warnings as errors (exit 2)")->group("Common");
  app.add_option("--print-page", generate)->group("");  // man, bash, zsh, fish: for the build
}

std::string footer(const ToolInfo& info) {
  std::string text = "Examples:\n";
  for (const auto& [command, what] : info.examples) text += "  # " + what + "\n  " + command + "\n";
  text += "\nExit status: 0 done, 1 check failed (qverify), 2 usage, 3 bad input, 4 system, "
          "5 limit, 70 defect.\nManual: man " + info.name;
  return text;
}

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* o : app.get_options()) {
    for (const std::string& n : o->get_lnames()) names.push_back("--" + n);
  }
  return names;
}

// CLI11's parse errors in the house's words. Returns the exit status.
int report_parse_error(const CLI::App& app, const CLI::ParseError& e, const ToolInfo& info) {
  if (e.get_exit_code() == 0) return app.exit(e);  // --help, --version
  std::string what = e.what();
  std::string hint = "see " + info.name + " --help";
  if (dynamic_cast<const CLI::ExtrasError*>(&e) != nullptr) {
    // "The following argument was not expected: --foo"
    std::string word = what.substr(what.rfind(' ') + 1);
    what = word.starts_with("-") ? "unknown option '" + printable(word) + "'"
                                 : "unexpected argument '" + printable(word) + "'";
    std::string mean = did_you_mean(word, option_names(app));
    if (!mean.empty()) hint = mean;
  }
  std::cerr << info.name << ": " << what << "; " << hint << "\n";
  return static_cast<int>(ErrorKind::usage);
}

// A file opened while one of 0, 1, 2 is closed would get its number, and messages their place in it.
void keep_standard_descriptors() {
  for (int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (fcntl(fd, F_GETFD) == -1 && open("/dev/null", O_RDWR) < 0) _exit(4);
  }
}

// Everything a body can throw ends here. Returns the exit status.
int guarded(Tool& tool, const std::function<int(Tool&)>& body) {
  const std::string& name = tool.info.name;
  try {
    set_threads(tool.options.threads);
    tool.max_memory();  // checks its spelling
    int status = body(tool);
    if (status == 0 && tool.options.strict && tool.warnings() > 0) {
      std::cerr << name << ": " << tool.warnings() << " warnings with --strict\n";
      return static_cast<int>(ErrorKind::usage);
    }
    return status;
  } catch (const Interrupted& stop) {
    std::cerr << name << ": interrupted\n";
    std::signal(stop.signal, SIG_DFL);
    std::raise(stop.signal);
    return 128 + stop.signal;
  } catch (const Error& e) {
    std::cerr << name << ": " << e.what() << "\n";
    if (e.kind() == ErrorKind::defect) {
      std::cerr << name << ": this is a defect of qpipe " << QP_VERSION
                << "; please report it with the command line and the lines above\n";
    }
    return e.exit_code();
  } catch (const std::bad_alloc&) {
    std::cerr << name << ": out of memory; use fewer threads (-j 1) or free some\n";
    return static_cast<int>(ErrorKind::limit);
  } catch (const std::exception& e) {
    std::cerr << name << ": unexpected: " << e.what() << "; this is a defect of qpipe " << QP_VERSION
              << ", please report it with the command line\n";
    return static_cast<int>(ErrorKind::defect);
  }
}

// A result that could not be written is not a success.
int flush_stdout(const std::string& name, int status) {
  std::cout.flush();
  if (std::cout.good() || status != 0) return status;
  std::cerr << name << ": cannot write to standard output\n";
  return static_cast<int>(ErrorKind::system);
}

}  // namespace

void Tool::warn(const std::string& text) {
  ++warnings_;
  if (!options.quiet) std::cerr << info.name << ": warning: " << text << "\n";
}

void Tool::say(const std::string& text, int level) {
  if (!options.quiet && options.verbose >= level) std::cerr << info.name << ": " << text << "\n";
}

Progress& Tool::progress() {
  if (!progress_) progress_ = make_progress_line(info.name, options.quiet);
  return *progress_;
}

uint64_t Tool::max_memory() const {
  return parse_size(options.max_memory, "--max-memory", available_memory());
}

int run_tool(const ToolInfo& info, int argc, char** argv,
             const std::function<void(CLI::App&)>& declare, const std::function<int(Tool&)>& body) {
  keep_standard_descriptors();
  install_fault_handler();
  install_interrupt_handlers();
  std::signal(SIGXFSZ, SIG_IGN);  // RLIMIT_FSIZE becomes EFBIG
  CommonOptions options;
  std::string generate;
  CLI::App app(info.summary, info.name);
  app.set_version_flag("--version", info.name + " (qpipe) " QP_VERSION);
  app.footer(footer(info));
  app.get_formatter()->column_width(34);
  declare(app);
  add_common(app, options, generate);
  // `--ignore A INPUT` is one pattern and the input, not two patterns; of `-j 1 -j 2` the last wins.
  for (CLI::Option* o : app.get_options()) {
    if (o->get_positional()) continue;
    o->allow_extra_args(false);
    if (o->get_items_expected_max() == 1) o->take_last();
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return report_parse_error(app, e, info);
  }
  if (!generate.empty()) return generate_text(generate, info, app);
  Tool tool(info, options);
  return flush_stdout(info.name, guarded(tool, body));
}

std::string human_bytes(double bytes) {
  static constexpr std::array<const char*, 6> kUnits = {"B", "kB", "MB", "GB", "TB", "PB"};
  size_t unit = 0;
  while (bytes >= 1000 && unit + 1 < kUnits.size()) {
    bytes /= 1000;
    ++unit;
  }
  char text[32];
  int digits = unit == 0 || bytes >= 100 ? 0 : bytes >= 10 ? 1 : 2;
  std::snprintf(text, sizeof text, "%.*f %s", digits, bytes, kUnits[unit]);
  return text;
}

uint64_t parse_size(const std::string& text, const std::string& option, uint64_t whole) {
  auto fail = [&] {
    return usage_error(option + " '" + printable(text) + "' is no size (expected 512MiB, 8G, 5GB" +
                       (whole > 0 ? " or 80%)" : ")"));
  };
  double value = 0;
  auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (ec != std::errc() || !(value > 0)) throw fail();
  std::string unit(end, text.data() + text.size());
  if (unit == "%" && whole > 0) {
    if (value > 100) throw fail();
    return static_cast<uint64_t>(static_cast<double>(whole) * value / 100);
  }
  double factor = 1;
  if (!unit.empty() && unit != "B") {
    auto power = std::string_view("KMGT").find(static_cast<char>(unit[0] & ~0x20));
    std::string_view rest = std::string_view(unit).substr(1);
    if (power == std::string_view::npos || (rest != "" && rest != "B" && rest != "iB")) throw fail();
    factor = std::pow(rest == "iB" ? 1024.0 : 1000.0, static_cast<double>(power + 1));
  }
  double bytes = value * factor;
  if (bytes < 1 || bytes > 1e18) throw fail();
  return static_cast<uint64_t>(bytes);
}

bool color_on(int fd) {
  const char* no = std::getenv("NO_COLOR");
  return (no == nullptr || *no == '\0') && isatty(fd) != 0;
}

}  // namespace qp
