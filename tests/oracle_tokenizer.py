#!/usr/bin/env python3
"""Compares tokenizer.c and export/vocab.c with the published tokenizers on random text.

    python tests/oracle_tokenizer.py DATA [TEXTS [SEED [MODEL.gguf [BERT]]]]      run from the repository's top

DATA: the folder of test data with tokenizers/ and text/. MODEL.gguf: one with smollm's vocabulary
("": none). BERT: a folder with a BERT's tokenizer.json.
Not part of `make test`. Written for tokenizers 0.23.3, sentencepiece 0.2.3, tiktoken 0.14.0, gguf 0.19.0.
"""
import base64, ctypes, json, random, subprocess, sys, tempfile, unicodedata
import sentencepiece
import tiktoken
from tokenizers import Tokenizer, models, pre_tokenizers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace("{1,3}", "")
DATA, TEXTS = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 2000
rng = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 1)
tmp = tempfile.mkdtemp()
sources = ["tokenizer.c", "export/vocab.c", "core/json.c"] + [
    f"core/{n}.c" for n in ("vocab", "words", "wordpiece", "strmap", "unicode", "util", "os", "gguf", "quant")]
subprocess.check_call(["cc", "-std=gnu11", "-O2", "-shared", "-fPIC", "-I.", *sources, "-lm", "-o", f"{tmp}/lib.so"])
lib = ctypes.CDLL(f"{tmp}/lib.so")
lib.tokenizer_new.restype = ctypes.c_void_p
lib.tokenizer_decode.restype = lib.tokenizer_decode_end.restype = ctypes.c_char_p
libc = ctypes.CDLL(None)


class Ours:
    """A vocabulary file read by this project. The structs are opaque here: room enough for each."""

    def __init__(self, path):
        self.err, self.vocab, self.gguf = (ctypes.create_string_buffer(4096) for _ in range(3))
        if path.endswith(".gguf"):
            bad = lib.gguf_open(self.gguf, path.encode(), self.err) or \
                lib.vocab_from_gguf(self.vocab, self.gguf, self.err)
        else:
            bad = lib.vocab_read(self.vocab, path.encode(), 0, self.err)
        self.t = None if bad else ctypes.c_void_p(lib.tokenizer_new(self.vocab, self.err))
        if not self.t:
            sys.exit(self.err.value.decode())

    def encode(self, text, special=True):
        raw, ids, n = text.encode(), ctypes.POINTER(ctypes.c_int)(), ctypes.c_size_t()
        if lib.tokenizer_encode(self.t, raw, ctypes.c_size_t(len(raw)), ctypes.c_bool(special), ctypes.c_bool(True),
                                ctypes.byref(ids), ctypes.byref(n), self.err):
            sys.exit(self.err.value.decode())
        out = ids[:n.value]
        libc.free(ids)
        return out

    def decode(self, ids, special=True):
        d = ctypes.create_string_buffer(16)                # Decoder: special, started, int n, held[8]
        d[0] = bytes([special])
        return (b"".join(lib.tokenizer_decode(self.t, d, i) for i in ids)
                + lib.tokenizer_decode_end(self.t, d)).decode()


# ---------------------------------------------------------------- text

corpus = open(f"{DATA}/text/wikitext2-test.raw.txt", encoding="utf-8").read()
assigned = [chr(c) for c in range(1, 0x110000) if not 0xD800 <= c < 0xE000 and unicodedata.category(chr(c)) != "Cn"
            and unicodedata.category(chr(c)) != "Co"]
by_class = {}
for ch in assigned:
    by_class.setdefault(unicodedata.category(ch)[0], []).append(ch)
