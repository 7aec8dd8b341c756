// SGLang 0.5.23: paths are those of its package, under sglang/srt. What is said here of its loading
// is compared with what its own code does by tests/peers/sglang.py.
#include "lib/target/methods/methods.h"

namespace qp::target {
namespace {

using E = Effect;
constexpr const char* kCt = "layers/quantization/compressed_tensors/compressed_tensors.py, 0.5.23";
constexpr const char* kCtUtils = "layers/quantization/compressed_tensors/utils.py, 0.5.23";
constexpr const char* kCtPacked =
    "layers/quantization/compressed_tensors/schemes/compressed_tensors_wNa16.py, 0.5.23";
constexpr const char* kParameter = "layers/parameter.py copy_with_check, 0.5.23";
constexpr const char* kRow =
    "layers/parameter.py RowvLLMParameter.load_row_parallel_weight, 0.5.23";
constexpr const char* kModels = "models/*.py load_weights, 0.5.23";
constexpr const char* kLatents = "models/deepseek_common/deepseek_weight_loader.py, 0.5.23";
constexpr const char* kConfig = "configs/model_config.py _verify_quantization, 0.5.23";
constexpr const char* kGptq = "layers/quantization/gptq/gptq.py, 0.5.23";
constexpr const char* kAwq = "layers/quantization/awq/schemes/awq_linear.py, 0.5.23";
constexpr const char* kMarlin =
    "layers/quantization/marlin_utils.py verify_marlin_supports_shape, 0.5.23";
constexpr const char* kFp8 = "layers/quantization/fp8.py Fp8Config, 0.5.23";
constexpr const char* kFp8Utils =
    "layers/quantization/fp8_utils.py validate_fp8_block_shape, 0.5.23";
constexpr const char* kModelOpt = "layers/quantization/modelopt_quant.py, 0.5.23";
constexpr const char* kModelSlim = "layers/quantization/modelslim/modelslim.py, 0.5.23";
constexpr const char* kQuark = "layers/quantization/quark/quark.py, 0.5.23";
constexpr const char* kAutoRound = "layers/quantization/auto_round.py, 0.5.23";
constexpr const char* kKv = "model_loader/weight_utils.py maybe_remap_kv_scale_name, 0.5.23";
constexpr const char* kDocs = "docs_new/docs/advanced_features/quantization.mdx, 2026-04-20";
constexpr const char* kAscend = "documentation of quantization on Ascend (seeds/004)";
constexpr const char* kNoGptq = "Unknown quantization method: gptq. Must be one of";

constexpr Rule kRules[] = {
    {"unknown-method", E::refuses, "stops at a quant_method that is not registered", kConfig,
     "export in a format that SGLang reads: compressed-tensors, gptq, awq, fp8, modelopt",
     "Unknown quantization method: {}. Must be one of"},
    {"no-method", E::refuses, "takes a config without quant_method for the method ''", kConfig,
     "add quant_method to quantization_config", "Unknown quantization method: . Must be one of"},
    {"mtp-missing", E::warns, "loads the model without them, and cannot draft with them",
     "models/*_nextn.py, models/*_mtp.py, 0.5.23; auto-round#1477, Model-Optimizer#2427",
     "copy the tensors from the base model, or set the number to 0"},
    {"no-architecture", E::warns, "takes the model class from 'architectures'",
     "models/registry.py, 0.5.23", "copy config.json from the base model"},
    {"not-replayed", E::notes, "loads this method, but how is not known here", "reference pages",
     "run it"},
    {"scheme-not-known", E::notes, "no page says whether this scheme has a kernel",
     "reference pages", "run it"},
    {"unsupported-scheme", E::refuses, "selects no scheme class, or one that cannot be built", kCt,
     "export another scheme, or leave these layers out with --ignore", "{}"},
    {"missing-parameter", E::lies, "creates the parameter and never fills it: memory as it was",
     "models/*.py load_weights, 0.5.23; sglang#35358",
     "write the tensor; qexport writes all of them"},
    {"missing-weight", E::lies, "creates the parameter and never fills it: memory as it was",
     "models/*.py load_weights, 0.5.23; sglang#35358", "copy the tensor from the base model"},
    {"missing-input-scale", E::lies, "takes 1.0 where a scale of the input is missing",
     "layers/quantization/modelopt_quant.py, fp8.py create_weights, 0.5.23; sglang#23625",
     "calibrate (qcalibrate), or use a scheme without static inputs"},
    {"unexpected-tensor", E::lies, "skips a tensor without a parameter, with a warning at most",
     kModels, "quantize the module in the config too, or store it unquantized",
     "Parameter {} not found in params_dict"},
    {"unexpected-fused", E::refuses, "looks the parameter up, which was built without it",
     "models/*.py load_weights, 0.5.23: each class has its own; sglang#3604, sglang#25792",
     "quantize the module in the config too, or store it unquantized", "KeyError: '{}'"},
    {"wrong-shape", E::refuses, "asserts that parameter and tensor have one shape", kParameter,
     "export it anew; config.json and weights disagree", "AssertionError"},
    {"row-padded", E::lies,
     "pads with zeros what is too short along the inputs of a row-parallel layer, and cuts what is "
     "too long",
     kRow, "export it anew; config.json and weights disagree"},
    {"cast-silently", E::lies,
     "casts where layers are fused or row-parallel: codes and floats are taken for each other",
     kRow, "leave the module out in the config, or quantize it"},
    {"latents-joined", E::refuses,
     "joins what is stored of q_a_proj and kv_a_proj_with_mqa along the first dimension", kLatents,
     "leave q_a_proj and kv_a_proj_with_mqa out", "{}"},
    {"latents-scale", E::lies, "takes q_a_proj's scale for kv_a_proj_with_mqa, too", kLatents,
     "leave q_a_proj and kv_a_proj_with_mqa out"},
    {"scale-inv-renamed", E::lies,
     "looks for weight_scale where weight_scale_inv is stored, and the fp8 method calls it so, too",
     "models/llama.py _legacy_load_weights, 0.5.23",
     "export compressed-tensors, or set SGLANG_ENABLE_WEIGHT_LOADER_V2",
     "Parameter {} not found in params_dict"},
    {"wrong-dtype", E::refuses, "forbids integers of another dtype than the parameter's",
     kParameter, "store the codes in the dtype of the scheme", "Unsupported copy between dtypes: "},
    {"float-into-codes", E::refuses,
     "forbids narrowing: floats do not go into a parameter of codes", kParameter,
     "leave the module out in the config, or quantize it", "Downcasting not allowed: "},
    {"downcast", E::refuses, "forbids narrowing in column-parallel layers that are not fused",
     kParameter, "store scales in the model's dtype; SGLANG_QUANT_ALLOW_DOWNCASTING lets it pass",
     "Downcasting not allowed: "},
    {"codes-as-values", E::lies, "copies codes into a float parameter: scales are not applied",
     kModels, "restore quantization_config, or take the module off the list of those left out"},
    {"fused-disagree", E::refuses, "one parameter cannot be quantized in part", kCtUtils,
     "quantize all members alike, or none (qexport --ignore)",
     "Found a different quantization schemes for {}"},
    {"fused-mixed", E::lies, "takes one scheme for all shards, where it looks them up at all",
     kCtUtils, "give all members of a fused layer one scheme"},
    {"experts-disagree", E::refuses, "wants one scheme for gate, up and down of all experts", kCt,
     "quantize all experts of a layer alike",
     "All MoE projections need to have same quantization scheme"},
    {"tied-head-quantized", E::lies, "skips lm_head.weight and uses the embedding",
     "models/llama.py load_weights, 0.5.23; sglang#2935",
     "leave the head out, or set tie_word_embeddings to false"},
    {"mtp-targeted", E::warns,
     "builds the draft layers quantized when they are asked for, and stops at their shapes",
     "sglang#36158, sglang#38574",
     "add re:^mtp.* or the draft layers' names to the list of modules left out"},
    {"bad-pattern", E::refuses, "compiles every pattern of the config", kCtUtils,
     "correct the regular expression", "re.error"},
    {"ct-no-target", E::refuses, "wants every Linear targeted or ignored", kCtUtils,
     "add the module to 'ignore'",
     "Unable to find matching target for {} in the compressed-tensors config."},
    {"ct-sparse", E::refuses, "refuses 2:4 sparse checkpoints", kCt, "decompress it first",
     "CompressedTensors24 is not supported now"},
    {"ct-bare-list", E::refuses, "takes the group for an object", kCt,
     "write weights, input_activations and targets out", "'list' object has no attribute 'get'"},
    {"ct-null-weights", E::refuses, "validates the weights of every group", kCt, "drop the group",
     "validation error for QuantizationArgs"},
    {"ct-unknown-key", E::refuses,
     "builds QuantizationArgs of the installed library, which forbids other keys",
     "compressed-tensors 0.18.0, which SGLang 0.5.23 asks for", "remove the key",
     "Extra inputs are not permitted"},
    {"ct-invalid-args", E::refuses, "builds QuantizationArgs, whose validators refuse this",
     "compressed-tensors 0.18.0, which SGLang 0.5.23 asks for", "correct the group",
     "for QuantizationArgs"},
    {"kv-scale-dropped", E::lies,
     "has no parameters for scales of keys and values where the config promises none", kKv,
     "write kv_cache_scheme (modelopt: kv_cache_quant_algo) into the config, or leave the scales "
     "out",
     "but not found the expected name in the model"},
    {"kv-scale-per-head", E::refuses, "has one scale for all heads",
     "model_loader/weight_utils.py default_weight_loader, 0.5.23; sglang#26436",
     "write one scale per layer", "Attempted to load weight"},
    {"kv-scale-default", E::lies, "takes 1.0 for scales that are not stored",
     "layers/quantization/kv_cache.py, 0.5.23",
     "calibrate the KV cache (qcalibrate), or leave it unquantized"},
    {"input-not-aligned", E::refuses, "wants whole groups on every rank", kAwq,
     "qexport --group-size 64 or 32, a smaller --tp, or pad the MLP",
     "The input size is not aligned with the quantized weight shape. This can be caused by too "
     "large tensor parallel size."},
    {"output-not-aligned", E::refuses, "wants whole words of codes on every rank", kAwq,
     "leave the module out, or a smaller --tp",
     "The output size is not aligned with the quantized weight shape"},
    {"marlin-columns", E::refuses, "wants whole tiles of Marlin on every rank", kMarlin,
     "a smaller --tp, or pad the MLP", "is not divisible by min_thread_k = 128."},
    {"marlin-rows", E::refuses, "wants whole tiles of Marlin on every rank", kMarlin,
     "a smaller --tp, or leave the module out", "is not divisible by  min_thread_n = 64."},
    {"gptq-groups-cut", E::lies,
     "loads ranks that have no whole groups, and gives them scales of the wrong groups",
     "layers/quantization/gptq/schemes/gptq_marlin.py create_weights, 0.5.23",
     "qexport --group-size 64 or 32, a smaller --tp, or pad the MLP"},
    {"group-split", E::refuses, "wants whole groups on every rank", kCtPacked,
     "qexport --group-size 64 or 32, a smaller --tp, or pad the MLP", "AssertionError"},
    {"zero-point-split", E::refuses, "cuts packed zero points along the outputs", kCtPacked,
     "use a symmetric scheme, or a smaller --tp"},
    {"tp-size", E::refuses, "divides the layer over the ranks",
     "distributed/utils.py divide, 0.5.23", "use a --tp that divides it, or pad",
     "is not divisible by"},
    {"tp-heads", E::refuses, "gives every rank whole heads", "models/llama.py, 0.5.23",
     "use a --tp that divides the heads", "AssertionError"},
    {"tp-experts", E::refuses, "wants no more ranks than experts", "models/qwen2_moe.py, 0.5.23",
     "a smaller --tp", "is greater than the number of experts"},
    {"tp-kv-heads", E::refuses, "divides or repeats heads of keys", "models/llama.py, 0.5.23",
     "use a --tp that divides the heads of keys, or a multiple of them"},
    {"global-scales", E::lies,
     "multiplies the members of a fused linear by the largest of their global scales",
     "sglang/srt/layers/quantization/compressed_tensors/schemes/compressed_tensors_w4a4_nvfp4.py, "
     "0.5.23",
     "quantize it with qquantize, which gives them one"},
    {"global-scales-a16", E::refuses, "wants one global scale for a fused linear",
     "sglang/srt/layers/quantization/compressed_tensors/schemes/compressed_tensors_w4a16_nvfp4.py, "
     "0.5.23",
     "quantize it with qquantize, which gives them one",
     "NVFP4 weight-only linear requires all fused projections to share one weight_global_scale, got"},
    {"global-scales-modelopt", E::lies,
     "multiplies the members of a fused linear by the largest of their weight_scale_2",
     "sglang/srt/layers/quantization/modelopt_quant.py process_weights_after_loading, 0.5.23",
     "quantize it with qquantize, which gives them one"},
    {"block-rows", E::refuses, "wants whole blocks of outputs on every rank", kFp8Utils,
     "a smaller --tp, or leave the module out", "is not divisible by weight quantization block_n"},
    {"block-rows-last", E::refuses, "wants whole blocks in every shard of a fused layer", kFp8Utils,
     "leave the module out", "is not divisible by weight quantization block_n"},
    {"block-columns", E::refuses, "wants whole blocks of inputs on every rank", kFp8Utils,
     "a smaller --tp, or pad the MLP", "is not divisible by weight quantization block_k"},
    {"fp4-columns", E::refuses, "wants multiples of 16 inputs", kModelOpt, "leave the module out"},
    {"mxfp8-scale-name", E::refuses, "calls the scale weight_scale_inv, and looks it up as stored",
     "models/qwen2_5_vl.py load_weights, 0.5.23", "export compressed-tensors or another algorithm",
     "KeyError: '{}'"},
    {"mxfp8-columns", E::refuses, "wants whole groups of 32 inputs", kFp8Utils,
     "leave the module out", "is not divisible by weight quantization block_k = 32."},
    {"marlin-shape", E::warns, "wants N % 64 and K % 128 for Marlin", kMarlin,
     "use shapes that fit; the dense compressed-tensors scheme does not act on it"},
    {"gptq-missing-key", E::refuses, "runs Marlin alone, and wants the key for it", kGptq,
     "write \"{}\" into quantization_config", kNoGptq},
    {"gptq-marlin-format", E::refuses, "no longer loads stored Marlin tiles", kGptq,
     "qload it and export it as gptq", kNoGptq},
    {"awq-version", E::lies, "reads GEMM shapes whatever the version says",
     "layers/quantization/awq/awq.py, 0.5.23", "qload it and export it as awq (gemm)"},
    {"awq-missing-key", E::refuses, "requires the key", "layers/quantization/awq/awq.py, 0.5.23",
     "write \"zero_point\": true", "Cannot find any of ['zero_point']"},
    {"auto-round-packing", E::refuses, "reads auto_round:auto_gptq and auto_round:auto_awq",
     kAutoRound, "export it as auto-round, gptq or awq", "Unsupported packing_format: {}"},
    {"auto-round-data-type", E::refuses, "reads integers only", kAutoRound,
     "export it as compressed-tensors", "Unsupported data_type: {}"},
    {"qwen2-5-vl-auto-gptq", E::lies, "loads it, and its accuracy is close to zero", kDocs,
     "export auto_round:auto_awq or awq"},
    {"fp8-activation-scheme", E::refuses, "requires the key", kFp8,
     "add \"activation_scheme\": \"dynamic\"",
     "Cannot find any of ['{}'] in the model's quantization config."},
    {"fp8-static-block", E::refuses, "wants dynamic activations with blocks", kFp8,
     "set activation_scheme to dynamic"},
    {"w8a8-flag", E::warns, "the flag ignores the config's settings", kDocs,
     "leave it out unless the CUTLASS kernels are wanted"},
    {"w8a8-latents", E::refuses, "asks kv_b_proj's method for a config that it has not", kLatents,
     "export fp8 or compressed-tensors",
     "'W8A8Fp8LinearMethod' object has no attribute 'quant_config'"},
    {"modelopt-algo", E::refuses,
     "takes FP8, NVFP4, NVFP4_AWQ, and mixtures of FP8, NVFP4, W4A16_NVFP4", kModelOpt,
     "export compressed-tensors, gptq or awq instead", "{}"},
    {"modelopt-mixed-w4afp8", E::refuses, "takes a mixture without NVFP4 for w4afp8",
     "configs/model_config.py _parse_modelopt_quant_config, 0.5.23",
     "export one algorithm, or with NVFP4"},
    {"modelopt-null-list", E::refuses, "refuses a null list", kModelOpt,
     "leave exclude_modules out, or write []"},
    {"modelopt-nested-keys", E::warns, "takes a default or stops", kModelOpt,
     "write \"{}\" into hf_quant_config.json"},
    {"bnb-tp", E::refuses, "loads pre-quantized bitsandbytes without tensor parallelism",
     "model_loader/loader.py", "use --pp, or another format"},
    {"quark-export", E::refuses, "requires export.kv_cache_group", kQuark,
     "write \"export\": {\"kv_cache_group\": []}", "{}"},
    {"quark-scheme", E::refuses, "takes fp8 per tensor or channel, and MXFP4", kQuark,
     "export another scheme", "No quark compatible scheme was found"},
    {"quark-scheme-experts", E::refuses, "takes fp8 and MXFP4 in experts", kQuark,
     "export another scheme", "Unsupported FusedMoe scheme"},
    {"modelslim-label", E::lies, "warns and builds the layer unquantized", kModelSlim,
     "use labels that SGLang knows: W8A8, W8A8_DYNAMIC, W4A4_DYNAMIC"},
    {"flag-redundant", E::warns, "reads the method from the config", kDocs,
     "leave the flag out: do not add redundant parameters"},
    {"flag-contradicts", E::notes, "the flag names another method than the config",
     "reference pages", "leave the flag out"},
    {"hw-capability", E::refuses, "asks the device for a compute capability", kCt,
     "use another scheme or device", "the current GPU. Min capability: {}. "},
    {"hw-method-capability", E::refuses, "asks the device for a compute capability",
     "model_loader/loader.py _get_quantization_config, 0.5.23", "use another scheme or device",
     "is not supported for the current GPU. Minimum capability: {}."},
    {"hw-method", E::refuses, "registers no such method for the device",
     "layers/quantization/__init__.py and configs/model_config.py, 0.5.23",
     "use another format or device", "{}"},
    {"hw-scheme", E::refuses, "has no class of this scheme for the device",
     "layers/quantization, 0.5.23", "use another scheme or device", "{}"},
    {"hw-fnuz", E::notes, "turns E4M3 into the device's own kind, and doubles the scales",
     "layers/quantization/fp8_utils.py normalize_e4m3fn_to_e4m3fnuz, 0.5.23", "run it there"},
    {"hw-unsupported", E::refuses, "has no kernel for the device", kAscend,
     "use another scheme or device"},
    {"hw-open", E::notes, "the table says TBD or WIP", kAscend, "run it there"},
    {"hw-cpu-capability", E::refuses, "asks for a CUDA capability on a CPU, too", kCt,
     "INT8: --quantization w8a8_int8", "Torch not compiled with CUDA enabled"},
    {"hw-not-known", E::notes, "no page says whether the scheme runs on this device",
     "reference pages", "run it there"},
    {"device-memory", E::refuses, "loads all weights to the device", "arithmetic",
     "more ranks (--tp, --pp), or fewer bits", "out of memory"},
    {"ep-experts", E::warns, "spreads experts over ranks", "reference pages",
     "use a number that divides the experts"},
    {"pp-layers", E::refuses, "gives every stage a layer", "arithmetic", "use fewer stages"},
};

// reference: architectures.md 5.1
constexpr Fused kFused[] = {{"q_proj", "qkv_proj"},
                            {"k_proj", "qkv_proj"},
                            {"v_proj", "qkv_proj"},
                            {"gate_proj", "gate_up_proj"},
                            {"up_proj", "gate_up_proj"},
                            {"q_a_proj", "fused_qkv_a_proj_with_mqa"},
                            {"kv_a_proj_with_mqa", "fused_qkv_a_proj_with_mqa"}};

constexpr Method kMethods[] = {
    {"compressed-tensors", choose_compressed_tensors, Dialect::path_suffix},
    {"gptq", choose_gptq, Dialect::substring},
    {"gptq_marlin", choose_gptq, Dialect::substring},
    {"awq", choose_awq, Dialect::substring},
    {"awq_marlin", choose_awq, Dialect::substring},
    {"fp8", choose_fp8, Dialect::sub_path},
    {"mxfp8", choose_fp8, Dialect::sub_path},
    {"auto-round", choose_auto_round, Dialect::prefix},
    {"w8a8_int8", choose_w8a8, Dialect::substring_nocase},
    {"w8a8_fp8", choose_w8a8, Dialect::substring_nocase},
    {"blockwise_int8", choose_w8a8, Dialect::sub_path},
    {"modelopt", choose_modelopt, Dialect::modelopt_sglang},
    {"modelopt_fp8", choose_modelopt, Dialect::modelopt_sglang},
    {"modelopt_fp4", choose_modelopt, Dialect::modelopt_sglang},
    {"bitsandbytes", choose_bitsandbytes, Dialect::substring},
    {"quark", choose_quark, Dialect::name_or_regex},
    {"modelslim", choose_modelslim, Dialect::exact},
    {"mxfp4", choose_as_stored, Dialect::regex_start},
};

constexpr const char* kNone = "No compressed-tensors compatible scheme was found.";
constexpr const char* kSparse =
    "Other method (CompressedTensorsW4A16Sparse24) is not supported now";
constexpr const char* kMoeInt8 =
    "The W8A8Int8 Fused MoE scheme is implemented only for NPU for now.";
constexpr const char* kNoMoe = "Unsupported FusedMoe scheme: ";

// get_min_capability of methods and schemes; what is raised where there is none.
constexpr Support kSupport[] = {
    {"pack", Where::any, 80},
    {"pack-asym", Where::linear, 80},
    {"pack-asym", Where::experts, 0, "must match the size of tensor b"},
    {"pack-odd", Where::any, 0, kSparse},
    {"pack-odd-asym", Where::any, 0, kSparse},
    {"int8", Where::linear, 80},
    {"int8", Where::experts, 0, kMoeInt8},
    {"int8-static", Where::experts, 0, kNoMoe},
    // One element of input_scale for the shards of a fused layer.
    {"int8-static", Where::any, 0, "is out of bounds for dimension 0 with size 1"},
    {"int8-static-out", Where::any, 0, kNone},
    {"w4a8-int", Where::linear, 0, kNone},
    {"w4a8-int", Where::experts, 0,
     "The W4A8Int8 Fused MoE scheme is implemented only for NPU for now."},
    {"pack-int-act", Where::linear, 0, kNone},
    {"pack-int-act", Where::experts, 90},
    {"w4afp8", Where::linear, 0, kNone},
    {"w4afp8", Where::experts, 90},
    {"fp8-tensor", Where::any, 80},
    {"fp8-channel", Where::any, 80},
    {"fp8-block", Where::any, 89},
    {"fp8-weights-tensor", Where::linear, 80},
    {"fp8-weights-channel", Where::linear, 80},
    {"fp8-weights-tensor", Where::experts, 0, kNoMoe},
    {"fp8-weights-channel", Where::experts, 0, kNoMoe},
    {"fp8-weights-block", Where::linear, 0, kNone},
    {"fp8-weights-block", Where::experts, 0, kNoMoe},
    {"nvfp4", Where::any, 80},
    {"nvfp4a16", Where::any, 80},
    {"mxfp4", Where::linear, 0, kNone},
    {"mxfp4a16", Where::linear, 0, kNone},
    {"mxfp4", Where::experts, 80},
    {"mxfp4a16", Where::experts, 80},
    {"mxfp8", Where::linear, 0, kNone},
    {"mxfp8a16", Where::linear, 0, kNone},
    {"mxfp8", Where::experts, 0, kNoMoe},
    {"mxfp8a16", Where::experts, 0, kNoMoe},
    {"none", Where::any, 0, kNone},
    {"gptq-marlin", Where::any, 80},
    {"gptq-group", Where::any, 0, kNoGptq},
    {"gptq-plain", Where::any, 0, kNoGptq},
    {"auto-gptq-plain", Where::any, 0, "The non-Marlin GPTQ CUDA kernel has been removed."},
    {"awq", Where::any, 80},
    {"awq-no-zeros", Where::any, 80},
    {"awq-bits", Where::any, 0, "Currently, only 4-bit weight quantization is supported for AWQ"},
    {"fp8-mx", Where::any, 100},
    {"w8a8_int8", Where::any, 75},
    {"w8a8_fp8", Where::any, 89},
    {"blockwise_int8", Where::any, 80},
    {"bnb4", Where::any, 70},
    {"bnb8", Where::any, 70},
    {"FP8", Where::any, 89},
    {"FP8_PER_CHANNEL_PER_TOKEN", Where::any, 0,
     "ModelOptFp8Config only supports regular FP8 quantization, but found"},
    {"FP8_PB_WO", Where::any, 0,
     "ModelOptFp8Config only supports regular FP8 quantization, but found"},
    {"NVFP4", Where::any, 80},
    {"NVFP4_AWQ", Where::any, 80},
    {"W4A16_NVFP4", Where::any, 80},
    {"MXFP8", Where::any, 100},
    {"quark-fp8", Where::any, 89},
    {"quark-mxfp4", Where::any, 70},
    {"W8A8", Where::linear},
    {"W8A8_DYNAMIC", Where::any},
    {"W4A4_DYNAMIC", Where::any},
    {"W4A8_DYNAMIC", Where::experts},
    {"W8A8_MXFP8", Where::any},
    {"W8A8", Where::experts, 0, "No ModelSlim MoE scheme found for layer"},
};

// models/*.py load_weights: what each does with a name that it has no parameter for; and
// packed_modules_mapping.
constexpr std::string_view kBoth = "qkv_proj gate_up_proj";
constexpr Loader kLoaders[] = {
    {"Llama4", true, true, true, kBoth},
    {"Llama", false, true, false, "", true, true},
    {"Mistral", false, true, false, "", true, true},
    {"Qwen2ForCausalLM", false, true, false, ""},
    {"Qwen2Moe", false, true, false, ""},
    {"Qwen2_5_VL", true, true, false, kBoth},
    {"Qwen3ForCausalLM", true, true, false, "", true},
    {"Qwen3Moe", false, false, false, kBoth},
    {"Qwen3VLMoe", false, true, false, ""},
    {"Qwen3VL", false, true, false, ""},
    {"Qwen3Next", true, true, false, "qkv_proj gate_up_proj in_proj_qkvz in_proj_ba"},
    {"Qwen3_5", false, true, false, "qkv_proj gate_up_proj in_proj_qkvz in_proj_ba"},
    {"DeepseekV2", true, false, false, "fused_qkv_a_proj_with_mqa", true},
    {"DeepseekV3", true, false, false, "fused_qkv_a_proj_with_mqa", true},
    {"QuantMixtral", false, true, false, ""},
    {"Gemma2", true, true, true, kBoth, true},
    {"Gemma3n", false, true, true, kBoth, true},
    {"Gemma3", true, true, true, kBoth, true},
    {"Glm4Moe", false, false, false, ""},
    {"Glm4", false, true, false, ""},
    {"MiniMaxM2", false, false, false, kBoth, true},
    {"Olmoe", false, true, false, ""},
    {"Exaone4", false, true, false, kBoth, true},
    {"ExaoneMoE", false, false, false, ""},
    {"BailingMoe", false, false, false, ""},
    {"", true, true, false, ""},
};

// reference: architectures.md 5.2
constexpr Special kSpecials[] = {
    {"GptOss", "lm_head", false},
    {"Mixtral", "lm_head", false},
};

// seeds/004: ticks, crosses and TBD of the documentation's tables; columns A2, A3, A5.
constexpr HardwareRow ascend(std::string_view hw, std::string_view methods, std::string_view label,
                             std::string_view scheme, int bits, Where where, Cell cell) {
  return {hw, methods, label, scheme, bits, where, cell};
}
#define QP_ASCEND(methods, label, scheme, bits, where, a2, a3, a5) \
  ascend("a2", methods, label, scheme, bits, where, a2),           \
      ascend("a3", methods, label, scheme, bits, where, a3),       \
      ascend("a5", methods, label, scheme, bits, where, a5)
#define QP_CODE(methods, error, scheme, where)                                           \
  HardwareRow{"a2", methods, error, scheme, 0, where, Cell::no, true},                   \
      HardwareRow{"a3", methods, error, scheme, 0, where, Cell::no, true}, HardwareRow { \
    "a5", methods, error, scheme, 0, where, Cell::no, true                               \
  }
constexpr Cell kY = Cell::yes, kN = Cell::no, kO = Cell::open;
constexpr Where kLinear = Where::linear, kMoe = Where::experts;
constexpr const char* kNoRepack = "name 'gptq_marlin_repack' is not defined";
constexpr const char* kNoXpu = "is not supported on XPU (no XPU kernel implementation).";
constexpr HardwareRow kHardware[] = {
    QP_ASCEND("modelslim", "W4A4 dynamic, Linear", "W4A4_DYNAMIC", 0, kLinear, kY, kY, kO),
    QP_ASCEND("modelslim", "W8A8 static, Linear", "W8A8", 0, kLinear, kY, kY, kO),
    QP_ASCEND("modelslim", "W8A8 dynamic, Linear", "W8A8_DYNAMIC", 0, kLinear, kY, kY, kO),
    QP_ASCEND("modelslim", "MXFP8, Linear", "W8A8_MXFP8", 0, kLinear, kN, kN, kY),
    QP_ASCEND("modelslim", "W4A4 dynamic, MoE", "W4A4_DYNAMIC", 0, kMoe, kY, kY, kO),
    QP_ASCEND("modelslim", "W4A8 dynamic, MoE", "W4A8_DYNAMIC", 0, kMoe, kY, kY, kO),
    QP_ASCEND("modelslim", "W8A8 dynamic, MoE", "W8A8_DYNAMIC", 0, kMoe, kY, kY, kO),
    QP_ASCEND("modelslim", "MXFP8, MoE", "W8A8_MXFP8", 0, kMoe, kN, kN, kO),
    QP_ASCEND("awq", "W4A16, Linear", "awq", 4, kLinear, kY, kY, kO),
    // The documents' tables have these two as supported, and the code stops.
    QP_CODE("awq", "Currently, only 4-bit weight quantization is supported for AWQ", "awq-bits",
            kLinear),
    QP_CODE("compressed-tensors", "'CompressedTensorsConfig' object has no attribute 'get'",
            "w4a8-int", kMoe),
    QP_ASCEND("awq", "W4A16, MoE", "awq", 4, kMoe, kY, kY, kO),
    QP_ASCEND("gptq", "W4A16, Linear", "gptq-marlin", 4, kLinear, kY, kY, kO),
    QP_ASCEND("gptq", "W8A16, Linear", "gptq-marlin", 8, kLinear, kY, kY, kO),
    QP_ASCEND("gptq", "W4A16, MoE", "gptq-marlin", 4, kMoe, kY, kY, kO),
    QP_ASCEND("gptq", "W8A16, MoE", "gptq-marlin", 8, kMoe, kY, kY, kO),
    QP_ASCEND("auto-round", "W4A16, Linear", "gptq-marlin", 4, kLinear, kY, kY, kO),
    QP_ASCEND("auto-round", "W8A16, Linear", "gptq-marlin", 8, kLinear, kY, kY, kO),
    QP_ASCEND("auto-round", "W4A16, MoE", "gptq-marlin", 4, kMoe, kY, kY, kO),
    QP_ASCEND("auto-round", "W8A16, MoE", "gptq-marlin", 8, kMoe, kY, kY, kO),
    QP_ASCEND("compressed-tensors", "W8A8 dynamic, Linear", "int8", 8, kLinear, kY, kY, kO),
    QP_ASCEND("compressed-tensors", "W4A16, MoE", "pack", 4, kMoe, kY, kY, kO),
    QP_ASCEND("compressed-tensors", "W8A8 dynamic, MoE", "int8", 8, kMoe, kY, kY, kO),
// model_config.py rocm_supported_quantization; marlin_utils.py has no Marlin there
#define QP_AMD(methods, label, scheme, where, cell)                           \
  HardwareRow{"cdna3", methods, label, scheme, 0, where, cell}, HardwareRow { \
    "cdna4", methods, label, scheme, 0, where, cell                           \
  }
    QP_AMD("compressed-tensors", kNoRepack, "pack", kLinear, kN),
    QP_AMD("compressed-tensors", kNoRepack, "nvfp4", kLinear, kN),
    QP_AMD("compressed-tensors", kNoRepack, "nvfp4a16", kLinear, kN),
    QP_AMD("compressed-tensors", "", "fp8-tensor", Where::any, kY),
    QP_AMD("compressed-tensors", "", "fp8-channel", Where::any, kY),
    QP_AMD("compressed-tensors", "", "fp8-block", Where::any, kY),
    QP_AMD("compressed-tensors", "", "int8", kLinear, kY),
    QP_AMD("fp8", "", "fp8-tensor", Where::any, kY),
    QP_AMD("fp8", "", "fp8-block", Where::any, kY),
    QP_AMD("quark", "", "quark-fp8", Where::any, kY),
    QP_AMD("quark", "", "quark-mxfp4", Where::any, kY),
    QP_AMD("awq", "torch.bfloat16 is not supported for quantization method awq.", "awq", Where::any,
           kN),
    QP_AMD("gptq gptq_marlin", "gptq_marlin quantization is currently not supported in ROCm.",
           "gptq-marlin", Where::any, kN),
    QP_AMD("modelopt modelopt_fp8", "modelopt_fp8 quantization is currently not supported in ROCm.",
           "FP8", Where::any, kN),
    QP_AMD("modelopt modelopt_fp4", "modelopt_fp4 quantization is currently not supported in ROCm.",
           "NVFP4", Where::any, kN),
    QP_AMD("modelslim", "modelslim quantization is currently not supported in ROCm.", "W8A8",
           Where::any, kN),
    QP_AMD("modelslim", "modelslim quantization is currently not supported in ROCm.",
           "W8A8_DYNAMIC", Where::any, kN),
    QP_AMD("w8a8_int8", "w8a8_int8 quantization is currently not supported in ROCm.", "w8a8_int8",
           Where::any, kN),
#undef QP_AMD
    // gptq.py and compressed_tensors.py for XPU
    {"xpu", "compressed-tensors", "", "pack", 0, kLinear, kY},
    {"xpu", "compressed-tensors", "", "fp8-tensor", 0, kLinear, kY},
    {"xpu", "compressed-tensors", "", "fp8-channel", 0, kLinear, kY},
    {"xpu", "compressed-tensors", "", "fp8-block", 0, kLinear, kY},
    {"xpu", "compressed-tensors", kNoXpu, "int8", 0, kLinear, kN},
    {"xpu", "compressed-tensors", kNoXpu, "nvfp4a16", 0, kLinear, kN},
    {"xpu", "gptq", "", "gptq-marlin", 4, kLinear, kY},
    {"xpu", "gptq", "GPTQ MoE is not yet supported on XPU (dense-only phase).", "gptq-marlin", 0,
     kMoe, kN},
    // gptq.py is_gptq_marlin_compatible
    {"sm75", "gptq", kNoGptq, "gptq-marlin", 0, Where::any, kN},
    {"sm75", "awq", "torch.bfloat16 is not supported for quantization method awq.", "awq", 0,
     Where::any, kN},
    {"sm75", "awq", "", "awq", 0, kLinear, kY},
};
#undef QP_ASCEND
#undef QP_CODE

constexpr std::string_view kRankPerExpert[] = {"Deepseek", "Qwen2Moe", "Qwen3Moe", "MiniMaxM2",
                                               "Glm4Moe",  "Lfm2Moe",  "MiMoV2",   "ExaoneMoE"};

}  // namespace

const Engine kSglang = {"sglang",    "0.5.23",    "python3 -m sglang.launch_server --model-path {}",
                        kRules,      kFused,      kMethods,
                        kSupport,    kSpecials,   kHardware,
                        "--tp-size", "--ep-size", "--pp-size",
                        true,        kLoaders,    kRankPerExpert};

}  // namespace qp::target
