#!/usr/bin/awk -f
# The figures of doc/MATH.md. From the top of the tree:
#     awk -f doc/figures.awk                   writes doc/*.svg
#     awk -v dir=. -f doc/figures.awk         writes them there
# Every figure brings its own ground, light or dark as the reader's system is; so text never stands on a
# ground that it was not made for. Whole numbers only: each awk writes the same bytes.

# ---- pens -----------------------------------------------------------------------------------------

function put(s) { print s > out }
function begin(name, h) {
    out = dir "/" name
    put("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 800 " h "\" width=\"800\" height=\"" h "\">")
    put("<style>")
    put("text{font:13px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#1d1d1b}")
    put(".head{font-weight:700}.soft{fill:#5f5d57}.mid{text-anchor:middle}.end{text-anchor:end}")
    put(".page{fill:#fcfbf8}.line,.dash{stroke:#5f5d57;fill:none}.dash{stroke-dasharray:4 3}")
    put(".u{fill:#e4e1d8}.q{fill:#b9cfee}.k{fill:#f4cfa2}.v{fill:#a9dccd}.o{fill:#dcb2cb}.z{fill:#cfc8f0}")
    put(".none{fill:#fcfbf8}.u,.q,.k,.v,.o,.z,.none{stroke:#5f5d57}.tip{fill:#5f5d57}.cut{stroke:#b3261e;stroke-width:2}")
    put("@media(prefers-color-scheme:dark){text{fill:#e9e6df}.soft{fill:#a9a69d}.page,.none{fill:#15161a}")
    put(".line,.dash,.u,.q,.k,.v,.o,.z,.none{stroke:#a9a69d}.tip{fill:#a9a69d}.cut{stroke:#ff8a80}")
    put(".u{fill:#3a3c42}.q{fill:#264a7d}.k{fill:#7a4a12}.v{fill:#155c49}.o{fill:#6d2650}.z{fill:#4a3f86}}")
    put("</style>")
    put("<rect class=\"page\" width=\"800\" height=\"" h "\" rx=\"6\"/>")
}
function finish() { put("</svg>"); close(out) }

# cls: of style; a word of text may add "mid" or "end".
function rect(x, y, w, h, cls) {
    put("<rect class=\"" cls "\" x=\"" x "\" y=\"" y "\" width=\"" w "\" height=\"" h "\"/>")
}
function text(x, y, s, cls) {
    put("<text x=\"" x "\" y=\"" y "\"" (cls ? " class=\"" cls "\"" : "") ">" s "</text>")
}
# Lines of text, a bar between them.
function lines(x, y, s, cls,    i, n, part) {
    n = split(s, part, "|")
    for (i = 1; i <= n; i++) text(x, y + (i - 1) * 18, part[i], cls)
}
function line(x1, y1, x2, y2, cls) {
    put("<path class=\"" (cls ? cls : "line") "\" d=\"M" x1 " " y1 "L" x2 " " y2 "\"/>")
}
# An arrow to the right or down.
function arrow(x1, y1, x2, y2) {
    line(x1, y1, x2, y2)
    if (y1 == y2) put("<path class=\"tip\" d=\"M" x2 " " y2 "l-8 -4v8z\"/>")
    else put("<path class=\"tip\" d=\"M" x2 " " y2 "l-4 -8h8z\"/>")
}
# A matrix with its name in it.
function mat(x, y, w, h, cls, name) {
    rect(x, y, w, h, cls)
    if (name) text(x + w / 2, y + h / 2 + 4, name, "mid")
}
# Slices one behind the other, the first in front: a word of classes.
function stack(x, y, w, h, classes, dx, dy,    n, i, c) {
    n = split(classes, c, " ")
    for (i = n; i >= 1; i--) rect(x + (i - 1) * dx, y - (i - 1) * dy, w, h, c[i])
}
# A bracket below x1 .. x2 and what it says.
function brace(x1, x2, y, s) {
    put("<path class=\"line\" d=\"M" x1 " " y "v7H" x2 "v-7\"/>")
    text((x1 + x2) / 2, y + 24, s, "mid")
}

