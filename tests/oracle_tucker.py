#!/usr/bin/env python3
"""Compares tucker_hooi with tensorly's partial_tucker: same relative error, less time.

    oracle_tucker.py TUCKER_TOOL [MODEL.gguf [LAYER]]

TUCKER_TOOL is the program of tests/tucker_tool.c (compiled with tucker.c and core/*.c). With a GGUF
file the attention tensor of one of its layers (llama family) is compared too. Both sides start from
HOSVD, stop at the same tolerance and may use the same number of threads (OMP_NUM_THREADS; 2 unless
set). Medians of five, in turn. Exit code 1 where an error differs by over 1e-6.
Made with tensorly 0.10.0, numpy 2.4.6, gguf 0.19.0.
"""
import os
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OPENBLAS_NUM_THREADS", os.environ["OMP_NUM_THREADS"])

import numpy as np                                     # after the thread count is set
from tensorly.decomposition import partial_tucker

SWEEPS, TOL, REPEATS = 6, 1e-6, 5


def attention_tensor(path, layer):
    """d x hd x (Q_1..Q_m, K, V, O_1..O_m) x n_kv, as in tucker.h."""
    import gguf
    reader = gguf.GGUFReader(path)
    arch = bytes(reader.fields["general.architecture"].parts[-1]).decode()
    heads = int(reader.fields[f"{arch}.attention.head_count"].parts[-1][0])
    groups = int(reader.fields[f"{arch}.attention.head_count_kv"].parts[-1][0])
    w = {t.name: t for t in reader.tensors}

    def get(p):
        t = w[f"blk.{layer}.attn_{p}.weight"]
        return np.asarray(gguf.dequantize(t.data, t.tensor_type), np.float64)

    def split(a, kinds):
        return a.reshape(groups, kinds, hd, d).transpose(3, 2, 1, 0)

    q, k, v, o = get("q"), get("k"), get("v"), get("output").T
    d, hd, m = q.shape[1], q.shape[0] // heads, heads // groups
    parts = [split(q, m), split(k, 1), split(v, 1), split(o, m)]
    return np.ascontiguousarray(np.concatenate(parts, 2))


def compare(name, tensor, ranks, tool):
    modes = [i for i in range(4) if ranks[i] < tensor.shape[i]]
    with tempfile.NamedTemporaryFile(suffix=".f64") as f:
        tensor.tofile(f)
        f.flush()
        command = [tool, f.name, *map(str, (*tensor.shape, *ranks, SWEEPS, TOL, 1))]
        ours, theirs = [], []
        for _ in range(REPEATS):
            run = subprocess.run(command, check=True, capture_output=True, text=True)
            error, took = map(float, run.stdout.split())
            ours.append(took)
            start = time.perf_counter()
            # one truncated mode: we make no sweep, tensorly cannot make fewer than one
            _, errors = partial_tucker(tensor, [ranks[i] for i in modes], modes=modes, tol=TOL,
                                       n_iter_max=SWEEPS if len(modes) > 1 else 1)
            theirs.append(time.perf_counter() - start)
    a, b = float(np.median(ours)), float(np.median(theirs))
    bad = abs(error - errors[-1]) > 1e-6
    shape, small = ("x".join(map(str, s)) for s in (tensor.shape, ranks))
    print(f"{name:6} {shape:12} -> {small:12} error {error:.9f} tensorly {errors[-1]:.9f} "
          f"({len(errors)} sweeps)  seconds {a:.3f} tensorly {b:.3f}, {b / a:.1f} times"
          f"{'  DIFFERENT' if bad else ''}", flush=True)
    return bad


def main():
    tool = sys.argv[1]
    rng = np.random.default_rng(1)
    bad = 0
    for shape, ranks in [((96, 32, 4, 8), (40, 12, 3, 8)), ((576, 64, 8, 3), (288, 64, 8, 3)),
                         ((576, 64, 8, 3), (144, 32, 4, 3)), ((768, 64, 4, 12), (384, 32, 3, 12)),
                         ((768, 64, 4, 12), (256, 64, 4, 12))]:
        bad += compare("random", rng.standard_normal(shape), ranks, tool)
    if len(sys.argv) > 2:
        tensor = attention_tensor(sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 3)
        d, hd, kinds, groups = tensor.shape
        for ranks in [(d // 2, hd, kinds, groups), (d // 4, hd // 2, kinds // 2, groups),
                      (d // 2, 3 * hd // 4, kinds, groups)]:
            bad += compare("model", tensor, ranks, tool)
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
