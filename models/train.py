#!/usr/bin/env python3
"""Trains the small story model of this folder and writes it as a Hugging Face folder.

    python train.py --stage sample    text sampled from stories260K -> WORK/sampled.txt
    python train.py --stage train     tokenizer, training           -> OUT/ (config.json, model.safetensors, ...)
    python train.py                   both, in this order

Written for torch 2.15.0, numpy 2.4.6, sentencepiece 0.2.3, safetensors 0.8.0.
Data: TinyStories (CDLA-Sharing-1.0), see README.md.
"""
import argparse, json, math, os, random, re, struct, time
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

BOS, EOS = 1, 2

# ---------------------------------------------------------------- text


def clean(text):
    """ASCII quotes and dashes, one line a paragraph, no blank lines."""
    for a, b in (("“", '"'), ("”", '"'), ("‘", "'"), ("’", "'"), ("—", " - "), ("–", "-"), ("…", "..."), ("\u00a0", " ")):
        text = text.replace(a, b)
    text = "".join(c for c in text if c == "\n" or " " <= c <= "~")
    lines = [re.sub(" +", " ", line).strip() for line in text.split("\n")]
    return "\n".join(line for line in lines if line)


def whole(story):
    """A story that starts as a sentence does and ends as one does."""
    return len(story) >= 150 and re.match(r'["A-Z]', story) and re.search(r'[.!?]"?$', story)


def load_text(folder):
    with open(os.path.join(folder, "tinystories_train.txt"), encoding="utf-8") as f:
        train = [clean(s) for s in f.read().split("<|endoftext|>")]
    with open(os.path.join(folder, "tinystories_valid.txt"), encoding="utf-8") as f:
        # the validation file marks no boundaries: a paragraph with a usual opening starts a story
        valid = re.split(r"\n\n+(?=Once upon a time|Once there w|There was once|There once w)", f.read())
    valid = [clean(s) for s in valid[1:-1]]          # the first and the last are cut
    held = set(valid) | {p for s in valid for p in s.split("\n") if len(p) > 100}
    train = [s for s in dict.fromkeys(train) if whole(s) and s not in held and not any(p in held for p in s.split("\n"))]
    return train, valid


# ---------------------------------------------------------------- more text, from a llama2.c model