# ---- tensor.svg: the matrices, the tensor, its core and factors ------------------------------------

function tensor(    i, x, kind, name, mode, way, size) {
    begin("tensor.svg", 476)
    split("q k v o", kind, " ")
    split("W_Q^T W_K^T W_V^T W_O", name, " ")
    text(20, 28, "One head's matrices", "head")
    text(20, 46, "d x hd each", "soft")
    for (i = 1; i <= 4; i++) {
        x = 48 + (i - 1) * 52
        rect(x, 90, 34, 120, kind[i])
        text(x + 17, 82, name[i], "mid")
    }
    text(38, 154, "d", "soft end")
    text(65, 228, "hd", "soft mid")
    arrow(252, 150, 288, 150)

    text(310, 28, "All heads: the tensor", "head")
    text(310, 46, "d x hd x 4 x h, a 4-way array", "soft")
    for (i = 0; i < 3; i++) {
        x = 320 + i * 96 + (i == 2) * 34
        stack(x, 90, 34, 120, "q k v o", 10, 8)
        text(x + 30, 232, "head " (i < 2 ? i : "h-1"), "mid")
    }
    text(526, 150, "...", "mid")
    text(634, 84, "its four modes", "soft")
    split("EMBD HEAD KIND KV_HEAD", mode, " ")
    split("down across behind aside", way, " ")
    split("d hd 4 h", size, " ")
    for (i = 1; i <= 4; i++) {
        text(634, 86 + i * 22, mode[i])
        text(698, 86 + i * 22, size[i])
        text(728, 86 + i * 22, way[i], "soft")
    }

    line(20, 254, 780, 254, "dash")
    text(20, 284, "is near to", "head")
    text(112, 284, "a small core a head, and three factors that all heads share", "soft")
    x = 60
    mat(x, 318, 84, 120, "u")
    text(x + 42, 310, "U_embd", "mid")
    text(x - 10, 382, "d", "soft end")
    text(x + 42, 456, "r_embd", "soft mid")
    for (i = 0; i < 3; i++) {
        x = 240 + i * 86 + (i == 2) * 20
        stack(x, 352, 26, 84, "z z z", 9, 8)
        text(x + 22, 326, "G_" (i < 2 ? i : "h-1"), "mid")
    }
    text(230, 398, "r_embd", "soft end")
    text(253, 456, "r_head", "soft mid")
    text(482, 346, "r_kind", "soft")
    text(408, 398, "...", "mid")
    x = 600
    mat(x, 352, 26, 34, "u")
    text(x + 13, 340, "U_head", "mid")
    text(x - 8, 374, "hd", "soft end")
    text(x + 13, 404, "r_head", "soft mid")
    x = 716
    for (i = 1; i <= 4; i++) rect(x, 352 + (i - 1) * 12, 34, 12, kind[i])
    text(x + 17, 340, "U_kind", "mid")
    text(x - 8, 380, "4", "soft end")
    text(x + 17, 418, "r_kind", "soft mid")
    finish()
}

# ---- groups.svg: what shares a factor; pivoted storage ---------------------------------------------

