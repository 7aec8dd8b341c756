// Texts and token files as one stream of ids.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace qp {

// The documents of all files, with a blank line between one and the next: what perplexity of a
// data set is measured on. Errors: system; input (a file's form, no text at all).
std::string read_texts(const std::vector<std::string>& paths, const std::optional<std::string>& field);

// All ids of a file, rows one after the other; forms as in token_windows() (lib/text/windows.h).
// Errors: system, input.
std::vector<int32_t> read_token_file(const std::string& path);

// A whole file or standard input ("-"), decompressed. Errors: system; input.
std::string read_whole(const std::string& path);

}  // namespace qp
