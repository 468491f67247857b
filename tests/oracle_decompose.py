#!/usr/bin/env python3
"""The twin of tests/bench_decompose.c: the same tensors, decomposed by NumPy, SciPy and TensorLy in double precision.

    python3 tests/oracle_decompose.py CASE [RUNS [build/tests/bench_decompose]]

Prints the rows of bench_decompose for
    tensorly   tensorly.decomposition.partial_tucker over the truncated modes, HOSVD's start, as many sweeps;
               for HOSVD alone its own start (initialize_tucker), as partial_tucker always makes a sweep
    numpy      the quickest way by hand: Gram matrices (A @ A.T, which NumPy gives to BLAS's syrk) and
               numpy.linalg.eigh, of which the leading vectors are taken
    scipy      the same with scipy.linalg.eigh(subset_by_index=...)
and with the third argument runs that program in turn with them, and prints ratios of medians.
Written for NumPy 2.4.6 (OpenBLAS 0.3.31), SciPy 1.17.1, TensorLy 0.10.0; prints the versions it finds.
OMP_NUM_THREADS holds for both sides.
"""
import subprocess
import sys
import time

import numpy as np
import scipy
import scipy.linalg

# name: tensor (d, hd, kinds, groups), ranks, sweeps; weighted: d
CASES = {
    "smollm2-hosvd": ((576, 64, 8, 3), (288, 64, 8, 3), 0),
    "smollm2-hooi": ((576, 64, 8, 3), (288, 48, 6, 3), 3),
    "llama2-hosvd": ((4096, 128, 4, 32), (1024, 128, 4, 32), 0),
    "llama2-hooi": ((4096, 128, 4, 32), (1024, 96, 3, 32), 3),
}
WEIGHTED = {"smollm2-weighted": 576, "llama2-weighted": 4096}


def numbers(rows, cols):
    """bench_decompose.c's fill: splitmix64's floats in [-0.5, 0.5), less with every row."""
    out = np.empty((rows, cols))
    gold = 0x9E3779B97F4A7C15
    for e in range(rows):
        z = np.arange(e * cols + 1, (e + 1) * cols + 1, dtype=np.uint64) * np.uint64(gold) + np.uint64(1)
        z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        z = z ^ z >> np.uint64(31)
        out[e] = ((z >> np.uint64(40)).astype(np.float64) * 2.0**-24 - 0.5) / np.sqrt(1 + 8 * e / rows)
    return out


def unfold(t, mode):
    return np.ascontiguousarray(np.moveaxis(t, mode, 0)).reshape(t.shape[mode], -1)


def product(t, u, mode):
    """t x_mode U^T"""
    shape = t.shape[:mode] + (u.shape[1],) + t.shape[mode + 1:]
    if mode == 0:
        return (u.T @ t.reshape(t.shape[0], -1)).reshape(shape)
    return np.moveaxis(np.tensordot(u, t, (0, mode)), 0, mode)


def by_gram(t, ranks, sweeps, subset):
    def leading(x, r):
        x = unfold(x, mode)
        gram, n = x @ x.T, x.shape[0]
        if subset:
            return scipy.linalg.eigh(gram, subset_by_index=[n - r, n - 1], check_finite=False)[1]
        return np.linalg.eigh(gram)[1][:, n - r:]

    modes = [m for m in range(4) if ranks[m] < t.shape[m]]
    factor = {}
    for mode in modes:
        factor[mode] = leading(t, ranks[mode])
    core = t
    for mode in modes:
        core = product(core, factor[mode], mode)
    for _ in range(sweeps):
        for mode in modes:
            core = t
            for other in modes:
                if other != mode:
                    core = product(core, factor[other], other)
            factor[mode] = leading(core, ranks[mode])
            core = product(core, factor[mode], mode)
    return np.linalg.norm(core)


def by_tensorly(t, ranks, sweeps):
    from tensorly.decomposition import _tucker
    modes = [m for m in range(4) if ranks[m] < t.shape[m]]
    wanted = [ranks[m] for m in modes]
    if sweeps:
        (core, _), _ = _tucker.partial_tucker(t, wanted, modes=modes, n_iter_max=sweeps, init="svd", tol=0)
    else:
        core, _ = _tucker.initialize_tucker(t, wanted, modes, None, init="svd")
    return np.linalg.norm(core)


def weighted(w, c):
    values, u = np.linalg.eigh(w @ c @ w.T)
    right = u.T @ w
    return values, right


def main():
    name, runs = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5
    bench = sys.argv[3] if len(sys.argv) > 3 else None
    only = sys.argv[4].split(",") if len(sys.argv) > 4 else ["numpy", "scipy", "tensorly"]
    if name in WEIGHTED:
        d = WEIGHTED[name]
        w, x = numbers(d, d), numbers(2 * d, d)
        c = x.T @ x
        ways = {"numpy": lambda: weighted(w, c)}
        def error(made):
            return np.sqrt(max(0, made[0][: d - d // 2].sum()) / made[0].sum())
    else:
        shape, ranks, sweeps = CASES[name]
        t = numbers(shape[0], shape[1] * shape[2] * shape[3]).reshape(shape)
        whole = np.linalg.norm(t)
        ways = {"numpy": lambda: by_gram(t, ranks, sweeps, False), "scipy": lambda: by_gram(t, ranks, sweeps, True),
                "tensorly": lambda: by_tensorly(t, ranks, sweeps)}
        ways = {way: ways[way] for way in ways if way in only}
        def error(kept):
            return np.sqrt(max(0, whole**2 - kept**2)) / whole
    took, errors = {way: [] for way in ways}, {}
    if bench:
        took["ours"] = []
    for _ in range(runs):
        if bench:
            time.sleep(0.2)                    # BLAS's threads spin for a while
            row = subprocess.run([bench, name, "1" if "llama" in name else "9"], capture_output=True, text=True,
                                 check=True).stdout.split()
            took["ours"].append(float(row[1]))
            errors["ours"] = float(row[row.index("error") + 1])
        for way in ways:
            start = time.perf_counter()
            made = ways[way]()
            took[way].append(time.perf_counter() - start)
            errors[way] = error(made)
    import tensorly
    print(f"{name}: NumPy {np.__version__}, SciPy {scipy.__version__}, TensorLy {tensorly.__version__}, {runs} runs")
    for way in took:
        m = float(np.median(took[way]))
        ratio = f"   {m / np.median(took['ours']):.2f} times ours" if bench and way != "ours" else ""
        print(f"{way:9s} {m:8.4f} s   ({min(took[way]):.4f} .. {max(took[way]):.4f})  error {errors[way]:.12f}{ratio}")


if __name__ == "__main__":
    main()
