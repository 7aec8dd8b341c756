#include "formats/verify/sums.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <map>
#include <numeric>
#include <set>

#include "formats/hf/directory.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/base/interrupt.h"
#include "lib/base/parallel.h"
#include "lib/base/sha256.h"

namespace qp {
namespace fs = std::filesystem;
namespace {

constexpr uint64_t kMaxManifest = uint64_t{1} << 28;
constexpr uint64_t kChunk = 4 << 20;
constexpr size_t kDigits = 64;

bool is_directory(const std::string& path) {
  std::error_code ec;
  return fs::is_directory(path, ec);
}

struct Listed {
  std::string name, path;
  uint64_t size = 0;
};

std::string folder_of(const std::string& checkpoint) {
  return is_directory(checkpoint) ? checkpoint : fs::path(checkpoint).parent_path().string();
}

std::string beside(const std::string& folder, const std::string& name) {
  return folder.empty() ? name : folder + "/" + name;
}

uint64_t size_of(const std::string& path) {
  struct stat st {};
  if (stat(path.c_str(), &st) != 0) throw system_error("cannot open", errno).file(path);
  return static_cast<uint64_t>(st.st_size);
}

bool same_file(const std::string& a, const std::string& b) {
  struct stat x {
  }, y{};
  return stat(a.c_str(), &x) == 0 && stat(b.c_str(), &y) == 0 && x.st_dev == y.st_dev &&
         x.st_ino == y.st_ino;
}

// Without what --manifest write is about to write, or has.
std::vector<Listed> files_of(const std::string& checkpoint, const std::string& manifest) {
  std::vector<Listed> out;
  if (!is_directory(checkpoint)) {
    out.push_back({fs::path(checkpoint).filename().string(), checkpoint, size_of(checkpoint)});
    return out;
  }
  Directory d = read_directory(checkpoint);
  for (const std::string& name : d.files) {
    std::string full = d.full(name);
    if (!same_file(full, manifest)) out.push_back({name, full, size_of(full)});
  }
  return out;
}

std::string sum_of(const Listed& f, Progress& progress) {
  Sha256 hash;
  progress.item(f.name);
  if (f.size == 0) return hash.hex();  // nothing to map
  auto file = MappedFile::open(f.path);
  for (uint64_t at = 0; at < file->size(); at += kChunk) {
    throw_if_interrupted();
    uint64_t n = std::min(kChunk, file->size() - at);
    hash.update(file->bytes().subspan(at, n));
    file->drop(at, n);
    progress.add(n);
  }
  file->throw_if_changed();
  return hash.hex();
}

std::vector<FileSum> sums_of(const std::vector<Listed>& files, Progress& progress) {
  uint64_t total = 0;
  for (const Listed& f : files) total += f.size;
  progress.begin("hashing", total);
  // The largest first: a thread's last file is a short one.
  std::vector<size_t> order(files.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, std::greater(), [&](size_t i) { return files[i].size; });
  std::vector<FileSum> sums(files.size());
  parallel_for(order.size(), [&](size_t k, int) {
    const Listed& f = files[order[k]];
    sums[order[k]] = {f.name, sum_of(f, progress)};
  });
  progress.end();
  std::ranges::sort(sums, {}, &FileSum::name);
  return sums;
}

std::string escaped(const std::string& name) {
  std::string out;
  for (char c : name) {
    if (c == '\\')
      out += "\\\\";
    else if (c == '\n')
      out += "\\n";
    else if (c == '\r')
      out += "\\r";
    else
      out += c;
  }
  return out;
}

bool unescape(std::string& name) {
  std::string out;
  for (size_t i = 0; i < name.size(); ++i) {
    if (name[i] != '\\') {
      out += name[i];
      continue;
    }
    if (++i == name.size()) return false;
    char c = name[i];
    if (c != '\\' && c != 'n' && c != 'r') return false;
    out += c == 'n' ? '\n' : c == 'r' ? '\r' : '\\';
  }
  name = std::move(out);
  return true;
}

bool is_sum(std::string_view s) {
  return s.size() == kDigits && std::ranges::all_of(s, [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
         });
}

// A line's name and sum; false for what is neither form.
bool parse_line(std::string_view line, FileSum& out) {
  bool escape = line.starts_with('\\');
  if (escape) line.remove_prefix(1);
  constexpr std::string_view kBsd = "SHA256 (";
  if (line.starts_with(kBsd)) {
    auto end = line.rfind(") = ");
    if (end == std::string_view::npos || end < kBsd.size()) return false;
    out = {std::string(line.substr(kBsd.size(), end - kBsd.size())),
           std::string(line.substr(end + 4))};
  } else {
    if (line.size() < kDigits + 3 || line[kDigits] != ' ') return false;
    if (line[kDigits + 1] != ' ' && line[kDigits + 1] != '*') return false;
    out = {std::string(line.substr(kDigits + 2)), std::string(line.substr(0, kDigits))};
  }
  if (!is_sum(out.sha256) || out.name.empty()) return false;
  std::ranges::transform(out.sha256, out.sha256.begin(), [](char c) {
    return c >= 'A' && c <= 'F' ? static_cast<char>(c + 32) : c;
  });
  if (escape && !unescape(out.name)) return false;
  while (out.name.starts_with("./")) out.name.erase(0, 2);  // find . | xargs sha256sum
  return true;
}

bool leads_out(const std::string& name) {
  if (name.empty() || name.front() == '/' || name.find('\0') != std::string::npos) return true;
  return std::ranges::any_of(fs::path(name), [](const fs::path& p) { return p == ".."; });
}

}  // namespace

std::string default_manifest(const std::string& checkpoint) {
  return is_directory(checkpoint) ? checkpoint + "/SHA256SUMS" : checkpoint + ".sha256";
}

std::vector<FileSum> sum_files(const std::string& checkpoint, const std::string& manifest,
                               Progress& progress) {
  return sums_of(files_of(checkpoint, manifest), progress);
}

std::string manifest_text(const std::vector<FileSum>& sums) {
  std::string out;
  for (const FileSum& s : sums) {
    std::string name = escaped(s.name);
    out += (name == s.name ? "" : "\\") + s.sha256 + "  " + name + "\n";
  }
  return out;
}

std::vector<FileSum> parse_manifest(std::string_view text, std::vector<Finding>& findings) {
  std::map<std::string, std::string> sums;
  auto add = [&](size_t number, std::string what) {
    findings.push_back({Severity::error, "manifest-format", "",
                        "line " + std::to_string(number) + " " + std::move(what),
                        "write the manifest anew"});
  };
  for (size_t number = 1; !text.empty(); ++number) {
    auto end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || line.starts_with('#')) continue;
    FileSum sum;
    if (!parse_line(line, sum)) {
      add(number, "is no SHA-256 sum with a name");
    } else if (leads_out(sum.name)) {
      add(number, "names a file outside of the checkpoint: " + printable(sum.name));
    } else if (auto [it, fresh] = sums.emplace(sum.name, sum.sha256);
               !fresh && it->second != sum.sha256) {
      add(number, "gives " + printable(sum.name) + " a second sum");
    }
  }
  std::vector<FileSum> out;
  for (auto& [name, sum] : sums) out.push_back({name, sum});
  return out;
}

