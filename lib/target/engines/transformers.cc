// transformers 5.x, with the library of each format: what from_pretrained does.
#include "lib/target/methods/methods.h"

namespace qp::target {
namespace {

using E = Effect;
constexpr const char* kLoading = "modeling_utils.py, transformers 5.23 (run)";

constexpr Rule kRules[] = {
    {"unknown-method", E::lies,
     "warns of a quant_method that it does not know, and loads codes as if they were values",
     "quantizers/auto.py, transformers 5.23 (run)", "export in a format that transformers reads",
     "Unknown quantization type, got {}"},
    {"no-method", E::refuses, "wants to know the method",
     "quantizers/auto.py, 5.23; compressed-tensors#174", "add quant_method to quantization_config",
     "The model's quantization config from the arguments has no `quant_method` attribute."},
    {"no-architecture", E::warns, "takes the model class from 'architectures' or model_type",
     "auto_factory.py", "copy config.json from the base model"},
    {"not-replayed", E::notes, "loads this method, but how is not known here", "reference pages",
     "run it"},
    {"scheme-not-known", E::notes, "no page says what becomes of this scheme", "reference pages",
     "run it"},
    {"unsupported-scheme", E::refuses, "builds empty modules that the stored ones do not fit",
     "compressed-tensors 0.20, transformers 5.23 (run)",
     "load it with another engine, or export another scheme", "{}"},
    {"missing-parameter", E::lies,
     "initialises it anew, with random numbers, and reports it as MISSING", kLoading,
     "write the tensor; qexport writes all of them"},
    {"missing-weight", E::lies,
     "initialises it anew, with random numbers, and reports it as MISSING", kLoading,
     "copy the tensor from the base model"},
    {"unexpected-tensor", E::lies, "reports it as UNEXPECTED and goes on without it", kLoading,
     "quantize the module in the config too, or store it unquantized"},
    {"unexpected-fused", E::lies, "reports it as UNEXPECTED and goes on without it", kLoading,
     "quantize the module in the config too, or store it unquantized"},
    {"wrong-shape", E::refuses, "stops at a size mismatch", kLoading,
     "export it anew; config.json and weights disagree",
     "You set `ignore_mismatched_sizes` to `False`, thus raising an error."},
    {"codes-as-values", E::lies, "copies codes into a float parameter: scales are not applied",
     kLoading, "restore quantization_config"},
    {"bad-pattern", E::refuses, "compiles every pattern of the config",
     "compressed_tensors/utils/match.py, 0.18", "correct the regular expression", "re.error"},
    {"ct-null-weights", E::warns, "takes a group without weights for one of activations",
     "compressed-tensors quant_scheme.py, 0.18", "drop the group"},
    {"ct-unknown-key", E::refuses,
     "validates the config with QuantizationConfig, which forbids other keys",
     "reference: compressed-tensors 6.4", "remove the key",
     "pydantic ValidationError: {}: Extra inputs are not permitted"},
    {"ct-invalid-args", E::refuses, "validates the config with QuantizationConfig",
     "reference: compressed-tensors 1.5, 6.4", "correct the group", "pydantic ValidationError"},
    {"gptq-dynamic-ignored", E::lies,
     "does not implement 'dynamic': every linear is built by the global settings",
     "README of GPTQModel; int4-formats 1.2", "give all modules one setting"},
    {"fp8-static", E::refuses, "takes dynamic activations only",
     "FineGrainedFP8Config; reference: fp8 1.1", "set activation_scheme to dynamic"},
    {"fp8-tensor-scale", E::lies,
     "knows scales as weight_scale_inv alone, takes codes as values and reports the scales as "
     "UNEXPECTED",
     kLoading, "export fp8-block, or as compressed-tensors"},
    {"flag-redundant", E::warns, "has no such flag", "reference pages", "leave it out"},
};

constexpr Method kMethods[] = {
    {"compressed-tensors", choose_compressed_tensors, Dialect::name_or_regex},
    {"gptq", choose_gptq, Dialect::substring},
    {"awq", choose_awq, Dialect::substring},
    {"fp8", choose_fp8, Dialect::components},
    {"auto-round", choose_as_stored, Dialect::prefix},
    {"bitsandbytes", choose_as_stored, Dialect::components},
    {"mxfp4", choose_as_stored, Dialect::regex_start},
    {"torchao", choose_as_stored, Dialect::components},
    {"quark", choose_as_stored, Dialect::name_or_regex},
    {"fbgemm_fp8", choose_as_stored, Dialect::components},
    {"hqq", choose_as_stored, Dialect::components},
    {"aqlm", choose_as_stored, Dialect::components},
    {"eetq", choose_as_stored, Dialect::components},
    {"higgs", choose_as_stored, Dialect::components},
    {"quanto", choose_as_stored, Dialect::components},
    {"bitnet", choose_as_stored, Dialect::components},
    {"vptq", choose_as_stored, Dialect::components},
    {"spqr", choose_as_stored, Dialect::components},
};

// The library decompresses what it can read: no kernel is asked for.
// Experts are stacked while they are loaded: packed integers are unpacked on the way, floats are
// multiplied with a scale of their rows or of the tensor; what is stored otherwise stops it.
constexpr const char* kStacked =
    "We encountered some issues during automatic conversion of the weights.";
constexpr Support kSupport[] = {
    {"int8", Where::experts, 0, kStacked},
    {"int8-static", Where::experts, 0, kStacked},
    {"w4a8-int", Where::experts, 0, kStacked},
    {"pack-int-act", Where::experts, 0, kStacked},
    {"fp8-block", Where::experts, 0, kStacked},
    {"fp8-weights-block", Where::experts, 0, kStacked},
    {"mxfp8", Where::experts, 0, kStacked},
    {"mxfp8a16", Where::experts, 0, kStacked},
    {"fp8", Where::any},
    {"pack-asym", Where::any, 0,
     "You set `ignore_mismatched_sizes` to `False`, thus raising an error. (weight_zero_point)"},
    {"pack", Where::any},
    {"pack-odd", Where::any},
    {"pack-odd-asym", Where::any},
    {"int8", Where::any},
    {"int8-static", Where::any},
    {"w4a8-int", Where::any},
    {"fp8-tensor", Where::any},
    {"fp8-channel", Where::any},
    {"fp8-block", Where::any},
    {"fp8-weights-tensor", Where::any},
    {"fp8-weights-channel", Where::any},
    {"fp8-weights-block", Where::any},
    {"nvfp4", Where::any},
    {"nvfp4a16", Where::any},
    {"mxfp4", Where::any},
    {"mxfp4a16", Where::any},
    {"mxfp8", Where::any},
    {"mxfp8a16", Where::any},
    {"pack-int-act", Where::any},
    {"w4afp8", Where::any},
    {"gptq-marlin", Where::any},
    {"gptq-group", Where::any},
    {"gptq-plain", Where::any},
    {"awq", Where::any},
    {"awq-no-zeros", Where::any},
};

}  // namespace

const Engine kTransformers = {
    "transformers",
    "5.23",
    "python3 -c \"from transformers import AutoModelForCausalLM as M; M.from_pretrained('{}')\"",
    kRules,
    {},
    kMethods,
    kSupport,
    {},
    {},
    "",
    "",
    "",
    true};

}  // namespace qp::target
