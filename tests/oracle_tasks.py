"""Benchmark items by Hugging Face transformers in f32, by LASER's protocol, to compare with ./run --eval item by item.

usage: oracle_tasks.py MODEL ITEMS.jsonl OURS.jsonl [LIMIT]
MODEL: a GGUF, or a Hugging Face folder; OURS: what ./run --eval-out wrote
needs: pip install torch==2.15.0 transformers==5.23.0 gguf==0.19.0 accelerate
Prints each item that is judged differently, both accuracies and losses, and the largest difference of an item's loss.
For a difference in text: the step where they part, and by how much transformers prefers its token to ours there.
"""
import json, os, sys, torch
from gguf import GGUFReader
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

path, items_file, ours_file = sys.argv[1:4]
limit = int(sys.argv[4]) if len(sys.argv) > 4 else None
if os.path.isdir(path):
    folder, where = path, {}
else:
    folder, name = os.path.split(os.path.abspath(path))
    where = {"gguf_file": name}
masked = AutoConfig.from_pretrained(folder, **where).model_type in ("bert", "roberta")
tokenizer = AutoTokenizer.from_pretrained(folder, **where)
if where:                                                # what transformers leaves out of a GGUF's tokenizer:
    pre = GGUFReader(path).fields.get("tokenizer.ggml.pre")     # smollm takes digits one by one
    if pre and bytes(pre.parts[-1]) == b"smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
kind = AutoModelForMaskedLM if masked else AutoModelForCausalLM
model = kind.from_pretrained(folder, dtype=torch.float32, **where).eval()
with open(items_file, encoding="utf-8") as f:
    items = [json.loads(line) for line in f if line.strip()][:limit]
with open(ours_file, encoding="utf-8") as f:
    ours = [json.loads(line) for line in f][:len(items)]
assert len(ours) == len(items)


def fold(text):
    return text.strip().lower()


def decode(ids, skip=False):
    return tokenizer.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)


def log_p(ids):
    return torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), dim=1)


def answer_length(ids, answer, prompt):
    for k in range(1, len(ids) + 1):
        if fold(decode(ids[-k:])) == fold(answer):      # LASER: without fold, but BERT's has no capitals
            return k
    shared = os.path.commonprefix([ids, prompt])        # LASER stops: BERT's pieces do not give "3,677" back
    return len(ids) - len(shared)


def loss_of(ids, n):
    """Sum of -log p of the last n ids."""
    rows = log_p(ids)
    return -sum(rows[i - 1, ids[i]].item() for i in range(len(ids) - n, len(ids)))


def greedy(item, prompt, our_text):
    """The ids of greedy decoding. One pass shows whether they are those of our text; else step by step."""
    limit, ends = item.get("new_tokens", 10), model.generation_config.eos_token_id
    ids = tokenizer(item["prompt"] + our_text).input_ids
    new = len(ids) - len(prompt)
    if ids[:len(prompt)] == prompt and 0 < new <= limit:
        best = log_p(ids).argmax(dim=1).tolist()[len(prompt) - 1:]
        ends = ends if isinstance(ends, list) else [ends]
        if best[:new] == ids[len(prompt):] and (new == limit or best[new] in ends):
            return ids
    return model.generate(torch.tensor([prompt]), max_new_tokens=limit, min_new_tokens=1, do_sample=False,
                          pad_token_id=tokenizer.eos_token_id)[0].tolist()


def answer(item, our_text):
    prompt, whole = tokenizer(item["prompt"]).input_ids, tokenizer(item["prompt"] + " " + item["answer"]).input_ids
    n = answer_length(whole, item["answer"], prompt)
    out = greedy(item, prompt, our_text)
    right = fold(item["answer"]) in fold(decode(out, skip=True))
    return right, loss_of(whole, n) / n, prompt, out


def choices(item):
    prompt = tokenizer(item["prompt"]).input_ids
    if item.get("next_token"):
        tokens = [tokenizer(" " + c, add_special_tokens=False).input_ids[0] for c in item["choices"]]
        scores = log_p(prompt)[-1, tokens].tolist()
        loss = -scores[item["gold"]]
    else:
        wholes = [tokenizer(item["prompt"] + " " + c).input_ids for c in item["choices"]]
        scores = [-loss_of(w, len(w) - len(prompt)) for w in wholes]
        loss = -scores[item["gold"]] / (len(wholes[item["gold"]]) - len(prompt))
    return scores.index(max(scores)) == item["gold"], loss, scores