std::vector<std::pair<std::string, std::string>> manifest_rules() {
  return {{"manifest-format", "the manifest parses and names files of its directory"},
          {"manifest-missing", "every file of the manifest is there"},
          {"manifest-changed", "every file has the SHA-256 of the manifest"},
          {"manifest-extra", "every file is in the manifest"}};
}

std::vector<Finding> check_manifest(const std::string& checkpoint, const std::string& manifest,
                                    Progress& progress) {
  std::vector<Finding> findings;
  auto add = [&](const char* rule, const std::string& name, const char* what, const char* hint) {
    findings.push_back({Severity::error, rule, "", printable(name) + " " + what, hint});
  };
  std::vector<FileSum> wanted = parse_manifest(read_text_file(manifest, kMaxManifest), findings);
  std::string folder = folder_of(checkpoint);
  bool directory = is_directory(checkpoint);
  std::string only = directory ? "" : fs::path(checkpoint).filename().string();
  // A file's manifest may list its neighbours, which are none of our business.
  if (!directory) std::erase_if(wanted, [&](const FileSum& s) { return s.name != only; });
  std::vector<Listed> there;
  std::set<std::string> listed;
  for (const FileSum& s : wanted) {
    listed.insert(s.name);
    std::string path = beside(folder, s.name);
    std::error_code ec;
    if (fs::is_regular_file(path, ec)) {
      there.push_back({s.name, path, size_of(path)});
    } else {
      add("manifest-missing", s.name, "is in the manifest, but not there", "fetch it again");
    }
  }
  for (const Listed& f : files_of(checkpoint, manifest)) {
    if (listed.contains(f.name)) continue;
    add("manifest-extra", f.name, "is not in the manifest",
        "remove it, or write the manifest anew");
  }
  std::map<std::string, std::string> found;
  for (FileSum& s : sums_of(there, progress)) found.emplace(std::move(s.name), std::move(s.sha256));
  for (const FileSum& s : wanted) {
    auto it = found.find(s.name);
    if (it != found.end() && it->second != s.sha256) {
      add("manifest-changed", s.name, "is not what the manifest says: its SHA-256 differs",
          "fetch it again");
    }
  }
  return findings;
}

}  // namespace qp
