# Writes golden_quant.h: number types as the reference implementation has them, for test_quant.c.
#   python3 tests/oracle_quant.py > tests/golden_quant.h
# Needs gguf 0.19.0 and numpy 2.4.6 (pip). The library's own tests hold gguf.quants to ggml's C code
# bit by bit. Neither building nor testing needs this script: its output is kept.
import numpy as np
from gguf import quants, GGMLQuantizationType as T, GGML_QUANT_SIZES

rng = np.random.default_rng(20240501)


def float_rows():
    """Rows of 32 weights, one kind of trouble each."""
    yield "normal", rng.standard_normal(32)
    yield "small", rng.standard_normal(32) * 0.02
    yield "positive", rng.random(32) + 1
    yield "negative", -rng.random(32) - 3
    # A row of mixed zeros is left out: ggml's C code and the port differ in the sign of its scale.
    yield "zeros", np.zeros(32)
    some = np.choose(np.arange(32) % 3, [0.0, -0.0, 1.0])
    yield "zeros of both signs", some * rng.standard_normal(32)
    yield "one weight", np.where(np.arange(32) == 17, -0.3, 0.0)
    yield "ties: halves of the q8_0 step", (rng.integers(-127, 127, 32) + 0.5) * 2.0**-9
    yield "scale subnormal as f16", rng.standard_normal(32) * 1e-4
    yield "scale 0 as f16", rng.standard_normal(32) * 1e-30
    yield "scale infinite as f16", rng.standard_normal(32) * 1e8


def c_array(ctype, name, values):
    fmt = {"uint8_t": "{}", "uint16_t": "0x{:04x}", "uint32_t": "0x{:08x}"}[ctype]
    print(f"static const {ctype} {name}[] = {{")
    line = ""
    for v in np.asarray(values).ravel():
        item = fmt.format(int(v)) + ","
        if len(line) + len(item) > 99:
            print(line)
            line = ""
        line += item
    print(line + "\n};")


def random_blocks(t, n):
    """Random bytes for n blocks, with the f16 scales among them made finite and moderate."""
    _, size = GGML_QUANT_SIZES[t]
    scales_at = {T.Q5_0: [0], T.Q5_1: [0, 2], T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2],
                 T.Q5_K: [0, 2], T.Q6_K: [208]}[t]
    blocks = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for at in scales_at:
        scale = (rng.standard_normal(n) * 0.1).astype(np.float16)
        blocks[:, at:at + 2] = scale.view(np.uint8).reshape(n, 2)
    return blocks


names, rows = zip(*float_rows())
rows = np.stack(rows).astype(np.float32)
print("// Golden data: made by tests/oracle_quant.py with gguf 0.19.0 (quantize and dequantize of\n"
      "// its gguf.quants, the port of ggml's reference). Floats are given by their bits.")
print("static const char *const golden_row[] = {")
for n in names:
    print(f'    "{n}",')
print("};")
c_array("uint32_t", "golden_floats", rows.view(np.uint32))
with np.errstate(all="ignore"):
    for t in (T.F16, T.BF16):
        c_array("uint16_t", f"golden_{t.name.lower()}", quants.quantize(rows, t).view(np.uint16))
    for t in (T.Q8_0, T.Q4_0, T.Q4_1):
        q = quants.quantize(rows, t)
        c_array("uint8_t", f"golden_{t.name.lower()}", q)
        back = quants.dequantize(q[:-1], t)      # the last row's infinite scale gives NaN
        c_array("uint32_t", f"golden_{t.name.lower()}_floats", back.view(np.uint32))
    for t, n in ((T.Q5_0, 2), (T.Q5_1, 2), (T.Q2_K, 2), (T.Q3_K, 2), (T.Q4_K, 2), (T.Q5_K, 2),
                 (T.Q6_K, 2)):
        q = random_blocks(t, n)
        c_array("uint8_t", f"golden_{t.name.lower()}", q)
        back = quants.dequantize(q, t)
        c_array("uint32_t", f"golden_{t.name.lower()}_floats", back.view(np.uint32))
