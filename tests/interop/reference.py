"""What compressed-tensors itself makes of a weight, by the road of llm-compressor's oneshot:
range observer, calculate_qparams, the module's parameters, compress_module."""

import warnings

import torch
from compressed_tensors.compressors import compress_module, decompress_module
from compressed_tensors.compressors.format import infer_module_format
from compressed_tensors.config import CompressionFormat
from compressed_tensors.quantization import (QuantizationArgs, QuantizationConfig,
                                             QuantizationScheme)
from compressed_tensors.quantization.lifecycle.initialize import initialize_module_for_quantization
from compressed_tensors.quantization.quant_scheme import PRESET_SCHEMES, preset_name_to_scheme
from compressed_tensors.quantization.utils import (calculate_qparams, generate_gparam,
                                                   maybe_pad_tensor_for_block_quant)
from programs import list_schemes

# Presets without calibration that qquantize does not offer. A new version of the library that
# brings another preset makes test_presets_are_covered fail.
NOT_OFFERED = {
    "UNQUANTIZED": "is no scheme",
    "MXFP4XFP8": "MXFP4 weights under FP8 activations",
    "MXFP6A16": "E2M3 codes, which no engine loads yet", "MXFP6A8": "E2M3 codes",
    **{name: "grouped integers under integer activations, which engines run only in part"
       for name in ("W2A4", "W3A4", "W2A8", "W3A8", "W5A8", "W6A8", "W7A8")},
}
# Presets reached by composing options instead of a name.
COMPOSED = {f"W{b}A16": ["-s", "w4a16", "--num-bits", str(b)] for b in (5, 6, 7)}


def is_data_free(name):
    # An empty scheme quantizes nothing.
    if not PRESET_SCHEMES[name]:
        return True
    config = QuantizationConfig(config_groups={"group_0": preset_name_to_scheme(name, ["Linear"])})
    return not config.requires_calibration_data()


def scheme_table():
    """{label: (arguments of qquantize, the library's scheme)}: ours, then the composed ones.
    Where a preset of the library has the scheme, its definition counts, not ours."""
    table = {}
    for row in list_schemes():
        if "refusal" in row or row.get("scheme", {}).get("numerics") != "compressed-tensors":
            continue
        name = row["name"]
        inputs = row["scheme"].get("input_activations")
        if inputs and inputs.get("dynamic") is not True:
            continue  # from calibration: tests/cli/test_static.py
        presets = [a for a in row["aliases"] if a.upper() in PRESET_SCHEMES]
        if presets:
            scheme = preset_name_to_scheme(presets[0], ["Linear"])
        else:
            sides = ("weights", "input_activations")
            args = {k: QuantizationArgs(**v) for k, v in row["scheme"].items() if k in sides}
            scheme = QuantizationScheme(targets=["Linear"], **args)
        table[name] = (["-s", name], scheme)
    for preset, args in COMPOSED.items():
        table[preset] = (args, preset_name_to_scheme(preset, ["Linear"]))
    for scheme in (s for _, s in table.values()):
        scheme.format = infer_module_format(torch.nn.Linear, scheme)
        if scheme.weights.num_bits == 4 and scheme.input_activations and scheme.input_activations.type == "float" \
                and scheme.weights.type == "int":
            # What the library infers, int-quantized, vLLM does not load (compressed-tensors.md 2).
            scheme.format = CompressionFormat.pack_quantized
    return table


def observe(weight, args):
    """(min, max) over the elements of every scale."""
    w = weight
    if args.strategy == "tensor":
        return w.amin().reshape(1), w.amax().reshape(1)
    if args.strategy == "channel":
        dims = -1
        return w.amin(dims, keepdim=True), w.amax(dims, keepdim=True)
    if args.strategy == "block":
        h, b = args.block_structure
        w = maybe_pad_tensor_for_block_quant(w, (h, b))
        w = w.reshape(w.shape[0] // h, h, w.shape[1] // b, b)
        return w.amin((1, 3)), w.amax((1, 3))
    w = w.unflatten(-1, (-1, args.group_size))
    return w.amin(-1), w.amax(-1)


def compress(weight, scheme, fused=()):
    """The stored tensors of a Linear with this weight; fused: all weights that share its global
    scale, itself included."""
    args = scheme.weights
    module = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    module.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        initialize_module_for_quantization(module, scheme.model_copy(deep=True))
    low, high = observe(weight, args)
    global_scale = None
    if args.strategy == "tensor_group":
        tensors = list(fused) or [weight]
        lowest = torch.stack([t.amin() for t in tensors]).amin()
        highest = torch.stack([t.amax() for t in tensors]).amax()
        global_scale = generate_gparam(lowest, highest)
        module.weight_global_scale.data.copy_(global_scale)
    scale, zero_point = calculate_qparams(low, high, args, global_scale=global_scale)
    module.weight_scale.data.copy_(scale)
    module.weight_zero_point.data.copy_(zero_point)
    compress_module(module)
    return {k: v.detach() for k, v in module.state_dict().items()}


def decompress(stored, scheme, shape, dtype):
    """The float weight that the library sees in stored tensors."""
    module = torch.nn.Linear(shape[1], shape[0], bias=False, dtype=dtype, device="meta")
    del module.weight
    for name, value in stored.items():
        module.register_parameter(name, torch.nn.Parameter(value, requires_grad=False))
    module.quantization_scheme = scheme.model_copy(deep=True)
    decompress_module(module)
    return module.weight.detach()
