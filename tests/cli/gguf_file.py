"""GGUF files taken apart and put together again, by hand: to seed faults in sound ones."""

import struct
from pathlib import Path

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}
# Elements and bytes of a block.
BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84),
          11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 16: (256, 66), 17: (256, 74),
          18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 29: (256, 56),
          30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18), 42: (64, 18)}


class Cursor:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, code):
        value = struct.unpack_from("<" + code, self.data, self.at)
        self.at += struct.calcsize("<" + code)
        return value[0]

    def text(self):
        n = self.take("Q")
        self.at += n
        return self.data[self.at - n:self.at]

    def value(self, kind):
        return self.text() if kind == STRING else self.take(FORMATS[kind])


class Gguf:
    """keys: {name: (type, value)}, arrays as (ARRAY, element type, list); tensors: {name: [dims, type, bytes]}."""

    def __init__(self, path):
        data = Path(path).read_bytes()
        c = Cursor(data)
        assert c.take("I") == 0x46554747 and c.take("I") == 3
        tensors, keys = c.take("Q"), c.take("Q")
        self.keys, self.tensors = {}, {}
        for _ in range(keys):
            key, kind = c.text().decode(), c.take("I")
            if kind == ARRAY:
                element, n = c.take("I"), c.take("Q")
                self.keys[key] = (ARRAY, element, [c.value(element) for _ in range(n)])
            else:
                self.keys[key] = (kind, c.value(kind))
        table = []
        for _ in range(tensors):
            name, rank = c.text().decode(), c.take("I")
            table.append((name, [c.take("Q") for _ in range(rank)], c.take("I"), c.take("Q")))
        start = c.at + -c.at % 32
        for name, dims, kind, offset in table:
            n = 1
            for d in dims:
                n *= d
            size = n // BLOCKS[kind][0] * BLOCKS[kind][1]
            self.tensors[name] = [dims, kind, bytearray(data[start + offset:start + offset + size])]

    def save(self, path, alignment=32):
        def text(s):
            s = s if isinstance(s, bytes) else s.encode()
            return struct.pack("<Q", len(s)) + s

        def value(kind, v):
            return text(v) if kind == STRING else struct.pack("<" + FORMATS[kind], v)

        out = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(self.tensors), len(self.keys)))
        for key, (kind, *rest) in self.keys.items():
            out += text(key) + struct.pack("<I", kind)
            if kind == ARRAY:
                out += struct.pack("<IQ", rest[0], len(rest[1]))
                out += b"".join(value(rest[0], v) for v in rest[1])
            else:
                out += value(kind, rest[0])
        at = 0
        for name, (dims, kind, data) in self.tensors.items():
            out += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, at)
            at += len(data) + -len(data) % alignment
        out += b"\0" * (-len(out) % alignment)
        for _, _, data in self.tensors.values():
            out += data + b"\0" * (-len(data) % alignment)
        Path(path).write_bytes(out)
