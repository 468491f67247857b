#!/usr/bin/env python3
"""The source's experiment (TensorLLM, arXiv 2501.15674, section 5) on a model of yours: one layer edited, its layer and
ranks tuned for each data set on the validation part, then judged on the test part. Prints Markdown tables.

usage: study.py MODEL.gguf WORK [--data FOLDER] [--layers L,L,…] [--prefix COMMAND]

FOLDER holds hotpotqa.jsonl, fever.jsonl, bios.jsonl and wikidata.jsonl as tests/make_tasks.py reads them. WORK keeps the
items and what came of every setting: a run that was broken off goes on where it was. Needs ./run and export/export (make)
and Python 3 alone. COMMAND is put before every program that computes (nice, taskset, ...). The layers tried are every
third of 30 unless --layers says otherwise; LASER is tried on every other one of these, TRAWL and the projections
apart on every other one of those.
"""
import argparse, hashlib, json, math, os, subprocess, sys

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TASKS = ["hotpotqa", "fever", "bios", "wikidata"]
APART = {"Q": "q", "K": "k", "V": "v", "O": "o", "each for itself": "q+k+v+o"}

a = argparse.ArgumentParser(usage=__doc__)
a.add_argument("model"), a.add_argument("work")
a.add_argument("--data", default=os.path.join(HERE, "../shared/data/tasks")), a.add_argument("--prefix", default="")
a.add_argument("--layers", default="0,3,6,9,12,15,18,21,24,27,29")
a = a.parse_args()
LAYERS = [int(l) for l in a.layers.split(",")]
FEWER = LAYERS[len(LAYERS) - 1 & 1::2]                   # every other one, the last among them
os.makedirs(a.work, exist_ok=True)


def tucker(layer, keep, scheme="qkvo"):
    return f"--method hooi --scheme {scheme} --layers {layer} --keep {keep}"


def laser(layer, matrix, rank):
    return f"--method hooi --scheme none --ffn {matrix}:{layer}:{rank}"


def hybrid(t, l):                        # both in one file: what the first leaves alone the second edits
    return t + " " + l[l.index("--ffn"):]


def items(part):
    """The four tasks' items of a part in one file, each with its task as id."""
    path = os.path.join(a.work, part + ".jsonl")
    if os.path.exists(path):
        return path
    lines = []
    for task in TASKS:
        made = os.path.join(a.work, f"{task}.{part}.jsonl")
        subprocess.run([sys.executable, os.path.join(HERE, "tests/make_tasks.py"), task,
                        os.path.join(a.data, task + ".jsonl"), "--part", part, "-o", made], check=True)
        with open(made, encoding="utf-8") as f:
            lines += [json.dumps(dict(json.loads(line), id=task)) for line in f]
    with open(path, "w", encoding="utf-8") as f:
        f.write("\n".join(lines) + "\n")
    return path