white = [c for c in assigned if c.isspace() and c not in "\x1c\x1d\x1e\x1f"]
bits = ["'s", "'S", "'t", "'re", "'RE", "'Ve", "'m", "'ll", "'lL", "'d", "'ſ", "'", "''", " ", "  ", "   ", "\n", "\n\n",
        "\r\n", "\t", " \n", "\n ", "1", "12", "345", "6789", "½", "Ⅷ", "٣", "é", "e\u0301", "ß", "ı", "İ", "word", " the",
        " The", "!", "?!", " ...", "---", "\u3000", "\xa0", "\u2028", "\u200b", "\ufeff", "😀", "👨‍👩‍👧", "中文", "한국어", "नमस्ते",
        "العربية", "\x00", "\x7f", "\u2581", "[MASK]", "[CLS]", "##s", "ΑΣ", "y" * 101, "Ａ", "\u0301", "가", "豈", "<s>", "</s>", "<unk>", "<mask>", "<|endoftext|>", "<|im_start|>", "<|im_end|>",
        "<|eot_id|>", "<|extratoken_1|>", "<|extratoken_14|>", "<0x41>", "_", "x" * 40, "=" * 9, "<", "|", ">"]


def text():
    kind = rng.random()
    if kind < 0.2:
        at = rng.randrange(len(corpus) - 500)
        return corpus[at:at + rng.randrange(500)]
    if kind < 0.3:
        return "".join(rng.choice(assigned) for _ in range(rng.randrange(30)))
    out = []
    for _ in range(rng.randrange(1, 25)):
        r = rng.random()
        out.append(rng.choice(bits) if r < 0.6 else rng.choice(white) if r < 0.7 else
                   "".join(rng.choice(by_class[rng.choice("LLNPSM")]) for _ in range(rng.randrange(1, 4))))
    return "".join(out)


failed = 0


def compare(name, ours, theirs, without=(), decodes=True, special=True, n=TEXTS):
    """theirs: text -> ids. without: strings that the two mean to treat differently."""
    global failed
    bad = 0
    for i in range(n):
        s = corpus if i == 0 else text()
        for w in without:
            s = s.replace(w, "")
        a, b = ours.encode(s, special), theirs(s)
        back = not decodes or ours.decode(a) == s.replace("\x00", "\ufffd")
        if a == b and back:
            continue
        bad += 1
        if bad <= 3:
            print(f"  {name}: {s[:300]!r}\n    ours   {a[:60]}\n    theirs {b[:60]}\n    back   {back}")
    failed += bad
    print(f"{name}: {n - bad} of {n} equal")


def save(tok, name):
    tok.save(f"{tmp}/{name}.json")
    return f"{tmp}/{name}.json"


folder = f"{DATA}/tokenizers"
plain = lambda tok: lambda s: tok.encode(s, add_special_tokens=False).ids

# Byte-level BPE with each pre-tokenizer. <mask> and its spaces: decoding gives no space back.
compare("gptj", Ours(f"{folder}/gptj/tokenizer.json"), plain(Tokenizer.from_file(f"{folder}/gptj/tokenizer.json")))
compare("roberta", Ours(f"{folder}/roberta/tokenizer.json"),
        plain(Tokenizer.from_file(f"{folder}/roberta/tokenizer.json")), decodes=False)
spec = json.load(open(f"{folder}/gptj/tokenizer.json"))
for name, regex in (("llama3 regex", LLAMA3), ("qwen2 regex", QWEN2)):
    spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]}
    path = f"{tmp}/{name}.json"
    json.dump(spec, open(path, "w"))
    compare(name, Ours(path), plain(Tokenizer.from_file(path)))

# RoBERTa's add_prefix_space. WordPiece: a folder of a BERT model may be given as the fifth argument.
spec = json.load(open(f"{folder}/roberta/tokenizer.json"))
spec["pre_tokenizer"]["add_prefix_space"] = True
json.dump(spec, open(f"{tmp}/prefix.json", "w"))
compare("roberta, add_prefix_space", Ours(f"{tmp}/prefix.json"), plain(Tokenizer.from_file(f"{tmp}/prefix.json")),
        decodes=False)