function factor(x, y, name) { mat(x, y, 44, 28, "u", name) }
function core(x, y, c) { mat(x, y, 26, 28, c, c) }
function groups(    i, j, y, n, piv, p, rest) {
    begin("groups.svg", 420)
    text(20, 28, "Who shares a U_embd", "head")
    text(20, 46, "U: a factor; q k v o: cores, one a head", "soft")
    # One column a place: U, cores, U.
    y = 70
    text(20, y + 19, "qkvo")
    factor(100, y, "U"); core(154, y, "q"); core(186, y, "k"); core(218, y, "v")
    core(330, y, "o"); factor(366, y, "U")
    put("<path class=\"dash\" d=\"M122 98v12H388v-12\"/>")
    text(255, 124, "the same one, both ways", "soft mid")
    y = 144
    text(20, y + 19, "qkv+o")
    factor(100, y, "U"); core(154, y, "q"); core(186, y, "k"); core(218, y, "v")
    core(330, y, "o"); factor(366, y, "U")
    y = 194
    text(20, y + 19, "qk+v+o")
    factor(100, y, "U"); core(154, y, "q"); core(186, y, "k")
    factor(222, y, "U"); core(276, y, "v")
    core(330, y, "o"); factor(366, y, "U")
    y = 244
    text(20, y + 19, "q+k+v+o")
    factor(100, y, "U"); core(146, y, "q")
    factor(176, y, "U"); core(222, y, "k")
    factor(252, y, "U"); core(298, y, "v")
    core(330, y, "o"); factor(366, y, "U")
    y = 294
    text(20, y + 19, "qk+o")
    factor(100, y, "U"); core(154, y, "q"); core(186, y, "k")
    mat(242, y, 60, 28, "v", "W_V")
    core(330, y, "o"); factor(366, y, "U")
    text(100, 350, "x goes in", "soft")
    text(410, 350, "y comes out", "soft end")
    lines(20, 388, "What a scheme does not name stays dense,|as V in the last row.", "soft")

    line(440, 16, 440, 404, "dash")
    text(464, 28, "Pivoted storage", "head")
    text(464, 46, "of U_embd^T (r_embd, d)", "soft")
    n = 12
    split("0 1 0 0 1 0 0 1 1 0 0 0", piv, " ")
    for (j = 0; j < n; j++) {
        p += piv[j + 1]
        for (i = 0; i < 4; i++) {
            rect(464 + j * 26, 66 + i * 26, 26, 26, piv[j + 1] ? "none" : "z")
            if (piv[j + 1]) text(464 + j * 26 + 13, 66 + i * 26 + 17, i == p - 1 ? 1 : 0, i == p - 1 ? "mid" : "soft mid")
        }
        if (piv[j + 1]) text(464 + j * 26 + 13, 190, j, "soft mid")
    }
    arrow(620, 200, 620, 222)
    text(464, 246, "stored: X (r_embd, d - r_embd)")
    for (j = rest = 0; j < n; j++)
        if (!piv[j + 1]) {
            for (i = 0; i < 4; i++) rect(464 + rest * 26, 258 + i * 26, 26, 26, "z")
            rest++
        }
    text(690, 284, "pivot:", "soft")
    text(690, 304, "1 4 7 8")
    text(464, 388, "z = x_p + X x_r")
    text(464, 406, "pivots of x pass as they are", "soft")
    finish()
}

# ---- cache.svg: what is kept of a position; two orders of one product ------------------------------