def hidden_loss(item, answer):
    """Sum over the answer's tokens, all masked, and their number."""
    prompt = item["prompt"]
    while prompt.endswith(tokenizer.mask_token):
        prompt = prompt.removesuffix(tokenizer.mask_token).rstrip(" ")
    ids = tokenizer(prompt + " " + answer, add_special_tokens=False).input_ids
    n = answer_length(ids, answer, tokenizer(prompt, add_special_tokens=False).input_ids)
    rows = log_p(ids[:-n] + n * [tokenizer.mask_token_id])
    return -sum(rows[i, ids[i]].item() for i in range(len(ids) - n, len(ids))), n


def fill(item):
    prompt = tokenizer(item["prompt"]).input_ids
    rows = log_p(prompt)
    masks = [i for i, t in enumerate(prompt) if t == tokenizer.mask_token_id]
    if item.get("next_token"):
        tokens = [tokenizer(" " + c, add_special_tokens=False).input_ids[0] for c in item["choices"]]
        scores = rows[masks[0], tokens].tolist()
        return scores.index(max(scores)) == item["gold"], -scores[item["gold"]], scores
    if "choices" in item:
        sums = [hidden_loss(item, c) for c in item["choices"]]
        scores = [-s for s, _ in sums]
        loss = sums[item["gold"]][0] / (sums[item["gold"]][1] + 1)
        return scores.index(max(scores)) == item["gold"], loss, scores
    text = decode(rows[masks].argmax(dim=1).tolist())
    loss, n = hidden_loss(item, item["answer"])
    return fold(item["answer"]) in fold(text), loss / (n + 1), text


def behind(prompt, ids):
    """The text that ids add to the prompt they begin with."""
    return decode(ids, skip=True)[len(decode(prompt, skip=True)):]


def part(prompt, out, our_text):
    """Where the texts part: the step, both tokens, and the log probabilities of what might stand there."""
    for i in range(len(prompt), len(out)):
        if not our_text.startswith(behind(prompt, out[:i + 1])):
            row = log_p(out[:i])[-1]
            rest = our_text[len(behind(prompt, out[:i])):]
            top = row.topk(5)
            near = ", ".join(f"{decode([t])!r} {p:.5f}" for p, t in zip(top.values.tolist(), top.indices.tolist()))
            return f"at step {i - len(prompt)}, ours goes on {rest!r}; theirs: {near}"
    return "nowhere but in its end"


count, theirs, losses, worst, texts = [0, 0], [0, 0], [0.0, 0.0], (0, 0), 0
with torch.no_grad():
    for i, (item, our) in enumerate(zip(items, ours)):
        if masked:
            right, loss, scores = fill(item)
            if "answer" in item and fold(scores) != fold(our["text"]):
                texts += 1
                print(f"item {i}: text {scores!r}, ours {our['text']!r}")
        elif "answer" in item:
            right, loss, prompt, out = answer(item, our["text"])
            text = behind(prompt, out)
            if text != our["text"]:
                texts += 1
                print(f"item {i}: text {text!r}, ours {our['text']!r}: {part(prompt, out, our['text'])}")
        else:
            right, loss, scores = choices(item)
        if right != our["right"]:
            print(f"item {i}: right {right}, ours {our['right']}: {item if 'answer' in item else scores}")
        count[0] += right
        count[1] += our["right"]
        theirs[0] += right and not our["right"]
        theirs[1] += our["right"] and not right
        losses[0] += loss
        losses[1] += our["loss"]
        if (i + 1) % 50 == 0:
            print(f"{i + 1} of {len(items)}", file=sys.stderr, flush=True)
        worst = max(worst, (abs(loss - our["loss"]), i))
n = len(items)
print(f"{n} items: right {count[0]}, ours {count[1]} (only theirs {theirs[0]}, only ours {theirs[1]}); "
      f"texts that differ {texts}")
print(f"loss {losses[0] / n:.6f}, ours {losses[1] / n:.6f} ({100 * (losses[1] / losses[0] - 1):+.4f} %); "
      f"largest difference of an item {worst[0]:.6f} (item {worst[1]})")
