"""DeepSeek's attn_k_b and attn_v_b beside llama_model_quantize: a pytest file that llama.cpp.py runs."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "interop"))

import gguf  # noqa: E402
import llama_quantize  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from programs import pipe  # noqa: E402
from test_gguf_export import export, read  # noqa: E402
from test_gguf_latent import quantize, source  # noqa: E402, F401


# Blocks of 256 do not divide 64: llama-quantize takes q5_0 then.
@pytest.mark.parametrize("source,kind", [
    ({}, "q4_k_m"), ({}, "q8_0"), (dict(qk_nope_head_dim=256), "q4_k_m"), (dict(qk_nope_head_dim=256), "q6_k"),
    (dict(qk_nope_head_dim=48), "q4_k_m")], indirect=["source"])
def test_as_llama_quantize(source, kind, tmp_path):
    export(source, tmp_path / "float.gguf")
    assert llama_quantize.theirs(tmp_path / "float.gguf", tmp_path / "theirs.gguf", llama_quantize.file_type(kind))
    quantize(source, tmp_path / "ours.gguf", kind)
    (_, ours), (_, theirs) = read(tmp_path / "ours.gguf"), read(tmp_path / "theirs.gguf")
    assert ours.keys() == theirs.keys()
    for name, t in theirs.items():
        o = ours[name]
        assert (o.tensor_type, list(o.shape)) == (t.tensor_type, list(t.shape)), name
        assert np.array_equal(o.data, t.data), name


@pytest.mark.parametrize("kind", ["q4_k_m", "q4_k_s"])
def test_importance(source, kind, tmp_path):
    """A matrix of llama-imatrix's form has attn_k_b and attn_v_b by heads."""
    rng = np.random.default_rng(3)
    writer = gguf.GGUFWriter(tmp_path / "i.gguf", "")
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", ["x.txt"])
    writer.add_uint32("imatrix.chunk_count", 4)
    writer.add_uint32("imatrix.chunk_size", 64)
    for layer in range(3):
        for part, cols in (("k", 64), ("v", 256)):
            name = f"blk.{layer}.attn_{part}_b.weight"
            sums = rng.gamma(0.3, 300, (4, cols)).astype(np.float32)
            writer.add_tensor(name + ".in_sum2", sums)
            writer.add_tensor(name + ".counts", np.full((4, 1), 256, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    export(source, tmp_path / "float.gguf")
    assert llama_quantize.theirs(tmp_path / "float.gguf", tmp_path / "theirs.gguf", llama_quantize.file_type(kind),
                                 tmp_path / "i.gguf")
    pipe(["qcalibrate", source, "--imatrix", tmp_path / "i.gguf", "-o", tmp_path / "c.qmap", "-q"])
    pipe(["qquantize", tmp_path / "c.qmap", "-s", kind, "-a", "imatrix", "-q"],
         ["qexport", "-f", "gguf", "-o", tmp_path / "ours.gguf", "--pre", "gpt-2", "-q"])
    quantize(source, tmp_path / "plain.gguf", kind)
    tensors = [read(tmp_path / f"{n}.gguf")[1] for n in ("ours", "theirs", "plain")]
    for name, t in tensors[1].items():
        assert np.array_equal(tensors[0][name].data, t.data), name
    moved = [n for n in tensors[0] if not np.array_equal(tensors[0][n].data, tensors[2][n].data)]
    assert len(moved) == 6
