"""Random BERT models with a real WordPiece tokenizer, and what transformers' fill-mask gives on them.

usage: make_bert.py OUT_DIR SEED TOKENIZER_DIR     TOKENIZER_DIR holds tokenizer.json, vocab.txt and their configs
made with torch 2.15.0, transformers 5.23.0. Then: tests/oracle_models.py TEXT OUT_DIR
"""
import json, math, os, shutil, sys
import torch
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

out, seed, words = os.path.join(sys.argv[1], "bert"), int(sys.argv[2]), sys.argv[3]
torch.manual_seed(seed)
tokenizer = AutoTokenizer.from_pretrained(words)
model = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), hidden_size=128, num_hidden_layers=4, num_attention_heads=4,
                                   intermediate_size=344, max_position_embeddings=512)).eval()
for name, p in model.named_parameters():        # wide, so that a wrong position, mask or norm shows at once
    if p.dim() == 2:
        torch.nn.init.normal_(p, std=0.7 if "embeddings" in name else 1.3 / math.sqrt(p.shape[1]))
    elif name.endswith("bias"):
        torch.nn.init.normal_(p, std=0.2)
model.save_pretrained(out)
for name in os.listdir(words):
    if name.startswith(("tokenizer", "vocab", "special_tokens")):
        shutil.copy(os.path.join(words, name), out)
prompt = "The capital of France is [MASK] and it is old."
ids = tokenizer(prompt).input_ids
with torch.no_grad():
    p = torch.softmax(model(torch.tensor([ids])).logits[0, ids.index(tokenizer.mask_token_id)].double(), 0)
top = [[tokenizer.convert_ids_to_tokens(i), i, p[i].item()] for i in p.topk(5).indices.tolist()]
json.dump({"prompt": prompt, "prompt_ids": ids, "fill_mask": top}, open(os.path.join(out, "expect.json"), "w"))
