"""./run and export/export against the numbers transformers gives on random models of each family.

usage: oracle_models.py TEXT FOLDER...     FOLDER holds <name>/config.json, model.safetensors, a tokenizer, expect.json
For every decoder family this program reads: exports to f32, then compares greedy ids (equal) and perplexity (0.1 %),
for encoders what --fill-mask prints (the same pieces, probabilities within 1e-4), and the same at full rank on Tucker
factors, scheme by scheme. Exit 1 when one differs. Needs Python only.
"""
import json, os, subprocess, sys, tempfile

text, folders = sys.argv[1], sys.argv[2:]
wrong = 0

def sh(*a):
    r = subprocess.run(a, capture_output=True, text=True)
    return r.returncode, r.stdout.strip(), r.stderr.strip()

with tempfile.TemporaryDirectory() as tmp:
    cut = os.path.join(tmp, "text")
    open(cut, "w", encoding="utf8").write(open(text, encoding="utf8").read()[:6000])
    for name in [os.path.join(f, n) for f in folders for n in sorted(os.listdir(f))]:
        if not os.path.exists(os.path.join(name, "expect.json")): continue
        want = json.load(open(os.path.join(name, "expect.json")))
        for flags in (["--dense"], *(["--scheme", s, "--keep", "1"] for s in ("qkvo", "qkv+o", "qk+v+o", "q+k+v+o"))):
            out = os.path.join(tmp, "model")
            if "fill_mask" in want and flags[0] == "--scheme": flags += ["--method", "hooi"]
            code, _, err = sh("export/export", name, "-o", out, "--type", "f32", *flags)
            if code:
                print(name, *flags, "REFUSED:", err.splitlines()[-1] if err else code); wrong += "not supported" not in err
                break
            if "fill_mask" in want:
                _, lines, err = sh("./run", out, "--fill-mask", want["prompt"])
                got = [line.split(None, 2)[:2] for line in lines.splitlines()][-5:]
                off = max([abs(float(p) - v) for (p, _), (_, _, v) in zip(got, want["fill_mask"])] or [1])
                good = [int(i) for _, i in got] == [i for _, i, _ in want["fill_mask"]] and off < 1e-4
                wrong += not good
                print(name, *flags, "ok" if good else "DIFFERS", "probabilities within %.1e" % off, "" if good else lines + err)
                continue
            _, ids, err = sh("./run", out, "-p", want["prompt"], "--ids", "--temp", "0", "-n", "24", "--kv", "f32")
            ids = [int(i) for i in ids.split()]
            _, ppl, perr = sh("./run", out, "--perplexity", cut, "-c", str(want["ctx"]), "--windows", "1", "--kv", "f32")
            ppl = float(ppl.splitlines()[-1].split()[1]) if ppl else float("nan")
            off = abs(ppl / want["text_ppl"] - 1)
            good = ids == want["greedy"] and off < 1e-3
            wrong += not good
            print(name, *flags, "ok" if good else "DIFFERS", "perplexity off by %.2e" % off, "" if good else (ids, want["greedy"], err, perr))
sys.exit(wrong > 0)
