// What the options ask for: rules and results.
#include <sstream>

#include "cmd/qquantize/quantize.h"
#include "lib/config/algorithms.h"

namespace qp {
namespace {

constexpr std::string_view kSchemePlace = "{scheme}";  // of -o

}  // namespace

void QuantizeCommand::declare(CLI::App& app) {
  app.add_option("INPUT", input_, "qmap, handle or checkpoint; '-' or nothing: standard input");
  auto what = "Scheme";
  app.add_option("-s,--scheme", schemes_,
                 "Scheme of every linear; --list-schemes shows all; none: only what -a does before "
                 "it. Several, with commas or several -s: a result each, under the name that -o "
                 "makes of {scheme}; or, with a target, see Bit allocation")
      ->type_name("NAME")
      ->allow_extra_args(false)
      ->group(what);
  app.add_option("-a,--algorithm", algorithm_,
                 "How codes are chosen: steps that edit the model, then one that rounds, such as "
                 "gptq or awq,gptq; options follow as :KEY=VALUE; --list-algorithms shows all")
      ->type_name("NAME")
      ->capture_default_str()
      ->group(what);
  app.add_option("--compute", compute_,
                 "Inputs of products where the model is run: bf16, or f32 for exactness")
      ->check(CLI::IsMember({"bf16", "f32"}))
      ->capture_default_str()
      ->group(what);
  app.add_flag("--list-algorithms", list_algorithms_, "Print the algorithms and their options")
      ->group(what);
  app.add_option("--log", log_,
                 "Write lines of JSON: for each tensor quantized by running the model, and behind "
                 "those of a layer for the layer: the output's error as rounding would leave it "
                 "(error_rtn) and as it is (error), seconds, and forward_passes, how often the "
                 "calibration's tokens went through the layer; awq's searches likewise")
      ->type_name("FILE")
      ->group(what);
  app.add_option("--num-bits", overrides_.num_bits, "Bits of integer weights, 2 to 8")
      ->type_name("N")
      ->group(what);
  app.add_option("--group-size", overrides_.group_size,
                 "Columns per scale: 32, 64, 128, 256, channel or tensor")
      ->type_name("N")
      ->group(what);
  app.add_option("--symmetric", overrides_.symmetric,
                 "true: no zero points; false: with zero points")
      ->type_name("BOOL")
      ->check(CLI::IsMember({"true", "false"}))
      ->group(what);
  app.add_option("--numerics", overrides_.numerics,
                 "Whose arithmetic makes the numbers: compressed-tensors (default), modelopt, "
                 "deepgemm, transformers, sglang, quark, modelslim")
      ->type_name("NAME")
      ->group(what);
  app.add_flag("--pure", pure_,
               "With a file type of llama-quantize's (q4_k_m): every matrix in its default type")
      ->group(what);
  app.add_option("--output-tensor-type", output_type_, "The same: ggml's type of the output head")
      ->type_name("TYPE")
      ->group(what);
  app.add_option("--token-embedding-type", embedding_type_,
                 "The same: ggml's type of the token table")
      ->type_name("TYPE")
      ->group(what);
  app.add_option("--kv-cache", kv_cache_,
                 "Scales of keys and values too, from the calibration: fp8")
      ->type_name("TYPE")
      ->check(CLI::IsMember({"fp8"}))
      ->group(what);
  app.add_option("--recipe", recipe_, "Rules from a recipe or a plan (JSON with comments)")
      ->type_name("FILE")
      ->group(what);
  app.add_option(
         "--ignore", ignore_,
         "Keep these as they are: a name, re:REGEX or a kind (Linear, Expert ..); repeatable")
      ->type_name("PATTERN")
      ->group(what);
  app.add_flag("--list-schemes", list_schemes_, "Print the schemes and what peers call them")
      ->group(what);
  auto_.declare(app);
  target_.declare(app);
  auto plan = "Plan";
  app.add_flag(
         "--dry-run", dry_run_,
         "Print what would happen to every tensor, and why; with --json a plan --recipe takes")
      ->group(plan);
  app.add_option("--explain", explain_, "Print what happens to one tensor")
      ->type_name("TENSOR")
      ->group(plan);
  output_.declare(app);
  auto out = "Output";
  app.add_flag("--resume", resume_, "Continue FILE.partial of an interrupted run")->group(out);
  app.add_flag("--refer", refer_,
               "Refer to the source's files for kept tensors instead of copying them")
      ->group(out);
  app.add_flag("--no-check", no_check_, "Do not compare checksums while reading")->group("Input");
}

// The names that every -s lists.
std::vector<std::string> QuantizeCommand::scheme_names() const {
  std::vector<std::string> names;
  for (const std::string& list : schemes_) {
    std::istringstream in(list + ",");
    for (std::string name; std::getline(in, name, ',');) {
      if (name.empty()) throw usage_error("-s " + printable(list) + " has an empty name");
      names.push_back(name);
    }
  }
  return names;
}

// -s NAME: a file type of llama-quantize's, or a scheme for every linear.
Rule QuantizeCommand::rule_of_options(const std::string& name) const {
  std::string source = "--scheme " + (name.empty() ? "(composed)" : name);
  const Mix* mix = find_mix(name);
  if (mix != nullptr && !overrides_.any()) {
    return mix_rule({mix, pure_, block_type(output_type_, "--output-tensor-type"),
                     block_type(embedding_type_, "--token-embedding-type")},
                    source);
  }
  Rule rule = scheme_rule({}, source);
  if (name == "none" && !overrides_.any()) return rule;  // edits alone
  rule.scheme = compose_scheme(name, overrides_);
  if (!name.empty() && !overrides_.any()) rule.experts = expert_scheme(name);
  return rule;
}

Recipe QuantizeCommand::recipe(const std::string& name) const {
  bool of_mix = pure_ || !output_type_.empty() || !embedding_type_.empty();
  if (of_mix && (auto_.asked() || overrides_.any() || find_mix(name) == nullptr)) {
    throw usage_error(
        "--pure, --output-tensor-type and --token-embedding-type are about llama-quantize's file "
        "types")
        .hint("give one to -s, such as q4_k_m");
  }
  Recipe r;
  if (!recipe_.empty()) r = read_recipe(recipe_);
  if (!auto_.asked() && (!name.empty() || overrides_.any())) {
    parse_algorithm(algorithm_);
    Rule rule = rule_of_options(name);
    rule.algorithm = algorithm_;
    r.rules.push_back(std::move(rule));
  }
  if (r.rules.empty() && kv_cache_.empty() && !auto_.asked()) {
    throw usage_error("nothing says how to quantize")
        .hint("give -s SCHEME (see --list-schemes) or --recipe FILE");
  }
  for (const std::string& pattern : ignore_) r.ignore.emplace_back(pattern);
  return r;
}

// What -s and -o ask for: with a target one result, else one for each scheme.
std::vector<QuantizeCommand::Result> QuantizeCommand::results() const {
  std::vector<std::string> names = scheme_names();
  if (auto_.asked() || names.empty()) names = {""};
  if (names.size() > 1 && output_.path.empty() && !looking()) {
    throw usage_error("several schemes make several results, and nothing names them")
        .hint(
            "give -o 'NAME-{scheme}.qmap', or --target-bpw N or --target-size SIZE to choose "
            "among the schemes");
  }
  bool placed = output_.path.find(kSchemePlace) != std::string::npos;
  if (names.size() > 1 && !placed && !output_.path.empty()) {
    throw usage_error("-o " + printable(output_.path) + " names one file for " +
                      std::to_string(names.size()) + " results")
        .hint(
            "put {scheme} into it for a file each, or give --target-bpw N or --target-size SIZE "
            "to choose among the schemes");
  }
  if (placed && names.front().empty()) {
    throw usage_error("-o " + printable(output_.path) + " asks for a scheme, and -s names " +
                      (auto_.asked() ? "several for one result" : "none"))
        .hint("write the file's name out");
  }
  std::vector<Result> all;
  for (const std::string& name : names) {
    for (const Result& r : all) {
      if (r.scheme == name) throw usage_error("-s names " + printable(name) + " twice");
    }
    Result r{name, output_.path, recipe(name), {}};
    for (size_t at = 0; (at = r.path.find(kSchemePlace, at)) != std::string::npos;) {
      r.path.replace(at, kSchemePlace.size(), name);
      at += name.size();
    }
    all.push_back(std::move(r));
  }
  return all;
}

}  // namespace qp
