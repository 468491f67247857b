#!/usr/bin/env python3
"""Makes the JSON lines that ./run --eval reads out of the four data sets of LASER's and TensorLLM's experiments.

usage: make_tasks.py TASK FILE... [-o OUT.jsonl] [--part validation|test] [--masked MASK] [--tokenizer TOKENIZER]

TASK and its FILEs as they are published, in the protocol's order (all, one after another, are the data set):
  hotpotqa   hotpot_train_v1.1.json hotpot_dev_fullwiki_v1.json    with LLaMA-2's tokenizer, see below
  fever      paper_dev.jsonl paper_test.jsonl                      of FEVER 1.0
  bios       the dev split of Bias in Bios                         (.parquet needs: pip install pyarrow==22.0.0)
  wikidata   qa_wikidata's validation file, then its train file    of BIG-bench, split; or its task.json
Besides these, every file of JSON lines with the fields {question, answer}, {claim, label}, {text, profession} or
{context, continuation} is read.

--part       validation: the first 20 % in the order of the files; test: the rest. Without it: everything
--masked     for masked models, with the text of their mask: <mask> for RoBERTa, [MASK] for BERT
--tokenizer  a tokenizer.json (pip install tokenizers==0.23.3) or a SentencePiece .model (sentencepiece==0.2.3).
             hotpotqa: leaves out answers of more than 15 tokens, BOS counted, by LLaMA-2's tokenizer, and takes as many
             training questions as the dev file has, as the protocol does for all models.
             bios with --masked: cuts a text to its last 50 tokens, by the model's own tokenizer
"""
import argparse, json, sys

PROFESSIONS = "journalist poet composer model teacher architect painter professor".split()
ALL_PROFESSIONS = ("accountant, architect, attorney, chiropractor, comedian, composer, dentist, dietitian, dj, "
                   "filmmaker, interior designer, journalist, model, nurse, painter, paralegal, pastor, "
                   "personal trainer, photographer, physician, poet, professor, psychologist, rapper, "
                   "software engineer, surgeon, teacher, yoga teacher").split(", ")


def rows(path):
    """The records of a .json (an array, or BIG-bench's task.json), .jsonl or .parquet file."""
    if path.endswith(".parquet"):
        import pyarrow.parquet
        return pyarrow.parquet.read_table(path).to_pylist()
    with open(path, encoding="utf-8") as f:
        text = f.read()
    try:
        whole = json.loads(text)
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    return whole if isinstance(whole, list) else whole.get("examples", [whole])


class Tokenizer:
    """ids(text) without special tokens, and text(ids)."""
    def __init__(self, path):
        if path.endswith(".model"):
            import sentencepiece
            own = sentencepiece.SentencePieceProcessor(model_file=path)
            self.ids, self.text = own.encode, own.decode
        else:
            import tokenizers
            own = tokenizers.Tokenizer.from_file(path)
            own.no_truncation()
            self.ids = lambda text: own.encode(text, add_special_tokens=False).ids
            self.text = own.decode


# What decoding did to spaces before signs in the transformers of that time, on by default.
CLEAN = [(" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
         (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")]


def ended(text):
    """text, which ends with a full stop unless it ends with one or with a question mark."""
    text = text.strip()
    return text if text.endswith((".", "?")) else text + "."


def answer_item(prompt, answer, new_tokens, mask):
    if mask:
        return {"prompt": prompt + 5 * (" " + mask), "answer": answer}
    return {"prompt": prompt, "answer": answer, "new_tokens": new_tokens}


def hotpotqa(files, mask, tokenizer):
    parts = [[(r["question"].strip(), r["answer"].strip()) for r in rows(f)] for f in files]
    if tokenizer:
        if len(parts) == 2:                      # train, dev
            parts[0] = parts[0][:len(parts[1])]
        parts = [[(q, a) for q, a in p if len(tokenizer.ids(a)) + 1 <= 15] for p in parts]
    for question, answer in sum(parts, []):
        if not question.endswith(("?", ".")):
            question += "?"
        yield answer_item(question + " The answer is", answer, 15, mask)


def fever(files, mask, tokenizer):
    names = {"true": "true", "SUPPORTS": "true", 1: "true", "false": "false", "REFUTES": "false", 0: "false"}
    for f in files:
        claims = {}                              # claims with two labels are left out, the others stand once
        for r in rows(f):
            if r["label"] in names:              # not: NOT ENOUGH INFO
                claims.setdefault(r["claim"], set()).add(names[r["label"]])
        for claim, labels in claims.items():
            if len(labels) == 1:
                prompt = "Consider the following claim: " + ended(claim) + " Is this claim true or false. The claim is"
                yield {"prompt": prompt + " " + mask if mask else prompt, "choices": ["false", "true"],
                       "gold": int("true" in labels), "next_token": True}


def bios(files, mask, tokenizer):
    if mask and not tokenizer:
        sys.exit("make_tasks.py: bios --masked cuts texts to 50 tokens: give the model's --tokenizer")
    for r in sum((rows(f) for f in files), []):
        profession = r["profession"]
        if isinstance(profession, int):
            profession = ALL_PROFESSIONS[profession]
        text = r["hard_text"] if "hard_text" in r else r["text"]
        if profession not in PROFESSIONS:
            continue
        if mask:
            text = tokenizer.text(tokenizer.ids(text)[-50:])
            for spaced, plain in CLEAN:
                text = text.replace(spaced, plain)
            prompt = ended(text) + f" The profession of the person in the text is called {mask}."
        else:
            prompt = (ended(text) + " What is the profession of the person in this text?"
                      " The profession of this person is")
        yield {"prompt": "Consider the following text: " + prompt, "choices": PROFESSIONS,
               "gold": PROFESSIONS.index(profession), "next_token": True}


def wikidata(files, mask, tokenizer):
    for r in sum((rows(f) for f in files), []):
        prompt = next(r[k] for k in ("context", "inputs", "input") if k in r)
        target = next(r[k] for k in ("continuation", "targets", "target") if k in r)
        if isinstance(target, str):
            target = [target]
        if len(target) == 1:
            yield answer_item(prompt.strip(), target[0].strip(), 10, mask)


def main():
    tasks = {f.__name__: f for f in (hotpotqa, fever, bios, wikidata)}
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("task", choices=tasks)
    p.add_argument("files", nargs="+")
    p.add_argument("-o", default="-")
    p.add_argument("--part", choices=["validation", "test"])
    p.add_argument("--masked", default="")
    p.add_argument("--tokenizer")
    a = p.parse_args()
    tokenizer = Tokenizer(a.tokenizer) if a.tokenizer else None
    items = list(tasks[a.task](a.files, a.masked, tokenizer))
    cut = int(0.2 * len(items))
    items = items[:cut] if a.part == "validation" else items[cut:] if a.part == "test" else items
    out = sys.stdout if a.o == "-" else open(a.o, "w", encoding="utf-8")
    for item in items:
        out.write(json.dumps(item, ensure_ascii=False) + "\n")
    out.flush()
    print(f"{len(items)} items", file=sys.stderr)


if __name__ == "__main__":
    main()