if len(sys.argv) > 5:
    spec = json.load(open(f"{sys.argv[5]}/tokenizer.json"))
    spec["truncation"] = spec["padding"] = None
    for change in ({}, {"lowercase": False}, {"strip_accents": False}, {"lowercase": False, "strip_accents": True},
                   {"clean_text": False}, {"handle_chinese_chars": False}):
        json.dump({**spec, "normalizer": {**spec["normalizer"], **change}}, open(f"{tmp}/bert.json", "w"))
        compare(f"bert {change}", Ours(f"{tmp}/bert.json"), plain(Tokenizer.from_file(f"{tmp}/bert.json")),
                decodes=False)

ranks = {base64.b64decode(p): int(r) for p, r in (line.split() for line in open(f"{folder}/llama3/tokenizer.model", "rb"))}
llama3 = tiktoken.Encoding("llama3", pat_str=LLAMA3, mergeable_ranks=ranks, special_tokens={"<|eot_id|>": 128009})
compare("llama3", Ours(f"{folder}/llama3/tokenizer.model"), lambda s: llama3.encode(s, allowed_special="all"))

if len(sys.argv) > 4 and sys.argv[4]:
    import gguf
    fields = gguf.GGUFReader(sys.argv[4]).fields
    get = lambda key: fields["tokenizer.ggml." + key].contents()
    pieces, types = get("tokens"), get("token_type")
    tok = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(pieces)},
                               merges=[tuple(m.split(" ")) for m in get("merges")]))
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tok.add_special_tokens([p for p, t in zip(pieces, types) if t == 3])
    compare("smollm gguf", Ours(sys.argv[4]), plain(tok), decodes=False)
    tok.save(f"{tmp}/smollm.json")
    compare("smollm json", Ours(f"{tmp}/smollm.json"), plain(tok), decodes=False)

# SentencePiece: what is written as a control token is text to it.
sp = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/llama2/tokenizer.model")
for name in ("tokenizer.model", "tokenizer.bin"):
    compare(f"llama2 {name}", Ours(f"{folder}/llama2/{name}"), sp.encode, without=("\x00", "\u2581"), special=False)
compare("llama2 gguf", Ours(f"{folder}/ggml-vocab-llama-spm.gguf"), sp.encode, without=("\x00", "\u2581"), special=False)
# The copy of tokenizer.json has a space wherever there was U+00A0, in three pieces and their merges.
spec = json.load(open(f"{folder}/llama2/tokenizer.json"))
spec["model"]["vocab"] = {p.replace(" ", "\xa0"): i for p, i in spec["model"]["vocab"].items()}
halves = lambda m: (m[:len(m) // 2], m[len(m) // 2 + 1:]) if m.strip(" ") == "" else m.split(" ", 1)
spec["model"]["merges"] = [" ".join(p.replace(" ", "\xa0") for p in halves(m)) for m in spec["model"]["merges"]]
path = f"{tmp}/llama2.json"
json.dump(spec, open(path, "w"))
compare("llama2 tokenizer.json", Ours(path), sp.encode, without=("\x00", "\u2581"), special=False)
compare("llama2 tokenizer.json, fast", Ours(path), plain(Tokenizer.from_file(path)), decodes=False,
        without=("<s>", "</s>", "<unk>", "\x00"))
for name, options in (("small", {}), ("user", {"user_defined_symbols": ["<mask>", "the", "''", "=="]}),
                      ("no bytes", {"byte_fallback": False}), ("no prefix", {"add_dummy_prefix": False}),
                      ("across words", {"split_by_whitespace": False})):
    with open(f"{tmp}/corpus.txt", "w") as f:
        f.write(corpus[:300000])
    sentencepiece.SentencePieceTrainer.train(**{**dict(
        input=f"{tmp}/corpus.txt", model_prefix=f"{tmp}/{name}", model_type="bpe", vocab_size=2048, byte_fallback=True,
        split_digits=True, allow_whitespace_only_pieces=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, num_threads=1, minloglevel=2), **options})
    sp = sentencepiece.SentencePieceProcessor(model_file=f"{tmp}/{name}.model")
    compare(f"sentencepiece, {name}", Ours(f"{tmp}/{name}.model"), sp.encode, without=("\x00", "\u2581"), special=False,
            decodes=name != "no bytes")
sys.exit(failed != 0)
