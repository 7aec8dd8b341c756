#include "cmd/tool/generate.h"

#include <cctype>
#include <iostream>
#include <map>
#include <sstream>

namespace qp {
namespace {

// Options whose values the program lists itself, so that completion never goes stale.
const std::map<std::string, std::string> kAskedValues = {
    {"scheme", "qquantize --list-schemes --quiet"},
    {"format", "qexport --list-formats --quiet"},
};
const std::map<std::string, std::string> kFixedValues = {
    {"symmetric", "true false"},
    {"group-size", "32 64 128 256 channel tensor"},
    {"num-bits", "2 3 4 5 6 7 8"},
    {"dtype", "BF16 F16 F32"},
    {"algorithm", "rtn"},
};

struct Entry {
  const CLI::Option* option;
  std::string long_name, short_name, value, help;
};

std::vector<Entry> entries(const CLI::App& app) {
  std::vector<Entry> out;
  for (const CLI::Option* o : app.get_options()) {
    if (o->get_group().empty() || o->get_positional()) continue;
    Entry e{o, "", "", "", o->get_description()};
    if (!o->get_lnames().empty()) e.long_name = o->get_lnames().front();
    if (!o->get_snames().empty()) e.short_name = o->get_snames().front();
    if (o->get_items_expected_max() > 0) e.value = o->get_type_name();
    out.push_back(std::move(e));
  }
  return out;
}

std::vector<const CLI::Option*> positionals(const CLI::App& app) {
  std::vector<const CLI::Option*> out;
  for (const CLI::Option* o : app.get_options()) {
    if (o->get_positional()) out.push_back(o);
  }
  return out;
}

// ---- man (mdoc)

// The release the pages were last reworked for, not the clock: equal programs give equal pages.
constexpr const char* kManualDate = "November 21, 2026";

// Backslashes; hyphens of options and commands, which readers copy, become minus signs.
std::string roff(const std::string& text, bool command) {
  std::string out;
  for (char c : text) {
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-' && command) {
      out += "\\-";
    } else {
      out += c;
    }
  }
  return out;
}

// Paragraphs as mdoc wants them: each sentence starts a line, no line over 78 characters, none
// that roff takes for a request.
std::string prose(const std::string& text) {
  std::istringstream words(text);
  std::string out, line, word;
  auto flush = [&] {
    if (!line.empty()) out += line + "\n";
    line.clear();
  };
  while (words >> word) {
    bool option = word.find('-') <= word.find_first_not_of("(`'\"");
    std::string safe = roff(word, option);
    if (line.size() + safe.size() + 1 > 78) flush();
    if (line.empty() && (safe[0] == '.' || safe[0] == '\'')) line += "\\&";
    line += (line.empty() || line == "\\&" ? "" : " ") + safe;
    if (word.size() > 1 && word.find_last_of(".?!") == word.size() - 1) flush();
  }
  flush();
  return out;
}

// The type's own name, without what its validators add ("N:INT in [1 - 1024]").
std::string value_name(const Entry& e) { return e.value.substr(0, e.value.find(':')); }

void man_options(const CLI::App& app) {
  std::cout << ".Sh OPTIONS\n";
  std::string group;
  for (const Entry& e : entries(app)) {
    if (e.option->get_group() != group) {
      if (!group.empty()) std::cout << ".El\n";
      group = e.option->get_group();
      std::cout << ".Ss " << (group == "Options" ? "About the program" : group)
                << "\n.Bl -tag -width Ds\n";
    }
    std::cout << ".It ";
    bool both = !e.short_name.empty() && !e.long_name.empty();
    if (!e.short_name.empty()) std::cout << "Fl " << e.short_name;
    if (both) std::cout << " , ";
    if (!e.long_name.empty()) std::cout << "Fl Fl " << roff(e.long_name, true);
    if (!e.value.empty()) std::cout << " Ar " << value_name(e);
    std::cout << "\n" << prose(e.help + ".");
    if (!e.option->get_default_str().empty()) {
      std::cout << prose("The default is " + e.option->get_default_str() + ".");
    }
  }
  if (!group.empty()) std::cout << ".El\n";
}

constexpr const char* kManTail = R"(.Sh ENVIRONMENT
.Bl -tag -width Ds
.It Ev QPIPE_ISA
Instruction set to use: scalar, avx2, avx512, avx512_bf16, amx or neon.
Quantized weights do not depend on it; the last bits of what a model computes
do.
.It Ev QPIPE_TMPDIR
Where results of a pipeline are kept until the next program has them; else
.Ev TMPDIR ,
else
.Pa /var/tmp .
.It Ev NO_COLOR
No colours.
.El
.Sh EXIT STATUS
.Bl -tag -width Ds -compact
.It 0
done
.It 1
qverify: the checkpoint failed a check
.It 2
usage: arguments or recipe are wrong
.It 3
input is malformed, changed, or of a kind that is not supported
.It 4
an operating system error: not found, no space, nobody took the result
.It 5
a limit: memory, a lossy step that was not allowed, a target that cannot hold
a tensor
.It 70
a defect of qpipe
.El
.Pp
A program that is interrupted cleans up and dies of the signal.
)";