function band(x, y, h, cls, n,    i) { for (i = 0; i < n; i++) rect(x + i * 20, y, 20, h, cls) }
function cache(    g, y) {
    begin("cache.svg", 584)
    text(20, 28, "Dense: k and v of every KV head", "head")
    for (g = 0; g < 3; g++) {
        y = 48 + g * 62
        band(90, y, 26, "k", 10)
        band(90, y + 28, 26, "v", 10)
        text(80, y + 18, "k, g = " g, "end")
        text(80, y + 46, "v", "end")
        text(298, y + 18, "hd", "soft")
        text(298, y + 46, "hd", "soft")
    }
    text(90, 250, "positions 0, 1, ... t", "soft")
    text(90, 270, "2 n_kv hd numbers a position")

    line(400, 16, 400, 276, "dash")
    text(424, 28, "Latent: z, for K and V of all heads", "head")
    band(490, 48, 64, "z", 10)
    text(480, 84, "z", "end")
    text(698, 84, "r_embd", "soft")
    lines(424, 138, "and, where positions rotate part of|a head, that part of k beside it:", "soft")
    for (g = 0; g < 3; g++) {
        y = 168 + g * 17
        band(490, y, 14, "k", 10)
        text(480, y + 12, "g = " g, "end")
    }
    text(698, 196, "hd - pass", "soft")
    text(490, 250, "r_embd, or with them", "soft")
    text(490, 270, "r_embd + n_kv (hd - pass) numbers")

    line(20, 290, 780, 290, "dash")
    text(20, 318, "Absorb: M_g goes to the query", "head")
    mat(40, 368, 22, 40, "q")
    text(51, 361, "q", "mid")
    text(51, 426, "r_head", "soft mid")
    text(80, 380, "M_g^T")
    arrow(78, 388, 122, 388)
    mat(140, 356, 22, 64, "q")
    text(151, 349, "q~", "mid")
    text(151, 438, "r_embd", "soft mid")
    text(184, 393, "·", "head mid")
    band(206, 356, 64, "z", 6)
    text(266, 349, "z_j", "mid")
    lines(20, 470, "M_g^T q once a query and head, then|r_embd multiply-adds a position.", "soft")
    text(20, 506, "Few queries: a decode step.")

    line(400, 304, 400, 576, "dash")
    text(424, 318, "Rebuild: M_g goes to the latents", "head")
    band(424, 356, 64, "z", 6)
    text(484, 349, "z_j", "mid")
    text(554, 380, "M_g")
    arrow(552, 388, 584, 388)
    band(596, 368, 40, "k", 6)
    text(656, 361, "k_j", "mid")
    text(656, 426, "r_head", "soft mid")
    text(739, 393, "·", "head mid")
    mat(762, 368, 22, 40, "q")
    text(773, 361, "q", "mid")
    lines(424, 470, "M_g z_j once a position and KV head, then|r_head multiply-adds a position.", "soft")
    text(424, 506, "Many queries together: a prompt.")

    text(20, 540, "Values, absorbed: one product, behind the sum", "soft")
    text(20, 560, "o = M_g (a_0 z_0 + ... + a_t z_t)")
    text(424, 540, "rebuilt: one a position", "soft")
    text(424, 560, "o = a_0 (M_g z_0) + ... + a_t (M_g z_t)")
    finish()
}

# ---- rotary.svg: what stands between the two U_head of a score -------------------------------------

# A product of matrices, their heights and widths as their sizes are; the next one starts at px.
function factor_at(y, w, h, cls, name) {
    rect(px, y - h / 2, w, h, cls)
    text(px + w / 2, y - 44, name, "mid")
    px += w + 34
}
function rotary(    from, i, mid) {
    begin("rotary.svg", 556)
    split("80 258 448", mid, " ")
    for (i = 1; i <= 3; i++) {
        px = 30
        factor_at(mid[i] + 20, 64, 14, "z", "z_t^T")
        factor_at(mid[i] + 20, 30, 64, "q", "(M^Q)^T")
        from = px
        factor_at(mid[i] + 20, 48, 30, "u", i == 3 ? "U_pass^T" : "U_head^T")
        if (i == 2) factor_at(mid[i] + 20, 48, 48, "none", "R_(j-t)")
        factor_at(mid[i] + 20, 30, 48, "u", i == 3 ? "U_pass" : "U_head")
        if (i == 1) line(from - 6, mid[i] + 40, px - 28, mid[i], "cut")
        brace(from, px - 34, mid[i] + 56, i == 1 ? "= I" : i == 2 ? "another one for every j - t" : "the same for all j")
        factor_at(mid[i] + 20, 64, 30, "k", "M^K")
        factor_at(mid[i] + 20, 14, 64, "z", "z_j")
    }
    text(20, 28, "Learned positions: q_t . k_j", "head")
    text(500, 74, "Both are left out.")
    lines(500, 92, "q and k are r_head wide,|or M^K goes to the query|and z_j is cached.", "soft")
    line(20, 182, 780, 182, "dash")
    text(20, 208, "Rotary positions", "head")
    lines(560, 260, "Nothing cancels, and|nothing passes R.")
    lines(560, 296, "q and k are widened|to hd, then turned;|k is cached turned.", "soft")
    line(20, 366, 780, 366, "dash")
    text(20, 392, "Part of a head rotated: the numbers that are not", "head")
    lines(500, 446, "M^K and U_pass go to the|query, and z_j is cached.")
    lines(500, 482, "The rotated numbers are|cached as above and add|their own sum.", "soft")
    finish()
}

BEGIN {
    if (!dir) dir = "doc"
    tensor()
    groups()
    cache()
    rotary()
}
