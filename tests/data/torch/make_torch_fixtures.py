#!/usr/bin/env python3
"""Writes the PyTorch fixtures beside this script. They are kept in the repository; run it only to
change them. PyTorch (2.13 wrote those kept) and Python's zipfile write every byte but the edits
named below. Each good file is read back with torch.load(weights_only=True) first."""

import collections
import io
import os
import pathlib
import pickle
import struct
import zipfile

import torch

HERE = pathlib.Path(__file__).parent


def saved(obj, **options):
    buffer = io.BytesIO()
    torch.save(obj, buffer, **options)
    return buffer.getvalue()


def keep(name, data, good=True):
    if good:
        torch.load(io.BytesIO(data), weights_only=True)
    assert len(data) <= 3072, (name, len(data))
    (HERE / name).write_bytes(data)


def modelopt_state(state=None):
    """What ModelOpt's mto.save writes (0.47), of one attention module; `a` is its name."""
    bf16 = lambda v: torch.tensor(v, dtype=torch.bfloat16)
    state = state or {
        "a.k_proj.weight": torch.zeros(2, 2, dtype=torch.bfloat16),
        "a.k_proj.input_quantizer._amax": bf16(2.5), "a.k_proj.weight_quantizer._amax": bf16(9.0),
        "a.k_bmm_quantizer._amax": bf16(7.0), "a.v_bmm_quantizer._amax": torch.tensor(0.5)}
    return saved({"modelopt_state": {"modelopt_state_dict": [("quantize", {"config": {"algorithm": "max"}})],
                                     "modelopt_version": "0.47.0"},
                  "model_state_dict": collections.OrderedDict(state)})


def rezip(data, zip64=False, compress=False, rename=lambda n: n, change=None, folders=False):
    """The same entries through Python's zipfile."""
    out = io.BytesIO()
    limit = zipfile.ZIP64_LIMIT
    if zip64:  # every size above zero then counts as too big for 32 bits
        zipfile.ZIP64_LIMIT = 0
    try:
        method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
        with zipfile.ZipFile(io.BytesIO(data)) as src, zipfile.ZipFile(out, "w", method) as dst:
            if folders:
                dst.writestr("archive/", b"")
            for entry in src.infolist():
                content = src.read(entry)
                if change:
                    content = change(entry.filename, content)
                if content is None:
                    continue
                info = zipfile.ZipInfo(rename(entry.filename))
                info.compress_type = method
                with dst.open(info, "w", force_zip64=zip64) as f:
                    f.write(content)
    finally:
        zipfile.ZIP64_LIMIT = limit
    return out.getvalue()


class RunsCommand:
    def __reduce__(self):
        return os.system, ("echo this must never run",)


class Linear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
        self.register_buffer("steps", torch.tensor(7, dtype=torch.int64))


def views():
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    return {"base": base, "transposed": base.t(), "sliced": base[1:, 1:3], "row": base[2],
            "tied": base, "scalar": torch.tensor(2.5), "empty": torch.empty(0, 3),
            "empty_tail": base[3:]}


def dtypes():
    counts = torch.arange(4)
    names = ("float32 float64 float16 bfloat16 uint8 int8 int16 int32 int64 bool uint16 uint32 "
             "uint64 float8_e4m3fn float8_e5m2 complex64").split()
    return {n: counts.to(getattr(torch, n)) for n in names}


def python2_stream():
    """What PyTorch 0.3 under Python 2 wrote: byte strings, OrderedDict from a list of pairs, and a
    view of a storage. Put together by hand from pickle opcodes; torch.load checks it."""
    def s(text):
        return b"U" + bytes([len(text)]) + text.encode()
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
    system = pickle.dumps({"protocol_version": 1001, "little_endian": True}, 2)
    view = b"(" + s("view") + b"K\x02K\x03t"
    storage = b"(" + s("storage") + b"ctorch\nFloatStorage\n" + s("root") + s("cpu") + b"K\x06"
    tensor = b"ctorch._utils\n_rebuild_tensor\n(" + storage + view + b"tQK\x01K\x02\x85K\x01\x85tR"
    obj = b"\x80\x02ccollections\nOrderedDict\n]](" + s("weight") + tensor + b"ea\x85R."
    keys = b"\x80\x02]" + s("root") + b"a."
    return magic + system + obj + keys + struct.pack("<q6f", 6, *range(6))


