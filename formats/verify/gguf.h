// A GGUF as it lies on disk, held against what llama.cpp's loader asks of it: metadata, vocabulary,
// tensor table. The numbers in its tensors are check_numbers()' work.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "formats/container/gguf.h"
#include "lib/qmap/model.h"
#include "lib/verify/numbers.h"

namespace qp {

// Beside what is wrong: what llama.cpp does about it.
struct GgufFinding : Finding {
  std::string topic = {};  // of a rule in lib/target/engines/llama_cpp.cc; "": `rule`
  std::string about = {};  // the tensor or key that its message names, or what it says
  void loader(std::string rule_topic, std::string message = "") {
    topic = std::move(rule_topic);
    about = std::move(message);
  }
};

// Whether the file starts as a GGUF does. False for what cannot be read.
bool is_gguf(const std::string& path);

// One file, or all shards given the first. `model` is what the loader made of it, or null:
// config.json's values tell which keys a converter would have written. A file that does not parse
// has no findings here (opening it has failed), nor have files of other kinds than models but what
// all GGUFs share.
std::vector<GgufFinding> check_gguf(const std::string& path, const Model* model);
// The same of shards that are parsed already: one or more, the first has the metadata. `as_model`:
// as llama.cpp does it, which takes every file for a model.
std::vector<GgufFinding> check_gguf(std::span<const GgufFile> shards, const Model* model,
                                    bool as_model = false);

}  // namespace qp