def outcomes(flags, part, only=TASKS):
    """What came of each item under an edit, a list a task; flags None: the model as it is."""
    key = hashlib.sha1(f"{flags} {part} {only}".encode()).hexdigest()[:16]
    out = os.path.join(a.work, key + ".out.jsonl")
    if not os.path.exists(out):
        edited, some = os.path.join(a.work, "edited.tbin"), items(part)
        if only is not TASKS:
            with open(some, encoding="utf-8") as f:
                chosen = [line for line in f if json.loads(line)["id"] in only]
            some = os.path.join(a.work, "some.jsonl")
            with open(some, "w", encoding="utf-8") as f:
                f.writelines(chosen)
        make = ["export/export", a.model, "-o", edited, "--type", "f16", "-q"] + (flags or "--dense").split()
        judge = ["./run", edited, "--eval", some, "--eval-out", out]
        for command in (make, judge):
            done = subprocess.run(a.prefix.split() + command, cwd=HERE, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{' '.join(command)}\n{done.stderr[-400:]}")
        os.remove(edited)
    made = {task: [] for task in only}
    with open(out, encoding="utf-8") as f:
        for line in f:
            o = json.loads(line)
            made[o["id"]].append(o)
    return made


def mean(x):
    m = sum(x) / len(x)
    return m, math.sqrt(sum((v - m) ** 2 for v in x) / (len(x) - 1) / len(x))


def rates(o, key="right"):
    m, e = mean([float(x[key]) for x in o])
    return 100 * m, 100 * e


def mcnemar(new, old):
    """Two-sided p of paired rights: exact below 25 that differ, else chi-square with continuity correction."""
    only = [sum(x["right"] > y["right"] for x, y in zip(*two)) for two in ((new, old), (old, new))]
    n = sum(only)
    if n < 25:
        p = min(1, 2 * sum(math.comb(n, k) for k in range(min(only) + 1)) / 2 ** n)
    else:
        p = math.erfc(math.sqrt(max(0, abs(only[0] - only[1]) - 1) ** 2 / n / 2))
    return only, p


def score(o):
    return sum(x["right"] for x in o), -sum(x["loss"] for x in o)      # accuracy, then the lower loss


def validate(name, settings, only=TASKS):
    """The best of some settings for each task on the validation part, and what came of all of them."""
    made = {}
    for s in settings:
        made[s] = outcomes(s, "validation", only)
        said = (f"{t} {rates(o)[0]:.2f} ({mean([x['loss'] for x in o])[0]:.3f})" for t, o in made[s].items())
        print(f"  {name}: {s}: " + "  ".join(said), file=sys.stderr, flush=True)
    return {t: max(settings, key=lambda s: score(made[s][t])) for t in only}, made


def cell(o, base):
    m, e = rates(o)
    if base is None:
        return f"{m:.2f} ± {e:.2f}"
    only, p = mcnemar(o, base)
    return f"{m:.2f} ± {e:.2f} (+{only[0]} −{only[1]}, p {p:.2g})"


def grid(made, rows, columns, name):
    """Validation accuracies, a table a task: rows are layers."""
    for t in TASKS:
        if t == "bios":
            continue
        print(f"\n{t}, validation, %:\n\n| layer | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
        for r in rows:
            print(f"| {r} | " + " | ".join(f"{rates(made[name(r, c)][t])[0]:.2f}" for c in columns) + " |")


# ---- validation ----------------------------------------------------------------------------------

base = outcomes(None, "validation")
keeps, ffn = ["0.5", "0.1", "0.02"], ["gate 0.1", "gate 0.01", "down 0.1", "down 0.01"]
of_ffn = lambda layer, c: laser(layer, *c.split())
best, made = {}, {}
best["Tucker"], made["Tucker"] = validate("Tucker", [tucker(l, k) for l in LAYERS for k in keeps])
best["LASER"], made["LASER"] = validate("LASER", [of_ffn(l, c) for l in FEWER for c in ffn])
of_trawl = lambda layer, c: "--trawl {1}:{0}:{2}:{3}".format(layer, *c.split())
trawl = ["ffn cp 0.5", "attn tucker 0.5"]
best["TRAWL"], made["TRAWL"] = validate("TRAWL", [of_trawl(l, c) for l in FEWER[1::2] for c in trawl])
pairs = sorted({hybrid(best["Tucker"][t], best["LASER"][t]) for t in TASKS})
best["hybrid"], made["hybrid"] = validate("hybrid", pairs)
for name, scheme in APART.items():
    best[name], _ = validate(name, [tucker(l, k, scheme) for l in FEWER[1::2] for k in keeps[:1]], ["wikidata"])

print("## Tuning: one layer edited\n\nOriginal, validation: "
      + ", ".join(f"{t} {rates(base[t])[0]:.2f}" for t in TASKS))
print("\n### Tucker of attention, by layer and share kept")
grid(made["Tucker"], LAYERS, keeps, tucker)
print("\n### LASER of the feed-forward, by layer, matrix and rank")
grid(made["LASER"], FEWER, ffn, of_ffn)
print("\n### TRAWL, by layer, matrices, form and rank")
grid(made["TRAWL"], FEWER[1::2], trawl, of_trawl)

# ---- test ----------------------------------------------------------------------------------------

test = outcomes(None, "test")
print("\n## Judged: the test part\n\n| | " + " | ".join(TASKS) + " |\n|" + "---|" * (len(TASKS) + 1))
print("| items | " + " | ".join(str(len(test[t])) for t in TASKS) + " |")
print("| original | " + " | ".join(cell(test[t], None) for t in TASKS) + " |")
chosen, won = {}, {}
for method in ("Tucker", "LASER", "hybrid", "TRAWL"):
    for s in sorted(set(best[method].values())):
        only = [t for t in TASKS if best[method][t] == s]
        for t, o in outcomes(s, "test", only).items():
            chosen[method, t] = o
    print(f"| {method}, tuned for each | " + " | ".join(cell(chosen[method, t], test[t]) for t in TASKS) + " |")
for keep in ("0.75",):
    o = chosen["budget " + keep] = outcomes(f"--keep {keep} --calib-tokens 8192", "test")
    print(f"| one setting for all: budget, {keep} of attention, own text | "
          + " | ".join(cell(o[t], test[t]) for t in TASKS) + " |")

print("\nLoss, lower is better:\n\n| | " + " | ".join(TASKS) + " |\n|" + "---|" * (len(TASKS) + 1))
loss = lambda o: "{:.3f} ± {:.3f}".format(*mean([x["loss"] for x in o]))
print("| original | " + " | ".join(loss(test[t]) for t in TASKS) + " |")
for method in ("Tucker", "LASER", "hybrid", "TRAWL"):
    print(f"| {method} | " + " | ".join(loss(chosen[method, t]) for t in TASKS) + " |")
for keep in ("0.75",):
    print(f"| budget {keep} | " + " | ".join(loss(chosen['budget ' + keep][t]) for t in TASKS) + " |")

print("\nSettings:\n")
for method in ("Tucker", "LASER", "hybrid", "TRAWL"):
    for t in TASKS:
        print(f"- {method}, {t}: `{best[method][t]}`")
said = lambda o: "{:.2f} ± {:.2f}".format(*rates(o, "answer_only"))
print("\nThe answer in the continuation alone, %:\n\n| | hotpotqa | wikidata |\n|---|---|---|")
print(f"| original | {said(test['hotpotqa'])} | {said(test['wikidata'])} |")
for method in ("Tucker", "LASER", "hybrid", "TRAWL"):
    print(f"| {method} | {said(chosen[method, 'hotpotqa'])} | {said(chosen[method, 'wikidata'])} |")

# ---- the ablation ---------------------------------------------------------------------------------

print("\n## Q, K, V, O apart and together: Wikidata, test, each with its own best layer and share\n")
print("| | setting | accuracy, % | loss |\n|---|---|---|---|")
print(f"| original | | {cell(test['wikidata'], None)} | {loss(test['wikidata'])} |")
for name in list(APART) + ["Tucker"]:
    o = outcomes(best[name]["wikidata"], "test", ["wikidata"])["wikidata"]
    print(f"| {'all together' if name == 'Tucker' else name} | `{best[name]['wikidata']}` | {cell(o, test['wikidata'])} "
          f"| {loss(o)} |")
