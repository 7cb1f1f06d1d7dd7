"""Writes the known answers in `vectors/`: python -m tests.secure_computation.protocols.make_vectors

A second implementation of the masked protocols, element by element in Python's integers and lists of bits, from the
formulas in docs/protocol.md: neither numpy, nor our kernels, nor our packing takes part. A change of these files means
that parties of different versions no longer understand each other.
"""

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.secure_computation.make_vectors import SEEDS, stream

FOLDER = Path(__file__).parent / "vectors"
ITEM, STEP = "one page", 3
MODEL_SEED = SEEDS["p1"][::-1]

Bits = list[int]
Json = dict[str, Any]


# Streams and messages


def ring(seed: bytes, label: str, count: int, bits: int, *, item: str = ITEM, step: int = STEP) -> list[int]:
    data = stream(seed, item, step, label, 4 * count)
    return [int.from_bytes(data[4 * i : 4 * i + 4], "little") % 2**bits for i in range(count)]


def bits(seed: bytes, label: str, count: int) -> Bits:
    """The highest of each byte first."""
    data = stream(seed, ITEM, STEP, label, (count + 7) // 8)
    return [data[i // 8] >> (7 - i % 8) & 1 for i in range(count)]


def tables(seed: bytes, label: str, count: int, chunk_bits: int) -> list[Bits]:
    """One table of 2^chunk_bits bits, 8 at least, for each element; entry i is bit i of a little-endian word."""
    size = table_bytes(chunk_bits)
    data = stream(seed, ITEM, STEP, label, size * count)
    words = (int.from_bytes(data[size * i : size * (i + 1)], "little") for i in range(count))
    return [[word >> entry & 1 for entry in range(8 * size)] for word in words]


def table_bytes(chunk_bits: int) -> int:
    return max(1, (1 << chunk_bits) // 8)


def packed(values: Sequence[int], bits: int) -> bytes:
    """One number whose digits, lowest first, are the values."""
    number = sum((value & (1 << bits) - 1) << bits * index for index, value in enumerate(values))
    return number.to_bytes((len(values) * bits + 7) // 8, "little")


def message(
    *,
    words: Sequence[list[Bits]] = (),
    bit_arrays: Sequence[Bits] = (),
    rings: Sequence[tuple[Sequence[int], int]] = (),
) -> str:
    body = b""
    for array in words:
        part = b"".join(packed(table, 1) for table in array)
        body += part + bytes(-len(part) % 8)
    body += packed([bit for array in bit_arrays for bit in array], 1)
    return (body + b"".join(packed(values, size) for values, size in rings)).hex()


# Comparison chain


def subsets(items: Sequence[int]) -> Iterator[frozenset[int]]:
    for size in range(len(items) + 1):
        yield from (frozenset(chosen) for chosen in itertools.combinations(items, size))


def products(m: int) -> list[tuple[str, int, frozenset[int], frozenset[int]]]:
    """(table, chunk, what P1's bit is, coefficient that the product is added to)."""
    order = []
    for chunk in range(m):
        above = frozenset(range(chunk + 1, m))
        order += [("less", chunk, above - target, target) for target in subsets(sorted(above)) if target != above]
    for chunk in range(1, m):
        order += [("equal", chunk, target | {chunk}, target) for target in subsets(range(chunk + 1, m))]
    return order


def less_table(equal: Bits, chunk_bits: int) -> Bits:
    """XOR of the 2^chunk_bits entries above each. Entries behind the table, where a word has any, cancel out."""
    return [sum(equal[entry + 1 : entry + 1 + 2**chunk_bits]) % 2 for entry in range(len(equal))]


def chunks_of(layout: Sequence[int], value: int) -> list[int]:
    starts = [sum(layout[:j]) for j in range(len(layout))]
    return [value >> start & 2**size - 1 for start, size in zip(starts, layout, strict=True)]


def compare(layout: Sequence[int], c: Sequence[int], r: Sequence[int], name: str) -> Json:
    """Tables that D deals, bits that P1 sends, and both shares of [c < r]."""
    count, m, order = len(c), len(layout), products(len(layout))
    equal_0 = [tables(SEEDS["p0"], f"{name} equal {j}", count, size) for j, size in enumerate(layout)]
    taus = [tables(SEEDS["p0"], f"{name} tau {i}", count, layout[chunk]) for i, (_, chunk, _, _) in enumerate(order)]
    hides = [bits(SEEDS["p1"], f"{name} hide {i}", count) for i in range(len(order))]
    dealt: list[list[Bits]] = [[] for _ in range(m + len(order))]
    sent: list[Bits] = [[] for _ in order]
    shares: tuple[Bits, Bits] = ([], [])
    for e in range(count):
        cs, rs = chunks_of(layout, c[e]), chunks_of(layout, r[e])
        h_0 = [equal_0[j][e] for j in range(m)]
        h_1 = [[bit ^ (entry == rs[j]) for entry, bit in enumerate(h_0[j])] for j in range(m)]
        for j in range(m):
            dealt[j].append(h_1[j])
        t_0 = [less_table(table, size) for table, size in zip(h_0, layout, strict=True)]
        s_1 = [less_table(table, size) for table, size in zip(h_1, layout, strict=True)]
        h, y = [h_0[j][cs[j]] for j in range(m)], [h_1[j][cs[j]] for j in range(m)]
        t, s = [t_0[j][cs[j]] for j in range(m)], [s_1[j][cs[j]] for j in range(m)]
        ours = dict.fromkeys(subsets(range(1, m)), 0)
        theirs = dict(ours)
        for j in range(m):
            above = frozenset(range(j + 1, m))
            ours[above] ^= t[j]
            for target in subsets(sorted(above)):
                theirs[target] ^= s[j] * all(y[i] for i in above - target)
        for i, (table, chunk, source, target) in enumerate(order):
            x = (t_0 if table == "less" else h_0)[chunk]
            b, tau = hides[i][e], taus[i][e]
            completed = [one ^ two * b for one, two in zip(tau, x, strict=True)]
            dealt[m + i].append(completed)
            u = int(all(y[j] for j in source)) if table == "less" else theirs[source]
            p = u ^ b
            sent[i].append(p)
            ours[target] ^= x[cs[chunk]] * p ^ tau[cs[chunk]]
            theirs[target] ^= completed[cs[chunk]]
        shares[0].append(sum(bit * all(h[i] for i in subset) for subset, bit in ours.items()) % 2)
        shares[1].append(theirs[frozenset()])
        if shares[0][-1] ^ shares[1][-1] != (c[e] < r[e]):
            raise AssertionError("the comparison is wrong")
    return {"words": dealt, "sent": sent, "p0": shares[0], "p1": shares[1]}


def comparison_vectors() -> list[Json]:
    vectors = []
    for layout in [(1,), (4,), (3, 2), (2, 1, 3), (1, 2, 1, 2), (6, 6)]:
        size = 2 ** sum(layout)
        c = [0, size - 1, 0, size - 1, size // 2, size // 3, size // 2 - 1]
        r = [0, size - 1, size - 1, 0, size // 2, size // 2, size // 2]
        played = compare(layout, c, r, "x")
        vectors.append(
            {
                "chunk_bits": layout,
                "c": c,
                "r": r,
                "corrections": [b"".join(packed(table, 1) for table in word).hex() for word in played["words"]],
                "from_p1": played["sent"],
                "p0_share": played["p0"],
                "p1_share": played["p1"],
            }
        )
    return vectors


# ReLU and truncation


def edges(k: int, f: int, low: int, high: int) -> list[int]:
    near = [0, -1, 2**f, -(2**f), 2**f - 1, 1 - 2**f, low, high - 1]
    return sorted({value for value in near if low <= value < high})


def shares_of(dealt: Mapping[str, list[int]], sizes: Mapping[str, int], count: int) -> tuple[Json, list[Any]]:
    """P0's ring shares, drawn as words of 8, 16 or 32 bits, and P1's with their rings."""
    ours: Json = {}
    for name, size in sizes.items():
        width = 1 if size <= 8 else 2 if size <= 16 else 4
        data = stream(SEEDS["p0"], ITEM, STEP, f"share of {name}", width * count)
        ours[name] = [int.from_bytes(data[width * i : width * (i + 1)], "little") for i in range(count)]
    theirs = [
        ([value - own for value, own in zip(dealt[name], ours[name], strict=True)], sizes[name]) for name in sizes
    ]
    return ours, theirs


def relu(k: int, f: int, k_out: int, high: Sequence[int], low: Sequence[int]) -> Json:
    h = k - f
    z = edges(k, f, -(2 ** (k - 1)) + (2**f if f else 0), 2 ** (k - 1))
    n = len(z)
    z0 = ring(SEEDS["p0"], "an input of the vectors", n, 32)
    r0, r1 = (ring(SEEDS[party], "mask", n, k) for party in ("p0", "p1"))
    r = [(a + b) % 2**k for a, b in zip(r0, r1, strict=True)]
    q = [value >> f for value in r]
    g = [value >> h - 1 for value in q]
    b_0, b_1 = (bits(SEEDS[party], "m1", n) for party in ("p0", "p1"))
    m1 = [a ^ b ^ top for a, b, top in zip(b_0, b_1, g, strict=True)]
    dealt = {"m1": m1, "q": q, "m1 q": [a * b for a, b in zip(m1, q, strict=True)]}
    sizes = dict.fromkeys(dealt, k_out)
    m2_0, m2_1 = [0] * n, [0] * n
    if f:
        m2_0, m2_1 = (bits(SEEDS[party], "m2", n) for party in ("p0", "p1"))
        dealt["m2"] = [a ^ b for a, b in zip(m2_0, m2_1, strict=True)]
        dealt["m1 m2"] = [a * b for a, b in zip(m1, dealt["m2"], strict=True)]
        sizes |= {"m2": k_out, "m1 m2": k_out}
    if k_out > h:
        dealt |= {"g": g, "m1 g": [a * b for a, b in zip(m1, g, strict=True)]}
        sizes |= {"g": k_out - h, "m1 g": k_out - h}
    ours, theirs = shares_of(dealt, sizes, n)
    c = [(value + 2 ** (k - 1) + mask) % 2**k for value, mask in zip(z, r, strict=True)]
    c_q = [((value >> f) - (1 if f else 0)) % 2**h for value in c]
    cm = [value >> h - 1 for value in c_q]
    sign = compare(high, [value % 2 ** (h - 1) for value in c_q], [value % 2 ** (h - 1) for value in q], "high")
    nothing: Json = {"words": [], "sent": [], "p0": [0] * n, "p1": [0] * n}
    carry = compare(low, [v % 2**f for v in c], [v % 2**f for v in r], "low") if f else nothing
    dd_0 = [a ^ b for a, b in zip(sign["p0"], b_0, strict=True)]
    dd_1 = [a ^ top ^ b for a, top, b in zip(sign["p1"], cm, b_1, strict=True)]
    dc_0 = [a ^ m for a, m in zip(carry["p0"], m2_0, strict=True)]
    dc_1 = [a ^ m for a, m in zip(carry["p1"], m2_1, strict=True)]
    rho = ring(SEEDS["p0"], "output mask", n, k_out)
    y0 = []
    for e in range(n):
        own = {name: values[e] for name, values in ours.items()}
        dd = dd_0[e] ^ dd_1[e]
        d = (1 - 2 * dd) * own["m1"]  # P0's share of d: public terms are P1's
        d_q = dd * own["q"] + (1 - 2 * dd) * own["m1 q"]
        y = d * (c_q[e] + (1 if f else 0) + 2**h * (1 - cm[e]) - 2 ** (h - 1)) - d_q
        if k_out > h:
            y += 2**h * cm[e] * (dd * own["g"] + (1 - 2 * dd) * own["m1 g"])
        if f:
            dc = dc_0[e] ^ dc_1[e]
            y -= dc * d + (1 - 2 * dc) * (dd * own["m2"] + (1 - 2 * dd) * own["m1 m2"])
        y0.append(y)
    flags_0, flags_1 = ([dd_0, dc_0], [dd_1, dc_1]) if f else ([dd_0], [dd_1])
    return {
        "shape": {"ring_bits": k, "truncated_bits": f, "output_bits": k_out, "high": high, "low": low},
        "z": z,
        "z0": z0,
        "corrections": message(words=sign["words"] + carry["words"], rings=theirs),
        "prepared": message(rings=[([a + b for a, b in zip(z0, r0, strict=True)], k)]),
        "from_p1": message(bit_arrays=[*sign["sent"], *carry["sent"], *flags_1], rings=[(c, k)]),
        "from_p0": message(bit_arrays=flags_0, rings=[([a - b for a, b in zip(y0, rho, strict=True)], k_out)]),
        "y": [max(0, value >> f) % 2**k_out for value in z],
    }


def truncation(k: int, f: int, k_out: int, low: Sequence[int]) -> Json:
    wide = k_out > k - f
    offset = 2 ** (k - 2 if wide else k - 1)
    z = edges(k, f, -offset, offset)
    n = len(z)
    z0 = ring(SEEDS["p0"], "an input of the vectors", n, 32)
    r0, r1 = (ring(SEEDS[party], "mask", n, k) for party in ("p0", "p1"))
    r = [(a + b) % 2**k for a, b in zip(r0, r1, strict=True)]
    dealt, sizes = {"q": [value >> f for value in r]}, {"q": k_out}
    m2_0, m2_1 = [0] * n, [0] * n
    if f:
        m2_0, m2_1 = (bits(SEEDS[party], "m2", n) for party in ("p0", "p1"))
        dealt["m2"], sizes["m2"] = [a ^ b for a, b in zip(m2_0, m2_1, strict=True)], k_out
    if wide:
        dealt["g"], sizes["g"] = [value >> k - 1 for value in r], k_out - k + f
    ours, theirs = shares_of(dealt, sizes, n)
    c = [(value + offset + mask) % 2**k for value, mask in zip(z, r, strict=True)]
    nothing: Json = {"words": [], "sent": [], "p0": [0] * n, "p1": [0] * n}
    carry = compare(low, [v % 2**f for v in c], [v % 2**f for v in r], "low") if f else nothing
    dc_0 = [a ^ m for a, m in zip(carry["p0"], m2_0, strict=True)]
    dc_1 = [a ^ m for a, m in zip(carry["p1"], m2_1, strict=True)]
    rho = ring(SEEDS["p0"], "output mask", n, k_out)
    y0 = []
    for e in range(n):
        y = -ours["q"][e]
        if f:
            y -= (1 - 2 * (dc_0[e] ^ dc_1[e])) * ours["m2"][e]
        if wide:
            y += 2 ** (k - f) * (1 - (c[e] >> k - 1)) * ours["g"][e]
        y0.append(y - rho[e])
    return {
        "shape": {"ring_bits": k, "truncated_bits": f, "output_bits": k_out, "low": low},
        "z": z,
        "z0": z0,
        "corrections": message(words=carry["words"], rings=theirs),
        "prepared": message(rings=[([a + b for a, b in zip(z0, r0, strict=True)], k)]),
        "from_p1": message(bit_arrays=[*carry["sent"], dc_1] if f else [], rings=[(c, k)]),
        "from_p0": message(bit_arrays=[dc_0] if f else [], rings=[(y0, k_out)]),
        "y": [(value >> f) % 2**k_out for value in z],
    }


def dithered_relu(k: int, f: int, k_out: int, high: Sequence[int], e: int = 0) -> Json:
    h = k - f
    undecided = 2**e // 2
    offset = 2 ** (k - 1) - 2**f * undecided
    z = edges(k, f, -offset, 2 ** (k - 1) - 2**f * (2**e - undecided) + 1)
    n = len(z)
    z0 = ring(SEEDS["p0"], "an input of the vectors", n, 32)
    r0, r1 = ring(SEEDS["p0"], "mask", n, h), ring(SEEDS["p1"], "mask", n, h)
    dither = [-value % 2**f for value in z0]
    hidden = [(share + t) // 2**f + mask for share, t, mask in zip(z0, dither, r0, strict=True)]
    sums = [a + b for a, b in zip(r0, r1, strict=True)]
    q = [value % 2**h for value in sums]
    g = [value >> h - 1 for value in q]
    b_0, b_1 = (bits(SEEDS[party], "m1", n) for party in ("p0", "p1"))
    m1 = [a ^ b ^ top for a, b, top in zip(b_0, b_1, g, strict=True)]
    dealt = {"m1": m1, "m1 q": [a * b for a, b in zip(m1, q, strict=True)]}
    sizes = dict.fromkeys(dealt, k_out)
    if k_out > h:
        dealt |= {"g": g, "m1 g": [a * b for a, b in zip(m1, g, strict=True)], "w": [value >> h for value in sums]}
        sizes |= dict.fromkeys(("g", "m1 g", "w"), k_out - h)
    ours, theirs = shares_of(dealt, sizes, n)
    own_part = [(value - share + offset) % 2**k // 2**f for value, share in zip(z, z0, strict=True)]
    c = [(a + b + mask) % 2**h for a, b, mask in zip(own_part, hidden, r1, strict=True)]
    cm = [value >> h - 1 for value in c]
    cut_c, cut_q = ([(value >> e) % 2 ** (h - e - 1) for value in values] for values in (c, q))
    sign = compare(high, cut_c, cut_q, "high")
    dd_0 = [a ^ b for a, b in zip(sign["p0"], b_0, strict=True)]
    dd_1 = [a ^ top ^ b for a, top, b in zip(sign["p1"], cm, b_1, strict=True)]
    rho = ring(SEEDS["p0"], "output mask", n, k_out)
    y0 = []
    for i in range(n):
        own = {name: values[i] for name, values in ours.items()}
        dd = dd_0[i] ^ dd_1[i]
        shifted = c[i] + 2**h * (1 - cm[i]) - 2 ** (h - 1) + undecided
        y = (1 - 2 * dd) * own["m1"] * shifted  # P0's share of d
        y -= dd * r0[i] + (1 - 2 * dd) * own["m1 q"]
        if k_out > h:
            y += 2**h * (dd * (own["w"] + cm[i] * own["g"]) + (1 - 2 * dd) * cm[i] * own["m1 g"])
        y0.append(y - rho[i])
    rounded = [value + t >> f for value, t in zip(z, dither, strict=True)]
    passes = [value + mask % 2**e >= undecided for value, mask in zip(rounded, q, strict=True)]
    return {
        "shape": {"ring_bits": k, "truncated_bits": f, "output_bits": k_out, "high": high, "sign_cut_bits": e},
        "z": z,
        "z0": z0,
        "corrections": message(words=sign["words"], rings=theirs),
        "prepared": message(rings=[(hidden, h)]),
        "from_p1": message(bit_arrays=[*sign["sent"], dd_1], rings=[(c, h)]),
        "from_p0": message(bit_arrays=[dd_0], rings=[(y0, k_out)]),
        "y": [value * passed % 2**k_out for value, passed in zip(rounded, passes, strict=True)],
    }


def dithered_truncation(k: int, f: int, k_out: int) -> Json:
    h, wide = k - f, k_out > k - f
    offset = 2 ** (k - 2 if wide else k - 1)
    z = edges(k, f, -offset, offset)
    n = len(z)
    z0 = ring(SEEDS["p0"], "an input of the vectors", n, 32)
    r0 = ring(SEEDS["p0"], "mask", n, h)
    dither = [-value % 2**f for value in z0]
    hidden = [(share + t) // 2**f + mask for share, t, mask in zip(z0, dither, r0, strict=True)]
    vector = {
        "shape": {"ring_bits": k, "truncated_bits": f, "output_bits": k_out},
        "z": z,
        "z0": z0,
        "prepared": message(rings=[(hidden, h)]),
        "y": [(value + t >> f) % 2**k_out for value, t in zip(z, dither, strict=True)],
    }
    if not wide:
        return vector
    g = [mask >> h - 1 for mask in r0]
    b = bits(SEEDS["p1"], "wrap bit", n)
    x_0 = ring(SEEDS["p0"], "share of wrap", n, k_out - h)
    pad = ring(SEEDS["p0"], "output mask", n, k_out - h)
    own_part = [(value - share + offset) % 2**k // 2**f for value, share in zip(z, z0, strict=True)]
    u = [(a + b) % 2**h for a, b in zip(own_part, hidden, strict=True)]
    opened = [1 - (value >> h - 1) ^ own for value, own in zip(u, b, strict=True)]
    answer = [opened[i] * g[i] + (1 - 2 * opened[i]) * x_0[i] - pad[i] for i in range(n)]
    return vector | {
        "corrections": message(rings=[([b[i] * g[i] - x_0[i] for i in range(n)], k_out - h)]),
        "from_p1": message(bit_arrays=[opened]),
        "from_p0": message(rings=[(answer, k_out - h)]),
    }


def dithered_relu_vectors() -> list[Json]:
    return [
        dithered_relu(8, 3, 8, (4,)),
        dithered_relu(12, 0, 20, (6, 5)),
        dithered_relu(20, 9, 20, (5, 5)),
        dithered_relu(24, 12, 6, (4, 4, 3)),
        dithered_relu(24, 10, 22, (5, 5), 3),
        dithered_relu(32, 12, 32, (6, 6, 4, 3)),
        dithered_relu(32, 0, 32, (6, 6, 6, 6, 5), 2),
    ]


def dithered_truncation_vectors() -> list[Json]:
    return [
        dithered_truncation(8, 3, 5),
        dithered_truncation(24, 12, 7),
        dithered_truncation(20, 9, 20),
        dithered_truncation(20, 0, 28),
        dithered_truncation(32, 12, 32),
    ]


def relu_vectors() -> list[Json]:
    return [
        relu(8, 3, 8, (4,), (3,)),
        relu(12, 0, 20, (6, 5), ()),
        relu(20, 9, 20, (5, 5), (5, 4)),
        relu(24, 12, 6, (4, 4, 3), (6, 6)),
        relu(32, 12, 32, (6, 6, 4, 3), (4, 4, 4)),
    ]


def truncation_vectors() -> list[Json]:
    return [
        truncation(8, 3, 5, (3,)),
        truncation(20, 9, 20, (5, 4)),
        truncation(24, 12, 12, (4, 4, 4)),
        truncation(32, 12, 32, (6, 6)),
        truncation(16, 0, 24, ()),
    ]


# Linear map


def linear_vectors() -> list[Json]:
    """W * x for a matrix."""
    vectors = []
    for k, rows, columns in ((16, 2, 3), (27, 3, 2), (32, 2, 2)):
        weights = [[(-1) ** (i + j) * (1000 * i + 17 * j + 5) for j in range(columns)] for i in range(rows)]
        x = [(-1) ** j * (300 * j + 7) for j in range(columns)]
        bias = [11 - 4 * i for i in range(rows)]
        flat = ring(MODEL_SEED, "weight mask", rows * columns, k, item="weights", step=0)
        mask = [flat[i * columns : (i + 1) * columns] for i in range(rows)]
        rho = ring(SEEDS["p0"], "an input of the vectors", columns, k)
        t = ring(SEEDS["p0"], "product pad", rows, k)
        delta = [[(w - a) % 2**k for w, a in zip(*pair, strict=True)] for pair in zip(weights, mask, strict=True)]

        def times(matrix: list[list[int]], vector: list[int]) -> list[int]:
            return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]

        u1 = [a - b for a, b in zip(times(mask, rho), t, strict=True)]
        z0 = [(a + b) % 2**k for a, b in zip(times(delta, rho), t, strict=True)]
        z = [(a + b) % 2**k for a, b in zip(times(weights, x), bias, strict=True)]
        vectors.append(
            {
                "ring_bits": k,
                "model_seed": MODEL_SEED.hex(),
                "weights": weights,
                "bias": bias,
                "x": x,
                "rho": rho,
                "delta": packed([value for row in delta for value in row], k).hex(),
                "u1": packed(u1, k).hex(),
                "z0": z0,
                "z": z,
            }
        )
    return vectors


# Products of two values


def product_vectors() -> list[Json]:
    """X * y of an image of channels by a weight each, and of two vectors."""
    vectors = []
    for k, left, right in ((16, [2, 1, 3], [2, 1, 1]), (27, [4], [4]), (32, [1, 2, 2], [1, 2, 2])):
        count, factors = math.prod(left), math.prod(right)
        each = count // factors
        x = [(-1) ** i * (300 * i + 7) for i in range(count)]
        y = [(-1) ** (i // 2) * (41 * i - 20) for i in range(factors)]
        a = ring(SEEDS["p0"], "the left mask of the vectors", count, k)
        b = ring(SEEDS["p0"], "the right mask of the vectors", factors, k)
        s, t = ring(SEEDS["p1"], "left pad", count, k), ring(SEEDS["p1"], "right pad", factors, k)
        pi, rest = ring(SEEDS["p0"], "answer pad", count, k), ring(SEEDS["p0"], "output mask", count, k)
        e = [x[i] - a[i] + s[i] for i in range(count)]
        f = [y[j] - b[j] + t[j] for j in range(factors)]
        places = [(i, i // each) for i in range(count)]
        vectors.append(
            {
                "shape": {"ring_bits": k, "left": left, "right": right},
                "x": x,
                "y": y,
                "a": a,
                "b": b,
                "corrections": packed(
                    [a[i] * b[j] - a[i] * t[j] - b[j] * s[i] - pi[i] - rest[i] for i, j in places], k
                ).hex(),
                "from_p1": packed([*e, *f], k).hex(),
                "from_p0": packed([a[i] * f[j] + b[j] * e[i] + pi[i] for i, j in places], k).hex(),
                "p0_half": rest,
                "p1_half": [(x[i] * y[j] - rest[i]) % 2**k for i, j in places],
            }
        )
    return vectors


# Messages that must be refused

LAYOUT = {"count": 5, "word_bytes": [1, 8], "bit_arrays": 3, "ring_bits": [20, 7]}
SOUND = (
    bytes([7, 1, 2, 3, 4, 0, 0, 0]) + bytes(range(40)) + b"\xff\x7f" + b"\xaa" * 12 + b"\x0a" + b"\x55" * 4 + b"\x05"
)


def malformed() -> dict[str, Json]:
    """By the name of what is wrong. A layout of five elements, so that every part ends inside a byte."""
    behind_table, behind_bits, behind_ring = bytearray(SOUND), bytearray(SOUND), bytearray(SOUND)
    behind_table[5] = 1
    behind_bits[49] |= 0x80
    behind_ring[62] |= 0x10
    cases = {
        "sound": (SOUND, None),
        "empty": (b"", "expected 68 bytes, got 0"),
        "cut_short_by_one_byte": (SOUND[:-1], "expected 68 bytes, got 67"),
        "one_byte_too_long": (SOUND + b"\0", "expected 68 bytes, got 69"),
        "sent_twice": (SOUND * 2, "expected 68 bytes, got 136"),
        "byte_set_behind_the_last_table": (bytes(behind_table), "bytes are set behind the last table"),
        "bit_set_behind_the_last_bit": (bytes(behind_bits), "bits are set behind the last packed element"),
        "bit_set_behind_the_last_ring_element": (bytes(behind_ring), "bits are set behind the last packed element"),
    }
    return {name: {"layout": LAYOUT, "body": body.hex(), "refused": why} for name, (body, why) in cases.items()}


def files() -> dict[str, Any]:
    """Everything, by path inside `vectors/`."""
    common = {"seeds": {name: seed.hex() for name, seed in SEEDS.items()}, "item": ITEM, "step": STEP}
    return {
        "comparison.json": common | {"vectors": comparison_vectors()},
        "relu.json": common | {"vectors": relu_vectors()},
        "truncation.json": common | {"vectors": truncation_vectors()},
        "dithered_relu.json": common | {"vectors": dithered_relu_vectors()},
        "dithered_truncation.json": common | {"vectors": dithered_truncation_vectors()},
        "linear.json": common | {"vectors": linear_vectors()},
        "product.json": common | {"vectors": product_vectors()},
        **{f"malformed/{name}.json": case for name, case in malformed().items()},
    }


def main() -> None:
    """Write all files."""
    (FOLDER / "malformed").mkdir(parents=True, exist_ok=True)
    for name, content in files().items():
        (FOLDER / name).write_text(json.dumps(content, indent=None) + "\n")


if __name__ == "__main__":
    main()