class Teacher:
    """A llama2.c checkpoint (interleaved rotary pairs, grouped heads), run in batches with a KV cache."""

    def __init__(self, folder):
        raw = open(os.path.join(folder, "stories260K.bin"), "rb").read()
        d, ffn, self.L, self.h, self.kv, self.vocab, self.ctx = struct.unpack("7i", raw[:28])
        self.hd, at = d // self.h, 28

        def take(*shape):
            nonlocal at
            n = math.prod(shape)
            t = torch.from_numpy(np.frombuffer(raw, np.float32, n, at).reshape(shape).copy())
            at += 4 * n
            return t
        L, q, k = self.L, self.h * self.hd, self.kv * self.hd
        self.emb, self.rms_att = take(abs(self.vocab), d), take(L, d)
        self.wq, self.wk, self.wv, self.wo = take(L, q, d), take(L, k, d), take(L, k, d), take(L, d, q)
        self.rms_ffn, self.w1, self.w2, self.w3 = take(L, d), take(L, ffn, d), take(L, d, ffn), take(L, ffn, d)
        self.rms_final, self.cos, self.sin = take(d), take(self.ctx, self.hd // 2), take(self.ctx, self.hd // 2)
        raw, at, self.pieces, self.scores = open(os.path.join(folder, "tok512.bin"), "rb").read(), 4, [], []
        while at < len(raw):
            score, n = struct.unpack("fi", raw[at:at + 8])
            self.pieces.append(raw[at + 8:at + 8 + n])
            self.scores.append(score)
            at += 8 + n
        self.ids = {p: i for i, p in enumerate(self.pieces)}

    def encode(self, text):
        ids = [self.ids[c.encode()] for c in " " + text]
        while True:
            pairs = [(self.scores[self.ids[m]], -i) for i in range(len(ids) - 1)
                     if (m := self.pieces[ids[i]] + self.pieces[ids[i + 1]]) in self.ids]
            if not pairs:
                return [BOS] + ids
            i = -max(pairs)[1]
            ids[i:i + 2] = [self.ids[self.pieces[ids[i]] + self.pieces[ids[i + 1]]]]

    def decode(self, ids):
        out = b"".join(bytes([int(p[3:5], 16)]) if re.fullmatch(rb"<0x..>", p) else p for p in (self.pieces[i] for i in ids))
        return out.decode("utf-8", "replace")

    def rope(self, x, pos):
        a, b = x[..., 0::2], x[..., 1::2]
        c, s = self.cos[pos], self.sin[pos]
        return torch.stack((a * c - b * s, a * s + b * c), -1).flatten(-2)

    @torch.inference_mode()
    def sample(self, prompts, temperature=0.8, top_p=0.9):
        """Continues every prompt; returns the texts that came to their end."""
        B = len(prompts)
        norm = lambda x, w: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * w
        forced = torch.full((B, self.ctx), -1)
        for i, p in enumerate(prompts):
            forced[i, :len(p)] = torch.tensor(p)
        tok, rows, seqs, done = forced[:, 0], torch.arange(B), forced.clone(), []
        K = torch.zeros(self.L, B, self.kv, self.ctx, self.hd)
        V = torch.zeros_like(K)
        for pos in range(self.ctx - 1):
            n, x = len(tok), self.emb[tok]
            for l in range(self.L):
                y = norm(x, self.rms_att[l])
                q = self.rope((y @ self.wq[l].T).view(n, self.kv, self.h // self.kv, self.hd), pos)
                K[l, :n, :, pos] = self.rope((y @ self.wk[l].T).view(n, self.kv, self.hd), pos)
                V[l, :n, :, pos] = (y @ self.wv[l].T).view(n, self.kv, self.hd)
                a = F.scaled_dot_product_attention(q, K[l, :n, :, :pos + 1], V[l, :n, :, :pos + 1])
                x = x + a.reshape(n, -1) @ self.wo[l].T
                y = norm(x, self.rms_ffn[l])
                x = x + (F.silu(y @ self.w1[l].T) * (y @ self.w3[l].T)) @ self.w2[l].T
            p = torch.softmax(norm(x, self.rms_final) @ self.emb.T / temperature, -1)
            p, order = p.sort(-1, descending=True)
            p[p.cumsum(-1) - p > top_p] = 0
            tok = order.gather(1, torch.multinomial(p, 1))[:, 0]
            tok = torch.where(forced[rows, pos + 1] >= 0, forced[rows, pos + 1], tok)
            seqs[rows, pos + 1] = tok
            ended = (tok == BOS) | (tok == EOS)
            done += [(r, pos + 1) for r in rows[ended].tolist()]
            if ended.any():
                keep = ~ended
                live = keep.nonzero()[:, 0]
                if len(live) == 0:
                    break
                # move the last rows into the gaps, so that the live rows stay a prefix
                gaps, m = ended.nonzero()[:, 0], len(live)
                gaps, tail = gaps[gaps < m], live[live >= m]
                perm = torch.arange(n)
                perm[gaps] = tail
                K[:, gaps, :, :pos + 1], V[:, gaps, :, :pos + 1] = K[:, tail, :, :pos + 1], V[:, tail, :, :pos + 1]
                tok, rows = tok[perm[:m]], rows[perm[:m]]
        return [self.decode(seqs[r, 1:end].tolist()) for r, end in done]


def fluent(s):
    """Keeps sampled stories with an end, little repetition, paired quotes and a name that stays."""
    if not whole(s) or s.count('"') % 2 or len(s) > 1600:
        return False
    sentences = [t for t in re.split(r"(?<=[.!?])\W+", s) if len(t) > 12]
    words = s.lower().split()
    four = [tuple(words[i:i + 4]) for i in range(len(words) - 3)]
    if len(set(sentences)) < len(sentences) or len(set(four)) < 0.9 * len(four):
        return False
    named = re.search(r" named ([A-Z][a-z]+)", s)
    return not named or s.count(named.group(1)) >= 3


def sample_text(args):
    torch.manual_seed(args.seed)
    rng, teacher = random.Random(args.seed), Teacher(args.teacher)
    train, _ = load_text(args.data)
    known = {c for p in teacher.pieces for c in [p.decode("utf-8", "ignore")] if len(c) == 1}
    openings = [m.group() for s in train if (m := re.match(r"[^.!?\n\"]{20,110}[.]", s)) and set(m.group()) <= known]
    openings = [teacher.encode(o) for o in openings]
    start, size = time.time(), 0
    with open(os.path.join(args.work, "sampled.txt"), "w") as f:
        for batch in range(args.sample_batches):
            prompts = [rng.choice(openings) if i % 2 else [BOS] for i in range(768)]
            texts = [clean(s) for s in teacher.sample(prompts)]
            good = [s for s in texts if fluent(s)]
            for s in good:
                size += f.write(s + "\n<|endoftext|>\n")
            f.flush()
            print(f"sampled {batch + 1}: {len(good)} of {len(texts)} kept, {size / 1e6:.2f} MB, {time.time() - start:.0f} s", flush=True)


# ---------------------------------------------------------------- tokenizer and batches


def make_tokenizer(stories, out, vocab):
    import sentencepiece as spm
    # Trained on lines, so that the newline stays the byte piece <0x0A>.
    lines = (line for s in stories for line in s.split("\n"))
    spm.SentencePieceTrainer.train(
        sentence_iterator=lines, model_prefix=os.path.join(out, "tokenizer"), model_type="bpe", vocab_size=vocab,
        character_coverage=1.0, byte_fallback=True, split_digits=True, allow_whitespace_only_pieces=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, unk_id=0, bos_id=BOS, eos_id=EOS,
        pad_id=-1, num_threads=1, minloglevel=2)
    return spm.SentencePieceProcessor(model_file=os.path.join(out, "tokenizer.model"))


def batches(docs, tokens, ctx, rng):
    """One pass over docs in rows that start with BOS; some rows hold several stories and are cut at ctx."""
    docs, rows, i = rng.sample(docs, len(docs)), [], 0
    while i < len(docs):
        row, i = docs[i], i + 1
        if rng.random() < 0.1:
            while len(row) <= ctx and i < len(docs):
                row, i = row + docs[i], i + 1
        rows.append(row[:ctx + 1])
    out = []
    for at in range(0, len(rows), 512):            # rows of like length together, to waste little on padding
        pool, batch = sorted(rows[at:at + 512], key=len), []
        for row in pool:
            if batch and (len(batch) + 1) * len(row) > tokens:
                out.append(batch)
                batch = []
            batch.append(row)
        out.append(batch)
    rng.shuffle(out)
    return out


def pad(batch):
    n = max(map(len, batch))
    t = torch.full((len(batch), n), -100)
    for i, row in enumerate(batch):
        t[i, :len(row)] = torch.tensor(row)
    return t[:, :-1].clamp(min=0), t[:, 1:]


# ---------------------------------------------------------------- the model (names as in LlamaForCausalLM)


class Layer(nn.Module):
    def __init__(self, d, ffn):
        super().__init__()
        lin = lambda i, o: nn.Linear(i, o, bias=False)
        self.input_layernorm, self.post_attention_layernorm = nn.RMSNorm(d, 1e-5), nn.RMSNorm(d, 1e-5)
        self.self_attn = nn.ModuleDict({k: lin(d, d) for k in ("q_proj", "k_proj", "v_proj", "o_proj")})
        self.mlp = nn.ModuleDict({"gate_proj": lin(d, ffn), "up_proj": lin(d, ffn), "down_proj": lin(ffn, d)})

    def forward(self, x, cos, sin, heads, drop):
        B, T, d = x.shape
        y, a = self.input_layernorm(x), self.self_attn
        q, k, v = (a[n](y).view(B, T, heads, -1).transpose(1, 2) for n in ("q_proj", "k_proj", "v_proj"))

        def rope(z):
            lo, hi = z.chunk(2, -1)
            return torch.cat((lo * cos - hi * sin, hi * cos + lo * sin), -1)
        y = F.scaled_dot_product_attention(rope(q), rope(k), v, is_causal=True)
        x = x + F.dropout(a["o_proj"](y.transpose(1, 2).reshape(B, T, d)), drop, self.training)
        y, m = self.post_attention_layernorm(x), self.mlp
        return x + F.dropout(m["down_proj"](F.silu(m["gate_proj"](y)) * m["up_proj"](y)), drop, self.training)


class Model(nn.Module):
    def __init__(self, vocab, d, layers, heads, ffn, ctx, drop):
        super().__init__()
        self.heads, self.drop = heads, drop
        self.embed_tokens = nn.Embedding(vocab, d)
        self.layers = nn.ModuleList(Layer(d, ffn) for _ in range(layers))
        self.norm = nn.RMSNorm(d, 1e-5)
        angle = torch.arange(ctx)[:, None] * 10000.0 ** (-torch.arange(0, d // heads, 2) / (d // heads))
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        for n, p in self.named_parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02 / (math.sqrt(2 * layers) if "o_proj" in n or "down_proj" in n else 1))

    def forward(self, ids, targets):
        T = ids.shape[1]
        x = F.dropout(self.embed_tokens(ids), self.drop, self.training)
        cos, sin = self.cos[:T].to(torch.bfloat16), self.sin[:T].to(torch.bfloat16)
        for layer in self.layers:
            x = layer(x, cos, sin, self.heads, self.drop)
        x = self.norm(x)[targets >= 0]
        return F.cross_entropy(F.linear(x, self.embed_tokens.weight).float(), targets[targets >= 0], reduction="sum")


def embd_matrices(model):
    """Per layer the d x 4d matrix [W_Q^T W_K^T W_V^T W_O]: rows are the embedding side, columns all heads."""
    return [torch.cat([l.self_attn[k].weight.data.T for k in ("q_proj", "k_proj", "v_proj")]
                      + [l.self_attn["o_proj"].weight.data], 1) for l in model.layers]


def subspaces(model):
    return [torch.linalg.svd(w, full_matrices=False)[0] for w in embd_matrices(model)]


@torch.no_grad()
def shrink(model, bases, rank, rho):
    """Takes the share rho of every layer's attention weights outside the leading `rank` directions away."""
    for l, U in zip(model.layers, bases):
        N, a = U[:, rank:], l.self_attn
        for k in ("q_proj", "k_proj", "v_proj"):
            a[k].weight.sub_(rho * (a[k].weight @ N) @ N.T)
        a["o_proj"].weight.sub_(rho * N @ (N.T @ a["o_proj"].weight))


@torch.no_grad()
def loss_on(model, docs, rank=None):
    """Nats a token; rank: with every layer's attention projected on that many embedding directions first."""
    kept = {k: v.clone() for k, v in model.state_dict().items()}
    if rank:
        shrink(model, subspaces(model), rank, 1.0)
    model.eval()
    total = count = 0
    for i in range(0, len(docs), 16):
        ids, targets = pad(docs[i:i + 16])
        with torch.autocast("cpu", torch.bfloat16):
            total += model(ids, targets).item()
        count += (targets >= 0).sum().item()
    model.train()
    model.load_state_dict(kept)
    return total / count


def save(model, out, args):
    from safetensors.torch import save_file
    save_file({"model." + k: v.detach().clone().contiguous() for k, v in model.state_dict().items()},
              os.path.join(out, "model.safetensors"), {"format": "pt"})
    config = dict(architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=args.vocab, hidden_size=args.dim,
                  intermediate_size=args.ffn, num_hidden_layers=args.layers, num_attention_heads=args.heads,
                  num_key_value_heads=args.heads, head_dim=args.dim // args.heads, hidden_act="silu",
                  max_position_embeddings=args.ctx, rms_norm_eps=1e-5, rope_theta=10000.0, rope_scaling=None,
                  tie_word_embeddings=True, attention_bias=False, mlp_bias=False, bos_token_id=BOS, eos_token_id=EOS,
                  torch_dtype="float32", initializer_range=0.02, use_cache=True)
    tok = dict(tokenizer_class="LlamaTokenizer", add_bos_token=True, add_eos_token=False, bos_token="<s>", eos_token="</s>",
               unk_token="<unk>", legacy=True, add_prefix_space=True, clean_up_tokenization_spaces=False, model_max_length=args.ctx)
    for name, content in (("config.json", config), ("tokenizer_config.json", tok)):
        with open(os.path.join(out, name), "w") as f:
            json.dump(content, f, indent=2)


def train(args):
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    real, valid = load_text(args.data)
    with open(os.path.join(args.work, "sampled.txt")) as f:
        sampled = [s for s in f.read().split("\n<|endoftext|>\n") if fluent(s)]
    sp = make_tokenizer(real, args.out, args.vocab)
    enc = lambda stories: [[BOS] + sp.encode(s) + [EOS] for s in stories]
    real, sampled = enc(real), enc(sampled)
    valid = sorted((v for v in enc(valid) if len(v) <= args.ctx + 1), key=len)
    per_char = sum(len(v) - 1 for v in valid) / sum(len(sp.decode(v)) for v in valid)
    model = Model(args.vocab, args.dim, args.layers, args.heads, args.ffn, args.ctx, 0.0)
    print(f"{sum(p.numel() for p in model.parameters())} parameters; tokens: {sum(map(len, real))} real, "
          f"{sum(map(len, sampled))} sampled, {sum(map(len, valid))} validation; {per_char:.3f} tokens a character", flush=True)
    hidden = [p for p in model.layers.parameters() if p.dim() == 2]
    norms = [p for p in model.parameters() if p.dim() < 2]
    opts = [torch.optim.Muon(hidden, lr=args.lr, weight_decay=args.weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW([{"params": [model.embed_tokens.weight], "weight_decay": args.weight_decay},
                               {"params": norms, "weight_decay": 0.0}], lr=args.lr, betas=(0.9, 0.99), fused=True)]
    r, r2, start, queue, bases = args.dim // 2, 3 * args.dim // 8, time.time(), [], None
    last = int(args.steps * (1 - args.real_part))    # from here on the real text only
    run, first, state = torch.zeros(2), 0, os.path.join(args.work, "state.pt")
    if args.resume:
        first, weights, optimizers, noise, order, queue, bases, run = torch.load(state, weights_only=False)
        model.load_state_dict(weights)
        for opt, kept in zip(opts, optimizers):
            opt.load_state_dict(kept)
        torch.set_rng_state(noise)
        rng.setstate(order)
    for step in range(first, args.steps):
        if step == last:
            queue = []
        model.drop = args.dropout if step < args.dropout_steps or step >= last else 0.0
        if not queue:
            queue = batches(real if step >= last else real + rng.sample(sampled, min(len(sampled), args.mix * len(real))),
                            args.batch, args.ctx, rng)
        # constant rate after the warm-up, then linear to nothing over the last 40 %
        scale = min(1, (step + 1) / 50, (args.steps - step) / (0.4 * args.steps))
        for g in (g for opt in opts for g in opt.param_groups):
            g["lr"] = args.lr * scale
        ids, targets = pad(queue.pop())
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(ids, targets)
        count = (targets >= 0).sum()
        (loss / count).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad()
        run += torch.tensor([loss.item(), count.item()])
        ramp = (step / args.steps - 0.4) / 0.4       # 0 at 40 % of the steps, 1 at 80 %
        if ramp > 0 and step % 5 == 0:
            if bases is None or step % 50 == 0:
                bases = subspaces(model)
            shrink(model, bases, r, args.rho * min(1, ramp))
            shrink(model, bases, r2, args.rho / 10 * min(1, ramp))
        if (step + 1) % args.every == 0 or step + 1 == args.steps:
            some = valid if step + 1 == args.steps else valid[::8]
            a, b, c = loss_on(model, some), loss_on(model, some, r), loss_on(model, some, r2)
            print(f"step {step + 1}: train {run[0] / run[1]:.4f}, validation {a:.4f} ({a * per_char:.4f} a character), "
                  f"projected on {r}: {b:.4f}, on {r2}: {c:.4f}, {time.time() - start:.0f} s", flush=True)
            run.zero_()
            save(model, args.out, args)
        if (step + 1) % 100 == 0:
            torch.save((step + 1, model.state_dict(), [o.state_dict() for o in opts], torch.get_rng_state(), rng.getstate(), queue, bases, run), state + "~")
            os.replace(state + "~", state)
            print(f"step {step + 1}: {time.time() - start:.0f} s", flush=True)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--stage", choices=("sample", "train", "all"), default="all")
    ap.add_argument("--data", default=os.path.join(here, "../../shared/data/stories"), help="folder of tinystories_{train,valid}.txt")
    ap.add_argument("--teacher", default=os.path.join(here, "../../shared/data/models"), help="folder of stories260K.bin and tok512.bin")
    ap.add_argument("--work", default="work")
    ap.add_argument("--out", default="hf")
    for name, value in dict(seed=1, threads=1, sample_batches=26, steps=3000, batch=4096, mix=3, dropout_steps=600, vocab=2048, dim=192, layers=4,
                            heads=6, ffn=512, ctx=512, every=500).items():
        ap.add_argument("--" + name.replace("_", "-"), type=int, default=value)
    for name, value in dict(lr=3e-3, dropout=0.08, weight_decay=0.1, rho=0.3, real_part=0.0).items():
        ap.add_argument("--" + name.replace("_", "-"), type=float, default=value)
    ap.add_argument("--resume", action="store_true", help="go on from WORK/state.pt, written every 100 steps")
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    for folder in (args.work, args.out):
        os.makedirs(folder, exist_ok=True)
    if args.stage in ("sample", "all"):
        sample_text(args)
    if args.stage in ("train", "all"):
        train(args)


if __name__ == "__main__":
    main()
