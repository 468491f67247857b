#!/usr/bin/env python3
"""Makes the table in core/unicode.c: where the class of code points changes.

    python tests/make_unicode.py core/unicode.c      writes it anew between the braces of `runs`

Written for unicodedata2 16.0.0 (Unicode 16.0, as Oniguruma 6.9.10 and tiktoken's regex have it).
"""
import re, sys, textwrap
import unicodedata2 as unicodedata

OTHER, LETTER, NUMBER, SPACE = range(4)
# The property White_Space, which is what \\s means in these regular expressions.
WHITE = {*range(0x9, 0xE), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}


def class_of(cp):
    if cp in WHITE:
        return SPACE
    return {"L": LETTER, "N": NUMBER}.get(unicodedata.category(chr(cp))[0], OTHER)


assert unicodedata.unidata_version == "16.0.0"
runs, last = [], None
for cp in range(0x110000):
    c = class_of(cp)
    if c != last:
        runs.append(cp << 2 | c)
        last = c
text = textwrap.fill(" ".join(f"0x{r:x}," for r in runs), 100, initial_indent="    ", subsequent_indent="    ")
with open(sys.argv[1], encoding="utf-8") as f:
    source = f.read()
source, n = re.subn(r"(runs\[\] = \{\n).*?(\};)", lambda m: m[1] + text + "\n" + m[2], source, flags=re.S)
assert n == 1
with open(sys.argv[1], "w", encoding="utf-8") as f:
    f.write(source)
