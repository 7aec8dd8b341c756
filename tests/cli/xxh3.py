"""The checksum of qmap manifests, so that tests can damage one and mend its hash."""

import struct


def xxh3_128(data):
    """XXH3-128 with seed 0 of more than 240 bytes, from its specification: (low, high)."""
    M32, M64 = 2**32 - 1, 2**64 - 1
    P32_1, P32_2, P32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
    P64_1, P64_2, P64_3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
    P64_4, P64_5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
    assert len(data) > 240
    secret = XXH3_SECRET
    acc = [P32_3, P64_1, P64_2, P64_3, P64_4, P32_2, P64_5, P32_1]

    def accumulate(at, key):
        lanes = struct.unpack_from("<8Q", data, at)
        keys = struct.unpack_from("<8Q", secret, key)
        for i in range(8):
            value = lanes[i] ^ keys[i]
            acc[i ^ 1] = (acc[i ^ 1] + lanes[i]) & M64
            acc[i] = (acc[i] + (value & M32) * (value >> 32)) & M64

    stripes, block = (len(secret) - 64) // 8, 1024
    blocks = (len(data) - 1) // block
    for b in range(blocks):
        for s in range(stripes):
            accumulate(b * block + 64 * s, 8 * s)
        keys = struct.unpack_from("<8Q", secret, len(secret) - 64)
        for i in range(8):
            acc[i] = ((acc[i] ^ (acc[i] >> 47) ^ keys[i]) * P32_1) & M64
    for s in range((len(data) - 1 - block * blocks) // 64):
        accumulate(block * blocks + 64 * s, 8 * s)
    accumulate(len(data) - 64, len(secret) - 64 - 7)

    def merge(key, start):
        keys = struct.unpack_from("<8Q", secret, key)
        total = start
        for i in range(4):
            product = (acc[2 * i] ^ keys[2 * i]) * (acc[2 * i + 1] ^ keys[2 * i + 1])
            total += (product & M64) ^ (product >> 64)
        total &= M64
        total ^= total >> 37
        total = (total * 0x165667919E3779F9) & M64
        return total ^ (total >> 32)

    low = merge(11, (len(data) * P64_1) & M64)
    high = merge(len(secret) - 64 - 11, ~(len(data) * P64_2) & M64)
    return low, high


# The algorithm's default secret, 192 bytes.
XXH3_SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
    "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e")
