"""Golden data of GPT-J, GPT-2, BERT and RoBERTa: tiny random models as transformers writes them, with
the numbers that transformers gets on them. Made once; the tests need only what it writes.

usage: make_families.py OUT_DIR [SEED]        (the data in tests/golden: tests/golden 1)
made with torch 2.15.0, transformers 5.23.0, safetensors 0.8.0
OUT_DIR/<family>/ gets config.json, model.safetensors (F16) and expect.json:
  ids     a text
  logits  (n, vocab) of those ids, in double precision from the rounded weights; encoders: of their head
  hidden  (n, d) encoders: final hidden states
Weights are wide, so that attention is far from uniform and a wrong position, mask or norm shows at once.
Sizes are odd on purpose: a feed-forward that is not 4 d, heads that are not 32 wide, rotary on 6 of 8.
"""
import json, math, os, sys
import torch
from transformers import (BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, GPTJConfig, GPTJForCausalLM,
                          RobertaConfig, RobertaForMaskedLM)

out, seed = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1
V, D, HEADS, LAYERS, F, POSITIONS, N = 48, 32, 4, 2, 44, 24, 20
early = dict(vocab_size=V, n_embd=D, n_head=HEADS, n_layer=LAYERS, n_inner=F, n_positions=POSITIONS)
masked = dict(vocab_size=V, hidden_size=D, num_attention_heads=HEADS, num_hidden_layers=LAYERS,
              intermediate_size=F)
models = {
    "gptj": (GPTJForCausalLM, GPTJConfig(rotary_dim=6, **early)),
    "gpt2": (GPT2LMHeadModel, GPT2Config(**early)),
    "bert": (BertForMaskedLM, BertConfig(max_position_embeddings=POSITIONS, **masked)),
    "roberta": (RobertaForMaskedLM, RobertaConfig(max_position_embeddings=POSITIONS + 2, type_vocab_size=1,
                                                  layer_norm_eps=1e-5, pad_token_id=1, **masked)),
}


def widen(model):
    for name, p in model.named_parameters():
        if p.dim() == 2:
            table = any(part in name for part in ("embed", "wte", "wpe"))
            torch.nn.init.normal_(p, std=0.7 if table else 1.3 / math.sqrt(p.shape[1]))
        elif name.endswith("bias"):
            torch.nn.init.normal_(p, std=0.2)
        else:
            torch.nn.init.uniform_(p, 0.6, 1.4)


def rows(x):
    return [[float(f"{v:.8g}") for v in row] for row in x.tolist()]


for name, (kind, config) in models.items():
    torch.manual_seed(seed)
    model = kind(config)
    widen(model)
    model.half().eval()
    folder = os.path.join(out, name)
    model.save_pretrained(folder, safe_serialization=True)
    for extra in ("generation_config.json",):
        if os.path.exists(os.path.join(folder, extra)):
            os.remove(os.path.join(folder, extra))
    model = kind.from_pretrained(folder, dtype=torch.float32).double().eval()   # tables were F16 too
    ids = torch.randint(4, V, (1, N))
    expect = {"ids": ids[0].tolist()}
    with torch.no_grad():
        got = model(ids, output_hidden_states=True)
    expect["logits"] = rows(got.logits[0])
    if name in ("bert", "roberta"):
        expect["hidden"] = rows(got.hidden_states[-1][0])
    with open(os.path.join(folder, "expect.json"), "w") as f:
        json.dump(expect, f)
        f.write("\n")
    print(name, sum(p.numel() for p in model.parameters()), "parameters, largest logit",
          float(got.logits.abs().max()))
