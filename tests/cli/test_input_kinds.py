"""Every kind of input in the loader's table: read, or refused with the reason and the remedy; and
directories that are several kinds at once."""

import gzip
import io
import json
import os
import zipfile

from support import DATA, TINY, CliTest, main, read_safetensors, write_llama

GGUF = DATA.parent / "fuzz/corpus/gguf/llama-bpe-q4_0.gguf"
TORCH = DATA / "torch/checkpoint.pt"


class Kinds(CliTest):
    def put(self, name, data=b"x"):
        path = self.dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    def refused(self, path, *says, code=3):
        self.fails(code, "qload", path, "-o", "c", says=says)
        self.assert_clean("c")

    def listed(self, path):
        return json.loads(self.ok("qload", path, "--list", "--json").out)

    def reads(self, path, format_):
        out = self.listed(path)
        self.assertEqual(out["format"], format_)
        self.assertTrue(out["tensors"])
        self.ok("qload", path, "-o", "c", "--force")
        return out

    # ---- no local path

    def test_hub_name(self):
        self.refused("meta-llama/Llama-3.1-8B", "looks like a hub name", "no network", "give its directory", code=4)

    def test_mistyped_file_is_no_hub_name(self):
        self.put("models/a.qmap")
        result = self.run_("qload", "models/b.qmap", "-o", "c")
        self.assertEqual(result.code, 4)
        self.assertIn("cannot open: No such file", result.err)
        self.assertNotIn("hub", result.err)

    def test_nothing(self):
        self.refused("/nonexistent/model", "cannot open", code=4)
        self.refused("absent", "cannot open", code=4)
        self.put("file")
        self.refused("file/inside", "", code=4)

    # ---- single files

    def test_gguf(self):
        self.reads(GGUF, "gguf")
        self.put("renamed.bin", GGUF.read_bytes())
        self.reads("renamed.bin", "gguf")  # content before name

    def test_ggml_before_gguf(self):
        for magic in (b"lmgg", b"fmgg", b"tjgg"):
            self.refused(self.put("old.bin", magic + b"\1\0\0\0" * 10), "GGML file from before GGUF", "fetch a GGUF")

    def test_zip(self):
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as z:
            z.writestr("a.txt", "x")
        for name in ("m.zip", "m.npz", "m.nemo"):
            self.refused(self.put(name, data.getvalue()), "zip archive", "unpack it")
        self.refused(self.put("m.pt", data.getvalue()), "m.pt: ")

    def test_torch_with_tensors_beside(self):
        result = self.ok("qload", DATA / "torch/beside.pt", "-o", "a.qmap")
        self.assertEqual(result.err.count("2 tensors beside the dict of weights left out: ema, mean"), 1, result)
        self.assertNotIn("beside", self.ok("qload", TORCH, "-o", "b.qmap").err)

    def test_torch(self):
        for name in ("a.pt", "a.bin", "a.pth", "a.ckpt"):
            self.reads(self.put(name, TORCH.read_bytes()), "pytorch")

    def test_hdf5(self):
        self.refused(self.put("model.h5", b"\x89HDF\r\n\x1a\n" + b"\0" * 100), "HDF5", "safetensors version")

    def test_onnx(self):
        self.refused(self.put("model.onnx", b"\x08\x07"), "ONNX graph")

    def test_archives(self):
        for name, data in (("m.tar.gz", gzip.compress(b"x")), ("m.tar.zst", b"\x28\xb5\x2f\xfd" + b"\0" * 20),
                           ("m.tar.xz", b"\xfd7zXZ\0" + b"\0" * 20), ("m.7z", b"7z\xbc\xaf\x27\x1c" + b"\0" * 20), ("m.tar", b"x" * 600)):
            self.refused(self.put(name, data), "archive", "unpack it first")

    def test_json_file(self):
        self.refused(TINY / "config.json", "JSON file", "give the directory")
        self.refused(self.put("model.safetensors.index.json", "{}"), "JSON file")

    def test_safetensors(self):
        self.assertEqual(len(self.reads(TINY / "model.safetensors", "safetensors")["tensors"]),
                         len(read_safetensors(TINY / "model.safetensors")))

    def test_lfs_pointer(self):
        text = "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n"
        for name in ("d/model.safetensors", "e/pytorch_model.bin"):
            path = self.put(name, text)
            self.refused(path.parent, path.name, "Git LFS pointer", "git lfs pull")

    def test_something_else(self):
        for data in (b"", b"hello", b"\0" * 100, b"#!/bin/sh\n", os.urandom(0)):
            self.refused(self.put("thing", data), "thing: ")

    def test_special_files(self):
        self.refused("/dev/null", "", code=3)
        result = self.run_("qload", "/dev/zero", "-o", "c", timeout=20)
        self.assertEqual(result.code, 3, result)

    # ---- directories that are no model

    def test_diffusers(self):
        write_llama(self.dir / "d")
        self.put("d/model_index.json", '{"unet": ["diffusers", "UNet2DConditionModel"]}')
        self.refused(self.dir / "d", "names no transformer", "one of its models")

    def test_lora(self):
        self.put("d/adapter_config.json", "{}")
        self.put("d/adapter_model.safetensors", (TINY / "model.safetensors").read_bytes())
        self.refused(self.dir / "d", "LoRA adapter", "merge it")

    def test_distributed(self):
        self.put("d/.metadata")
        self.put("d/__0_0.distcp")
        self.refused(self.dir / "d", "distributed checkpoint", "consolidate")

    def test_original_slices(self):
        self.put("d/consolidated.00.pth", TORCH.read_bytes())
        self.put("d/consolidated.01.pth", TORCH.read_bytes())
        self.refused(self.dir / "d", "tensor-parallel slices", "HF version")

    def test_other_frameworks(self):
        for name in ("tf_model.h5", "flax_model.msgpack", "model.onnx"):
            self.put(f"{name}.d/{name}")
            self.put(f"{name}.d/config.json", "{}")
            self.refused(self.dir / f"{name}.d", "TensorFlow, Flax or ONNX", "safetensors version")

    def test_directory_of_qmaps(self):
        (self.dir / "d").mkdir()
        self.ok("qload", TINY, "-o", "d/a.qmap")
        self.refused(self.dir / "d", "directory of qmaps", "name the file")

    def test_config_alone(self):
        self.put("d/config.json", "{}")
        self.refused(self.dir / "d", "config.json but no weights", "download is incomplete")

    def test_directory_of_nothing(self):
        (self.dir / "d").mkdir()
        self.refused(self.dir / "d", "holds no checkpoint", "expected safetensors")
        self.put("d/README.md")
        self.refused(self.dir / "d", "holds no checkpoint")

    def test_several_ggufs(self):
        self.put("d/a.gguf", GGUF.read_bytes())
        self.reads(self.dir / "d", "gguf")
        self.put("d/mmproj-a.gguf", GGUF.read_bytes())
        self.reads(self.dir / "d", "gguf")  # a projector is not the model
        self.put("d/b.gguf", GGUF.read_bytes())
        self.refused(self.dir / "d", "2 GGUF models (expected one)", "name the file")

    # ---- weights in directories

    def test_torch_directories(self):
        for name in ("pytorch_model.bin", "model.pt", "consolidated.00.pth"):
            self.put(f"{name}.d/{name}", TORCH.read_bytes())
            self.put(f"{name}.d/config.json", "{}")
            for other in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth"):
                self.put(f"{name}.d/{other}", b"not to be read")
            out = self.reads(self.dir / f"{name}.d", "pytorch")
            self.assertIn("training_args.bin", [d["name"] for d in out["dropped"]])

    def test_indexed_torch(self):
        path = self.put("d/part.bin", TORCH.read_bytes())
        names = [t["name"] for t in self.listed(path)["tensors"]]
        self.put("d/pytorch_model.bin.index.json", json.dumps({"weight_map": dict.fromkeys(names, "part.bin")}))
        self.assertEqual(sorted(t["name"] for t in self.reads(self.dir / "d", "pytorch")["tensors"]), sorted(names))

    # ---- several kinds at once: the order of the engines

    def test_safetensors_win_over_all(self):
        model = write_llama(self.dir / "d")
        self.put("d/pytorch_model.bin", b"broken")
        self.put("d/model.pt", b"broken")
        self.put("d/model.gguf", b"broken")
        self.put("d/pytorch_model.bin.index.json", "broken")
        self.put("d/tf_model.h5", b"broken")
        out = self.reads(model, "safetensors")
        self.assertLessEqual({"pytorch_model.bin", "model.pt", "model.gguf", "tf_model.h5"}, {d["name"] for d in out["dropped"]})

    def test_bin_wins_over_pt_and_gguf(self):
        self.put("d/pytorch_model.bin", TORCH.read_bytes())
        self.put("d/model.pt", b"broken")
        self.put("d/model.gguf", b"broken")
        self.reads(self.dir / "d", "pytorch")

    def test_consolidated_beside_hf_names(self):
        model = write_llama(self.dir / "d")
        self.put("d/consolidated.safetensors", b"broken")
        out = self.reads(model, "safetensors")
        self.assertIn("consolidated.safetensors", [d["name"] for d in out["dropped"]])

    def test_index_decides_over_other_shards(self):
        model = write_llama(self.dir / "d")
        names = list(read_safetensors(model / "model.safetensors"))
        self.put("d/stray.safetensors", b"broken")
        self.put("d/consolidated.00.safetensors", b"broken")
        self.put("d/model.safetensors.index.json", json.dumps({"weight_map": dict.fromkeys(names, "model.safetensors")}))
        out = self.reads(model, "safetensors")
        self.assertEqual(sorted(t["name"] for t in out["tensors"]), sorted(names))
        self.assertLessEqual({"stray.safetensors", "consolidated.00.safetensors"}, {d["name"] for d in out["dropped"]})

    def test_adapter_beside_a_whole_model(self):
        model = write_llama(self.dir / "d")
        self.put("d/adapter_config.json", "{}")
        self.reads(model, "safetensors")

    # ---- quantized checkpoints of others

    def test_quantization_methods(self):
        rows = json.loads(self.ok("qload", "--list-inputs", "--json").out)
        named = [r["kind"] for r in rows if r["verdict"] == "named"]
        self.assertGreaterEqual(len(named), 5)
        model = write_llama(self.dir / "d")
        for method in named:
            self.put("d/config.json", json.dumps({"quantization_config": {"quant_method": method}}))
            self.refused(model, f"is quantized with {method}", "cannot read yet", "qload --list")
            self.ok("qload", model, "--list")  # still tells what is in it

    def test_places_of_the_method(self):
        model = write_llama(self.dir / "d")
        for config, method in (({"compression_config": {"quant_method": "hqq"}}, "hqq"),
                               ({"text_config": {"quantization_config": {"quant_method": "aqlm"}}}, "aqlm"),
                               ({"quantization_config": {"quant_method": "EETQ"}}, "eetq"),
                               ({"quantization_config": {"quant_method": "brand-new"}}, "brand-new"),
                               ({"quantization_config": {}}, "unnamed")):
            self.put("d/config.json", json.dumps(config))
            self.refused(model, f"is quantized with {method}")

    def test_files_that_tell_the_method(self):
        model = write_llama(self.dir / "d")
        self.put("d/hf_quant_config.json", json.dumps({"quantization": {"quant_algo": "FP8"}}))
        result = self.ok("qload", model, "-o", "c")
        self.assertIn("declares modelopt (hf_quant_config.json), but no tensor is quantized", result.err)
        self.put("d/config.json", json.dumps({"quantization_config": {"quant_method": "hqq"}}))
        (self.dir / "c").unlink()
        self.refused(model, "is quantized with hqq (config.json quantization_config)")  # config.json comes first
        model = write_llama(self.dir / "e")
        self.put("e/quant_model_description.json", "broken")
        self.refused(model, "quant_model_description.json")


if __name__ == "__main__":
    main()
