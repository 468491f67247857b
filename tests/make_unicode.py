#!/usr/bin/env python3
"""Makes the tables in core/unicode.c.

    python tests/make_unicode.py core/unicode.c      writes them anew between the braces of each

runs: the classes of the regular expressions, from unicodedata2 16.0.0 (Unicode 16.0, as Oniguruma 6.9.10 and
tiktoken's regex have it). kinds, lowers, strip_runs, strip_to, strip_pairs: what BERT's normalizer and pre-tokenizer
do to each code point, asked of tokenizers 0.23.3 itself, whose categories are those of an older Unicode.
"""
import re, sys, textwrap
import tokenizers
import unicodedata2 as unicodedata
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

assert unicodedata.unidata_version == "16.0.0" and tokenizers.__version__ == "0.23.3"
OTHER, LETTER, NUMBER, SPACE = range(4)
# The property White_Space, which is what \\s means in these regular expressions.
WHITE = {*range(0x9, 0xE), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}
ALL = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def class_of(cp):
    if cp in WHITE:
        return SPACE
    return {"L": LETTER, "N": NUMBER}.get(unicodedata.category(chr(cp))[0], OTHER)


def changes(of):
    """Where of(cp) changes: code point << 2 | value."""
    out, last = [], None
    for cp in range(0x110000):
        c = of(cp)
        if c != last:
            out.append(f"0x{cp << 2 | c:x},")
            last = c
    return out


# ---------------------------------------------------------------- what BERT does

def normalizer(**on):
    off = dict(clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=False)
    return BertNormalizer(**{**off, **on}).normalize_str


clean, strip, lower = normalizer(clean_text=True), normalizer(strip_accents=True), normalizer(lowercase=True)
pre = BertPreTokenizer()
KEPT, MARK, PUNCT, CONTROL = range(4)
kind = {}
for c in ALL:
    is_one = [False, strip(chr(c)) == "", len(pre.pre_tokenize_str(f"a{chr(c)}b")) == 3, clean(f"a{chr(c)}b") == "ab"]
    assert sum(is_one) < 2
    kind[c] = is_one.index(True) if any(is_one) else KEPT
kinds = changes(lambda cp: kind.get(cp, CONTROL))

# Lower case: {first, last, step, what is added}. U+0130 gives two, in code.
to = {c: lower(chr(c)) for c in ALL if lower(chr(c)) != chr(c)}
assert to.pop(0x130) == "i\u0307" and all(len(s) == 1 for s in to.values())
left, lowers = {c: ord(s) - c for c, s in to.items()}, []
while left:
    first = min(left)
    delta, count = left[first], 1
    step = 1 if first + 1 in left else 2                   # rows do not overlap
    while left.get(first + count * step) == delta and (step == 1 or first + count * step - 1 not in left):
        count += 1
    for n in range(count):
        del left[first + n * step]
    lowers.append(f"{{0x{first:x}, 0x{first + (count - 1) * step:x}, {step}, {delta}}},")

# Canonical decomposition without marks, to one: runs of neighbours, their letters one after another;
# a gap of three or fewer is filled with what stays as it is. To two: triples.
to = {c: strip(chr(c)) for c in ALL if strip(chr(c)) not in (chr(c), "") and not 0xAC00 <= c < 0xD7A4}
ones = {c: s for c, s in to.items() if len(s) == 1}
strip_runs, letters, last = [], [], None
for c in sorted(ones):
    if last is None or c - last > 4 or any(kind[g] == MARK or g in to for g in range(last + 1, c)):
        strip_runs.append(f"{{0x{c:x}, {len(letters)}}},")
    else:
        letters += [chr(g) for g in range(last + 1, c)]
    letters.append(ones[c])
    last = c
strip_runs.append(f"{{0x110000, {len(letters)}}},")
pairs = []
for c, s in sorted(to.items()):
    if len(s) == 2:
        pairs.append(f"{{0x{c:x}, 0x{ord(s[0]):x}, 0x{ord(s[1]):x}}},")
    elif len(s) == 3:                                      # its first two are one that is in the table
        first = min(k for k, v in to.items() if v == s[:2])
        pairs.append(f"{{0x{c:x}, 0x{first:x}, 0x{ord(s[2]):x}}},")


def shown(ch):
    plain = unicodedata.category(ch)[0] == "L" and unicodedata.bidirectional(ch) == "L"
    ascii_sign = f"\\{ord(ch):03o}"                            # three octal digits need nothing behind them
    return ch if plain else ascii_sign if ord(ch) < 0xA0 else f"\\u{ord(ch):04x}" if ord(ch) < 0x10000 else \
        f"\\U{ord(ch):08x}"


strings, line = [], ""
for ch in letters:
    if len((line + shown(ch)).encode()) > 98:
        strings.append(line)
        line = ""
    line += shown(ch)
strings = "\n".join(f'    U"{s}"' for s in strings + [line])

# ---------------------------------------------------------------- into the source

fill = lambda items: textwrap.fill(" ".join(i.replace(" ", "\0") for i in items), 100, initial_indent="    ",
                                   subsequent_indent="    ").replace("\0", " ")
with open(sys.argv[1], encoding="utf-8") as f:
    source = f.read()
for name, text in (("runs", fill(changes(class_of))), ("kinds", fill(kinds)), ("lowers", fill(lowers)),
                   ("strip_runs", fill(strip_runs)), ("strip_to", strings), ("strip_pairs", fill(pairs))):
    source, n = re.subn(rf"( {name}\[\]\S* = {{\n).*?^(}};)", lambda m: m[1] + text + "\n" + m[2], source,
                        flags=re.S | re.M)
    assert n == 1, name
with open(sys.argv[1], "w", encoding="utf-8") as f:
    f.write(source)