def main():
    torch.manual_seed(0)
    keep("views.pt", saved(views()))
    keep("views_stream.pt", saved(views(), _use_new_zipfile_serialization=False))
    typed = dtypes()
    for i in range(4):
        keep(f"dtypes_{i}.pt", saved(dict(list(typed.items())[4 * i:4 * i + 4])))
    keep("dtypes_stream.pt", saved({n: t for n, t in typed.items() if n in (
        "float64", "bfloat16", "int16", "bool")}, _use_new_zipfile_serialization=False))
    keep("module.pt", saved(Linear().state_dict()))
    keep("parameter.pt", saved({"w": torch.nn.Parameter(torch.arange(3.0), requires_grad=False)}))
    tagged = torch.arange(2.0)
    tagged.note = "an attribute"
    keep("attribute.pt", saved({"w": tagged}))
    ordered = collections.OrderedDict(b=torch.arange(2.0), a=torch.arange(1.0))
    keep("checkpoint.pt", saved({
        "epoch": 3, "lr": 0.5, "seed": 2**40, "big": 2**80, "device": torch.device("cpu"),
        "size": torch.Size([2]), "kind": torch.float16, "tags": {"x"}, "raw": b"xyz", "none": None,
        "optimizer": {"state": {0: {"step": 1}}}, "state_dict": ordered}))
    keep("beside.pt", saved({"model": {"w": torch.arange(2.0)}, "ema": torch.arange(1.0),
                             "mean": torch.arange(1.0), "step": 3, "more": {"x": torch.arange(1.0)}}))
    keep("nested.pt", saved({"a": {"b": torch.arange(2.0), "c": {"d": torch.arange(1.0)}, "n": 1},
                             "blocks": {0: torch.arange(3.0)}}))
    keep("python2_stream.pt", python2_stream())

    keep("modelopt_state.pt", modelopt_state())
    keep("modelopt_scaled.pt", modelopt_state({"a.k_proj.input_quantizer._pre_quant_scale": torch.ones(2)}))

    plain = saved({"w": torch.arange(4, dtype=torch.float32)})
    keep("zip64.pt", rezip(plain, zip64=True))
    keep("rezipped.pt", rezip(plain, folders=True))

    bad = lambda name, data: keep("bad_" + name, data, good=False)
    bad("deflated.pt", rezip(plain, compress=True))
    bad("big_endian.pt", rezip(plain, change=lambda n, c: b"big" if n.endswith("order") else c))
    bad("no_pickle.pt", rezip(plain, change=lambda n, c: None if n.endswith("data.pkl") else c))
    bad("no_storage.pt", rezip(plain, change=lambda n, c: None if n.endswith("data/0") else c))
    bad("short_storage.pt", rezip(plain, change=lambda n, c: c[:12] if n.endswith("data/0") else c))
    bad("protocol4.pt", saved({"w": torch.arange(4.0)}, pickle_protocol=4))
    bad("protocol4_stream.pt", saved({"w": torch.arange(4.0)}, pickle_protocol=4,
                                     _use_new_zipfile_serialization=False))
    bad("os_system.pt", saved({"w": torch.arange(4.0), "x": RunsCommand()}))
    bad("os_system_stream.pt", saved({"w": torch.arange(4.0), "x": RunsCommand()},
                                     _use_new_zipfile_serialization=False))
    bad("whole_module.pt", saved(torch.nn.Identity()))
    bad("list.pt", saved([torch.arange(4.0)]))
    bad("tensor.pt", saved(torch.arange(4.0)))
    bad("same_name.pt", saved({"a": {"b": torch.arange(1.0)}, "a.b": torch.arange(2.0)}))
    bad("expanded.pt", saved({"w": torch.arange(1.0).expand(1000)}))
    bad("sparse.pt", saved({"w": torch.eye(2).to_sparse()}))
    bad("conjugated.pt", saved({"w": torch.zeros(1, dtype=torch.complex64).conj()}))
    bad("float4.pt", saved({"w": torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)}))
    bad("complex128.pt", saved({"w": torch.zeros(1, dtype=torch.complex128)}))
    bad("rank7.pt", saved({"w": torch.zeros(1, 1, 1, 1, 1, 1, 1)}))
    bad("meta.pt", saved({"w": torch.empty(2, device="meta")}))
    bad("torchscript.pt", rezip(plain, rename=lambda n: n.replace("version", "constants.pkl")))


if __name__ == "__main__":
    main()