void man(const ToolInfo& info, const CLI::App& app) {
  std::string upper;
  for (char c : info.name) upper += static_cast<char>(std::toupper(c));
  std::cout << ".\\\" Made by `" << info.name << " --print-page man`; do not edit.\n.Dd " << kManualDate
            << "\n.Dt " << upper << " 1\n.Os\n.Sh NAME\n.Nm " << info.name << "\n.Nd "
            << roff(info.summary, false) << "\n.Sh SYNOPSIS\n.Nm\n.Op Ar options\n";
  for (const CLI::Option* o : positionals(app)) {
    std::cout << (o->get_required() ? ".Ar " : ".Op Ar ") << o->get_name(true)
              << (o->get_items_expected_max() > 1 ? " ..." : "") << "\n";
  }
  std::cout << ".Sh DESCRIPTION\n" << prose(info.description) << ".Bl -tag -width Ds\n";
  for (const CLI::Option* o : positionals(app)) {
    std::cout << ".It Ar " << o->get_name(true) << "\n" << prose(o->get_description() + ".");
  }
  std::cout << ".El\n";
  man_options(app);
  std::cout << kManTail << ".Sh EXAMPLES\n";
  const char* gap = "";
  for (const auto& [command, what] : info.examples) {
    std::cout << gap << prose(what + ":") << ".Pp\n.Dl " << roff(command, true) << "\n";
    gap = ".Pp\n";
  }
  std::cout << ".Sh SEE ALSO\n";
  for (const char* other : {"qexport", "qload", "qquantize", "qverify"}) {
    if (info.name != other) std::cout << ".Xr " << other << " 1 ,\n";
  }
  std::cout << ".Xr qmap 5\n";
}

// ---- completions

std::string values_of(const Entry& e) {
  if (auto it = kAskedValues.find(e.long_name); it != kAskedValues.end()) return "$(" + it->second + " 2>/dev/null)";
  if (auto it = kFixedValues.find(e.long_name); it != kFixedValues.end()) return it->second;
  return "";
}

std::string words(const CLI::App& app) {
  std::string out;
  for (const Entry& e : entries(app)) {
    if (!e.long_name.empty()) out += (out.empty() ? "--" : " --") + e.long_name;
    if (!e.short_name.empty()) out += " -" + e.short_name;
  }
  return out;
}

void bash(const ToolInfo& info, const CLI::App& app) {
  std::cout << "# Made by `" << info.name << " --print-page bash`; do not edit.\n_" << info.name
            << "() {\n  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
               "  # --name=value comes as three words.\n"
               "  if [[ $cur == = ]]; then cur=; elif [[ $prev == = ]]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi\n"
               "  case $prev in\n";
  for (const Entry& e : entries(app)) {
    std::string values = values_of(e);
    if (values.empty()) continue;
    std::cout << "    --" << e.long_name << (e.short_name.empty() ? "" : "|-" + e.short_name)
              << ") COMPREPLY=($(compgen -W \"" << values << "\" -- \"$cur\")); return;;\n";
  }
  std::cout << "  esac\n  if [[ $cur == -* ]]; then\n    COMPREPLY=($(compgen -W \"" << words(app)
            << "\" -- \"$cur\"))\n  else\n    COMPREPLY=($(compgen -f -- \"$cur\"))\n  fi\n}\n"
               "complete -o filenames -F _" << info.name << " " << info.name << "\n";
}

std::string zsh_quote(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c == '\'') {
      out += "'\\''";
    } else if (c == '[' || c == ']' || c == ':' || c == '\\') {
      out += '\\';
      out += c;
    } else {
      out += c;
    }
  }
  return out;
}

void zsh(const ToolInfo& info, const CLI::App& app) {
  std::cout << "#compdef " << info.name << "\n# Made by `" << info.name
            << " --print-page zsh`; do not edit.\n_arguments -s \\\n";
  for (const Entry& e : entries(app)) {
    std::string values = values_of(e);
    std::string tail = "[" + zsh_quote(e.help) + "]";
    if (!e.value.empty()) {
      tail += ":" + zsh_quote(value_name(e)) + ":";
      if (values.starts_with("$(")) {
        tail += "{compadd -- " + values + "}";
      } else {
        tail += values.empty() ? "_files" : "(" + values + ")";
      }
    }
    if (!e.long_name.empty()) std::cout << "  '*--" << e.long_name << tail << "' \\\n";
    if (!e.short_name.empty()) std::cout << "  '*-" << e.short_name << tail << "' \\\n";
  }
  std::cout << "  '*:file:_files'\n";
}

void fish(const ToolInfo& info, const CLI::App& app) {
  auto quote = [](const std::string& text) {
    std::string out;
    for (char c : text) {
      if (c == '\'' || c == '\\') out += '\\';
      out += c;
    }
    return "'" + out + "'";
  };
  std::cout << "# Made by `" << info.name << " --print-page fish`; do not edit.\n";
  for (const Entry& e : entries(app)) {
    std::cout << "complete -c " << info.name;
    if (!e.short_name.empty()) std::cout << " -s " << e.short_name;
    if (!e.long_name.empty()) std::cout << " -l " << e.long_name;
    if (!e.value.empty()) std::cout << " -r";
    std::string values = values_of(e);
    if (values.starts_with("$(")) values = values.substr(1);  // fish: (command)
    if (!values.empty()) std::cout << " -f -a " << (values.front() == '(' ? "\"" + values + "\"" : quote(values));
    std::cout << " -d " << quote(e.help) << "\n";
  }
}

}  // namespace

int generate_text(const std::string& kind, const ToolInfo& info, const CLI::App& app) {
  if (kind == "man") {
    man(info, app);
  } else if (kind == "bash") {
    bash(info, app);
  } else if (kind == "zsh") {
    zsh(info, app);
  } else if (kind == "fish") {
    fish(info, app);
  } else {
    std::cerr << info.name << ": --print-page (expected man, bash, zsh or fish)\n";
    return 2;
  }
  return 0;
}

}  // namespace qp
