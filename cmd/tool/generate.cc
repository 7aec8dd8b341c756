#include "cmd/tool/generate.h"

#include <cctype>
#include <iostream>
#include <map>

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

// Backslashes, and lines that would start with a control character.
std::string roff(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else {
      if ((c == '.' || c == '\'') && (out.empty() || out.back() == '\n')) out += "\\&";
      out += c;
    }
  }
  return out;
}

void man_options(const CLI::App& app) {
  std::string group;
  for (const Entry& e : entries(app)) {
    if (e.option->get_group() != group) {
      if (!group.empty()) std::cout << ".El\n";
      group = e.option->get_group();
      std::cout << ".Ss " << group << "\n.Bl -tag -width Ds\n";
    }
    std::cout << ".It ";
    bool both = !e.short_name.empty() && !e.long_name.empty();
    if (!e.short_name.empty()) std::cout << "Fl " << e.short_name;
    if (both) std::cout << " , ";
    if (!e.long_name.empty()) std::cout << "Fl Fl " << roff(e.long_name);
    if (!e.value.empty()) std::cout << " Ar " << e.value;
    std::cout << "\n" << roff(e.help) << ".\n";
    if (!e.option->get_default_str().empty()) {
      std::cout << "The default is " << roff(e.option->get_default_str()) << ".\n";
    }
  }
  if (!group.empty()) std::cout << ".El\n";
}

void man(const ToolInfo& info, const CLI::App& app) {
  std::string upper;
  for (char c : info.name) upper += static_cast<char>(std::toupper(c));
  std::cout << ".\\\" Made by `" << info.name << " --generate man`; do not edit.\n.Dd November 21, 2026\n.Dt "
            << upper << " 1\n.Os qpipe\n.Sh NAME\n.Nm " << info.name << "\n.Nd " << roff(info.summary)
            << "\n.Sh SYNOPSIS\n.Nm\n.Op Ar options\n";
  for (const CLI::Option* o : positionals(app)) {
    std::cout << (o->get_required() ? ".Ar " : ".Op Ar ") << o->get_name(true) << "\n";
  }
  std::cout << ".Sh DESCRIPTION\n" << roff(info.description) << "\n.Sh OPTIONS\n";
  man_options(app);
  std::cout << ".Sh ENVIRONMENT\n.Bl -tag -width Ds\n"
               ".It Ev QPIPE_ISA\nInstruction set to use: scalar, avx2, avx512 or neon. Results do not depend on it.\n"
               ".It Ev QPIPE_TMPDIR\nWhere results of a pipeline are kept until the next program has them; else\n"
               ".Ev TMPDIR ,\nelse\n.Pa /var/tmp .\n"
               ".It Ev NO_COLOR\nNo colours.\n.El\n"
               ".Sh EXIT STATUS\n.Bl -tag -width Ds -compact\n"
               ".It 0\ndone\n.It 1\nqverify: the checkpoint failed a check\n"
               ".It 2\nusage: arguments or recipe are wrong\n"
               ".It 3\ninput is malformed, changed, or of a kind that is not supported\n"
               ".It 4\nan operating system error: not found, no space, nobody took the result\n"
               ".It 5\na limit: memory, a lossy step that was not allowed, a target that cannot hold a tensor\n"
               ".It 70\na defect of qpipe\n.El\n"
               ".Sh EXAMPLES\n";
  for (const auto& [command, what] : info.examples) {
    std::cout << roff(what) << ":\n.Pp\n.Dl " << roff(command) << "\n.Pp\n";
  }
  std::cout << ".Sh SEE ALSO\n";
  const char* comma = "";
  for (const char* other : {"qexport", "qload", "qquantize", "qverify"}) {
    if (info.name == other) continue;
    std::cout << comma << ".Xr " << other << " 1";
    comma = " ,\n";
  }
  std::cout << " ,\n.Xr qmap 5\n";
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
  std::cout << "# Made by `" << info.name << " --generate bash`; do not edit.\n_" << info.name
            << "() {\n  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
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
            << " --generate zsh`; do not edit.\n_arguments -s \\\n";
  for (const Entry& e : entries(app)) {
    std::string values = values_of(e);
    std::string tail = "[" + zsh_quote(e.help) + "]";
    if (!e.value.empty()) {
      tail += ":" + zsh_quote(e.value) + ":";
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
    for (char c : text) out += c == '\'' ? std::string("\\'") : std::string(1, c);
    return "'" + out + "'";
  };
  std::cout << "# Made by `" << info.name << " --generate fish`; do not edit.\n";
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
    std::cerr << info.name << ": --generate (expected man, bash, zsh or fish)\n";
    return 2;
  }
  return 0;
}

}  // namespace qp
