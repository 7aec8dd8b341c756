"""The checkpoints that are compared."""

import dataclasses

import exported
import test_target


@dataclasses.dataclass
class Case:
    part: str
    label: str
    write: object  # writes into a folder, returns the checkpoint
    tp: int = 1
    ep: int = 1
    capability: int = 90
    all_ranks: bool = False

    def arguments(self):
        return ["--tp", str(self.tp)] * (self.tp > 1) + ["--ep", str(self.ep)] * (self.ep > 1)


def of_threads():
    for thread, engine, broken, _, rule, sound in test_target.CASES:
        name, *more = engine.split()
        if name != "vllm":
            continue
        options = dict(zip(more[::2], more[1::2]))
        tp, ep = int(options.get("--tp", 1)), int(options.get("--ep", 1))
        hardware = options.get("--hw", "sm90")
        for what, maker in ((rule, broken), ("sound", sound)):
            yield Case("Threads", f"{thread}: {what}", lambda folder, maker=maker: maker().write(folder / "m"), tp, ep,
                       int(hardware[2:]))


def of_hardware():
    for i, (args, maker, _, _) in enumerate(test_target.HARDWARE):
        name, _, hardware, *_ = args.split()
        if name == "vllm":
            yield Case("Hardware", f"hardware {i}: {hardware}", lambda folder, maker=maker: maker().write(folder / "m"),
                       capability=int(hardware[2:]))


# ---- what we export

def blank(directory):
    """Loaders look at no value, and zeros are never taken for memory that nobody wrote."""
    for path in directory.glob("*.safetensors"):
        with path.open("r+b") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            size = path.stat().st_size
            file.truncate(start)
            file.truncate(size)
    return directory


def of_exports():
    exports = exported.Exports()
    for model, format_, scheme in exported.combinations():
        if format_ in ("torchao", "bitsandbytes"):
            continue
        for tp, ep in exported.ranks(model, format_, scheme):
            yield Case(f"{model}, exported", f"{model} {format_} {scheme} --tp {tp}{f' --ep {ep}' if ep > 1 else ''}",
                       lambda folder, a=(model, format_, scheme): blank(exports.write(*a)), tp, ep,
                       all_ranks=format_ in exported.GROUPS_CUT)


def all_of():
    yield from of_threads()
    yield from of_hardware()
    yield from of_exports()
