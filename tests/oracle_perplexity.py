"""Perplexity and greedy tokens of a GGUF model by Hugging Face transformers in f32, to compare with ./run.

usage: oracle_perplexity.py MODEL.gguf TEXT [WINDOW=512] [WINDOWS=16]
needs: pip install torch==2.15.0 transformers==5.23.0 gguf==0.19.0 accelerate
Windows as ./run --perplexity takes them: they do not overlap, and their first id is not scored.
"""
import os, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer

path, text_file = sys.argv[1:3]
window = int(sys.argv[3]) if len(sys.argv) > 3 else 512
windows = int(sys.argv[4]) if len(sys.argv) > 4 else 16
folder, name = os.path.split(os.path.abspath(path))
tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, torch_dtype=torch.float32).eval()
ids = tokenizer(open(text_file, encoding="utf8").read(), add_special_tokens=False).input_ids
print("ids", len(ids), ids[:16])
losses = []
with torch.no_grad():
    for w in range(min(windows, len(ids) // window)):
        x = torch.tensor([ids[w * window:(w + 1) * window]])
        logits = model(x).logits[0].double()
        losses.append(torch.nn.functional.cross_entropy(logits[:-1], x[0, 1:], reduction="none"))
    loss = torch.cat(losses)
    print("perplexity: %.6f (%d tokens)" % (loss.mean().exp().item(), len(loss)))
    prompt = tokenizer("The capital of France is", add_special_tokens=False, return_tensors="pt").input_ids
    out = model.generate(prompt, max_new_tokens=24, do_sample=False)
    print("greedy", out[0, prompt.shape[1]:].tolist(), repr(tokenizer.decode(out[0])))
