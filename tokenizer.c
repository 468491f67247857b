// tokenizer: bytes to ids and back, for three families of vocabularies:
//   SentencePiece BPE (llama 2): the text, with a space put before it, is cut into characters; the
//     pair of neighbours that makes the piece of highest score is joined, again and again. What is
//     no piece at the end becomes byte pieces <0xNN>.
//   byte-level BPE (gpt-2, llama 3, qwen2, smollm): a regular expression cuts the text into words;
//     within a word, bytes are joined by a list of merges, the earliest merge first.
// Both come down to one loop over a heap of possible joins (merge_word), O(n log n) for any text.
// The regular expressions are in core/words.c.
//   WordPiece (bert): the text, normalised and cut into words (core/wordpiece.c), each of which is the
//     longest piece that it begins with, then the longest of those that go on, and so to its end.
//   1 tables made from a vocabulary   2 merging   3 encoding   4 decoding
#include "tokenizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/strmap.h"
#include "core/unicode.h"

enum { MAX_SPECIAL = 512,          // bytes of a token that is looked for anywhere in a text
       MAX_PIECE = 4096,           // bytes; longer ones are no vocabulary, and would slow matching
       MAX_WORD = 100 };           // characters: WordPiece takes no longer word apart

// ---- 1 tables made from a vocabulary ------------------------------------------------------------

typedef struct { uint32_t left, right; int rank, id; } Merge;    // left right -> id; rank -1: free
typedef struct { Str text; int id; } Special;

struct Tokenizer {
    const Vocab *v;
    Str *text;                 // (n) what a piece stands for: plain bytes, spaces as spaces
    char *bytes;               // where text points to
    size_t longest;            // bytes of the longest
    StrMap pieces;             // the normal pieces by text
    Merge *merge;              // (merge_mask + 1) hash table by (left, right)
    size_t merge_mask;
    int byte_id[256];          // the piece of a single byte, -1 where there is none
    Special *special;          // (n_special) control and user-defined pieces, sorted by text
    int n_special, first[257]; // those that begin with byte c: first[c] .. first[c + 1] - 1
    bool *ends;                // (n)
    bool by_word;              // SPM: no piece holds a space behind anything but a space
    char *joined, *out;        // decoding: held and new bytes; the answer
};

// The normal piece whose text is s, or -1.
static int find_piece(const Tokenizer *t, const char *s, size_t n) {
    return n > t->longest ? -1 : strmap_find(&t->pieces, s, n);
}

static Merge *find_merge(const Tokenizer *t, int left, int right) {
    uint32_t a = (uint32_t)left, b = (uint32_t)right;
    size_t i = mix_bits((uint64_t)a << 32 | b) & t->merge_mask;
    while (t->merge[i].rank >= 0 && (t->merge[i].left != a || t->merge[i].right != b))
        i = (i + 1) & t->merge_mask;
    return &t->merge[i];
}

static const char lower_block[3] = "\xE2\x96\x81";        // U+2581, SentencePiece's visible space

// Copies s with every U+2581 as a space; returns the number of bytes written, at most n.
static size_t copy_spaces(char *out, const char *s, size_t n) {
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        if (s[i] == lower_block[0] && n - i >= 3 && !memcmp(s + i, lower_block, 3)) {
            out[k++] = ' ';
            i += 2;
        } else {
            out[k++] = s[i];
        }
    }
    return k;
}

// What each piece stands for, and the table of the normal ones.
static int make_pieces(Tokenizer *t, Err *e) {
    const Vocab *v = t->v;
    size_t n = (size_t)v->n, total = 0;
    for (size_t i = 0; i < n; i++) {
        if (v->piece[i].n > MAX_PIECE)
            return fail(e, "vocabulary: token %zu has %zu bytes, at most %d are supported", i,
                        v->piece[i].n, MAX_PIECE);
        if (v->type[i] < TOK_NORMAL || v->type[i] > TOK_BYTE)
            return fail(e, "vocabulary: token %zu has type %d, expected 1 to 6", i, v->type[i]);
        total += v->piece[i].n;                            // n * MAX_PIECE fits
        if (v->piece[i].n > t->longest) t->longest = v->piece[i].n;
    }
    if (!(t->text = alloc(n, sizeof *t->text, "pieces", e)) ||
        !(t->bytes = alloc(total, 1, "pieces", e)) ||
        !(t->joined = alloc(t->longest + 8, 1, "pieces", e)) ||
        !(t->out = alloc(3 * (t->longest + 8) + 1, 1, "pieces", e)) ||
        strmap_new(&t->pieces, t->text, n, "pieces", e)) return -1;
    memset(t->byte_id, -1, sizeof t->byte_id);
    t->by_word = true;

    char *to = t->bytes;
    for (size_t i = 0; i < n; i++) {
        Str p = v->piece[i];
        size_t len = SIZE_MAX;
        if (v->kind == VOCAB_SPM && v->type[i] == TOK_BYTE) {
            int b = byte_piece(p);
            if (b < 0) return fail(e, "vocabulary: byte token %zu is '%.*s', expected <0x00> to "
                                   "<0xFF>", i, (int)(p.n < 64 ? p.n : 64), p.s);
            if (t->byte_id[b] < 0) t->byte_id[b] = (int)i;
            to[0] = (char)b;
            len = 1;
        } else if (v->kind == VOCAB_SPM && (v->type[i] == TOK_NORMAL || v->type[i] == TOK_USER)) {
            len = copy_spaces(to, p.s, p.n);
        } else if (v->kind == VOCAB_WPM && v->type[i] == TOK_NORMAL) {
            size_t head = p.n < 3 ? p.n : 3;               // only where a word begins
            len = copy_spaces(to, p.s, head);
            memcpy(to + len, p.s + head, p.n - head);
            len += p.n - head;
        } else if (v->kind == VOCAB_BPE && v->type[i] == TOK_NORMAL) {
            len = from_alphabet(p, to);
            int *byte = len == 1 ? &t->byte_id[(unsigned char)*to] : NULL;
            if (byte && *byte < 0) *byte = (int)i;
        }
        if (len == SIZE_MAX && p.n) memcpy(to, p.s, p.n);
        if (len == SIZE_MAX) len = p.n;
        t->text[i] = (Str){to, len};
        to += len;
        if (v->type[i] != TOK_NORMAL || !len) continue;
        if (v->kind == VOCAB_SPM) {
            if (isnan(v->score[i]) || v->score[i] == INFINITY)
                return fail(e, "vocabulary: token %zu has score %g", i, (double)v->score[i]);
            for (size_t k = 1; k < len; k++)
                if (t->text[i].s[k] == ' ' && t->text[i].s[k - 1] != ' ') t->by_word = false;
        }
        strmap_add(&t->pieces, (int)i);                    // the first of equals counts
    }
    return 0;
}

static int make_merges(Tokenizer *t, Err *e) {
    const Vocab *v = t->v;
    size_t size = table_size((size_t)v->n_merges);
    t->merge_mask = size - 1;
    if (!(t->merge = alloc(size, sizeof *t->merge, "merges", e))) return -1;
    for (size_t i = 0; i < size; i++) t->merge[i].rank = -1;
    char text[2 * MAX_PIECE];
    for (int i = 0; i < v->n_merges; i++) {
        Str m = v->merge[i];
        const char *space = m.n > 2 ? memchr(m.s + 1, ' ', m.n - 2) : NULL;
        if (!space) return fail(e, "vocabulary: merge %d is '%.*s', expected 'left right'", i,
                                (int)(m.n < 64 ? m.n : 64), m.s);
        Str a = {m.s, (size_t)(space - m.s)}, b = {space + 1, m.n - a.n - 1};
        // Merges of pieces that are not there can never happen.
        if (a.n > MAX_PIECE || b.n > MAX_PIECE) continue;
        size_t left = from_alphabet(a, text);
        if (left == SIZE_MAX) continue;
        size_t right = from_alphabet(b, text + left);
        if (right == SIZE_MAX) continue;
        int l = find_piece(t, text, left), r = find_piece(t, text + left, right);
        int id = find_piece(t, text, left + right);
        if (l < 0 || r < 0 || id < 0) continue;
        Merge *to = find_merge(t, l, r);
        if (to->rank < 0) *to = (Merge){(uint32_t)l, (uint32_t)r, i, id};
    }
    return 0;
}

static int by_text(const void *a, const void *b) {
    const Special *x = a, *y = b;
    int c = memcmp(x->text.s, y->text.s, x->text.n < y->text.n ? x->text.n : y->text.n);
    if (c) return c;
    if (x->text.n != y->text.n) return x->text.n < y->text.n ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

// Control and user-defined pieces, sorted for special_at; and which control pieces end generation.
static int make_special(Tokenizer *t, Err *e) {
    static const char *const end_names[] = {"<|endoftext|>", "<|im_end|>", "<|eot_id|>",
        "<|end_of_text|>", "<|end|>", "<end_of_turn>"};
    const Vocab *v = t->v;
    size_t n = (size_t)v->n;
    if (!(t->special = alloc(n, sizeof *t->special, "special tokens", e)) ||
        !(t->ends = alloc(n, sizeof *t->ends, "special tokens", e))) return -1;
    for (int i = 0; i < v->n; i++) {
        t->ends[i] = i == v->eos || i == v->eot;
        if (v->type[i] != TOK_CONTROL && v->type[i] != TOK_USER) continue;
        if (t->text[i].n > MAX_SPECIAL)
            return fail(e, "vocabulary: special token %d has %zu bytes, at most %d are supported", i,
                        t->text[i].n, MAX_SPECIAL);
        if (t->text[i].n) t->special[t->n_special++] = (Special){t->text[i], i};
        if (v->type[i] != TOK_CONTROL) continue;
        for (size_t k = 0; k < sizeof end_names / sizeof *end_names; k++)
            t->ends[i] |= str_is(v->piece[i], end_names[k]);
        t->ends[i] |= v->kind == VOCAB_SPM && str_is(v->piece[i], "</s>");
    }
    qsort(t->special, (size_t)t->n_special, sizeof *t->special, by_text);
    for (int c = 0, i = 0; c <= 256; c++) {
        while (i < t->n_special && (unsigned char)t->special[i].text.s[0] < c) i++;
        t->first[c] = i;
    }
    return 0;
}

static int check_vocab(const Vocab *v, Err *e) {
    const int ids[] = {v->bos, v->eos, v->unk, v->eot, v->mask};
    static const char *const names[] = {"bos", "eos", "unknown", "eot", "mask"};
    if (v->n < 1) return fail(e, "vocabulary: no tokens");
    for (int i = 0; i < 5; i++)
        if (ids[i] < -1 || ids[i] >= v->n)
            return fail(e, "vocabulary: id of %s is %d, expected below %d", names[i], ids[i], v->n);
    if (v->kind == VOCAB_SPM && !v->score) return fail(e, "vocabulary: no scores");
    if (v->kind == VOCAB_BPE && v->pre == PRE_NONE) return fail(e, "vocabulary: no pre-tokenizer");
    if (v->kind == VOCAB_WPM && v->unk < 0) return fail(e, "vocabulary: no unknown token");
    return 0;
}

Tokenizer *tokenizer_new(const Vocab *v, Err *e) {
    if (check_vocab(v, e)) return NULL;
    Tokenizer *t = alloc(1, sizeof *t, "tokenizer", e);
    if (!t) return NULL;
    t->v = v;
    int status = make_pieces(t, e);
    if (!status) status = make_special(t, e);
    if (!status && v->kind == VOCAB_BPE) status = make_merges(t, e);
    for (int b = 0; !status && v->kind == VOCAB_SPM && v->unk < 0 && b < 256; b++)
        if (t->byte_id[b] < 0)
            status = fail(e, "vocabulary: neither a token <0x%02X> nor an unknown token", b);
    if (!status) return t;
    tokenizer_free(t);
    return NULL;
}

void tokenizer_free(Tokenizer *t) {
    if (!t) return;
    free(t->text);
    free(t->bytes);
    strmap_free(&t->pieces);
    free(t->merge);
    free(t->special);
    free(t->ends);
    free(t->joined);
    free(t->out);
    free(t);
}

int tokenizer_id(const Tokenizer *t, const char *piece) {
    for (int i = 0; i < t->v->n; i++) if (str_is(t->v->piece[i], piece)) return i;
    return -1;
}

bool tokenizer_ends(const Tokenizer *t, int id) { return id >= 0 && id < t->v->n && t->ends[id]; }

// ---- 2 merging ----------------------------------------------------------------------------------

typedef struct { uint32_t at, len; int prev, next, id; } Symbol;    // len 0: joined to another
typedef struct { double score; int left, id; uint32_t len; } Join;  // left and its next make `id`

typedef struct {
    const Tokenizer *t;
    Symbol *symbol;            // (cap) of the word at hand, a list in order of the text
    Join *heap;                // (2 * cap) the best on top
    size_t cap, n_heap;
    char *text;                // SPM, BPE: the text with a space before it; WPM: its words
    int *ids;
    size_t n, ids_cap;
    bool after_unknown;        // SPM: the last id was the unknown one
    Err *e;
} Work;

static int emit(Work *w, int id) {
    if (w->n == w->ids_cap) {
        size_t cap = w->ids_cap + w->ids_cap / 2 + 64;
        int *ids = realloc(w->ids, cap * sizeof *ids);
        if (!ids) return fail(w->e, "token ids: out of memory for %zu ids", cap);
        w->ids = ids;
        w->ids_cap = cap;
    }
    w->ids[w->n++] = id;
    w->after_unknown = false;
    return 0;
}

// Scores first, then what stands further left.
static bool before(const Join *a, const Join *b) {
    return a->score > b->score || (a->score == b->score && a->left < b->left);
}

static void push(Work *w, Join x) {
    size_t i = w->n_heap++;
    for (; i && before(&x, &w->heap[(i - 1) / 2]); i = (i - 1) / 2)
        w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = x;
}

static Join pop(Work *w) {
    Join top = w->heap[0], x = w->heap[--w->n_heap];
    size_t i = 0, c;
    for (; (c = 2 * i + 1) < w->n_heap; i = c) {
        if (c + 1 < w->n_heap && before(&w->heap[c + 1], &w->heap[c])) c++;
        if (!before(&w->heap[c], &x)) break;
        w->heap[i] = w->heap[c];
    }
    w->heap[i] = x;
    return top;
}

// Puts the join of symbol `left` and its next on the heap, where they make a piece.
static void consider(Work *w, const char *s, int left) {
    const Tokenizer *t = w->t;
    if (left < 0 || w->symbol[left].next < 0) return;
    const Symbol *a = &w->symbol[left], *b = &w->symbol[a->next];
    Join x = {0, left, -1, a->len + b->len};
    if (t->v->kind == VOCAB_SPM) {
        x.id = find_piece(t, s + a->at, x.len);
        if (x.id >= 0) x.score = t->v->score[x.id];
        if (x.score == -INFINITY) return;
    } else {
        const Merge *m = find_merge(t, a->id, b->id);
        if (m->rank >= 0) x.id = m->id;
        x.score = -(double)m->rank;
    }
    if (x.id >= 0) push(w, x);
}

// Ids of one symbol that no join took further.
static int emit_symbol(Work *w, const char *s, Symbol a) {
    const Tokenizer *t = w->t;
    if (a.id >= 0) return emit(w, a.id);
    if (t->v->kind == VOCAB_BPE) return 0;       // a byte without a piece: nothing, as elsewhere
    bool known = true;
    for (uint32_t i = 0; i < a.len; i++) known &= t->byte_id[(unsigned char)s[a.at + i]] >= 0;
    if (!known) {                                // one unknown for a row of such characters
        if (w->after_unknown) return 0;
        if (emit(w, t->v->unk)) return -1;
        w->after_unknown = true;
        return 0;
    }
    for (uint32_t i = 0; i < a.len; i++)
        if (emit(w, t->byte_id[(unsigned char)s[a.at + i]])) return -1;
    return 0;
}

// Joins the symbols of s (n bytes, 1 .. 2^31) until no pair makes a piece, and emits what remains.
// A join on the heap is out of date when either of its symbols has grown or gone; as both only
// grow to the right or vanish, the length of the two together tells.
static int merge_word(Work *w, const char *s, size_t n) {
    const Tokenizer *t = w->t;
    bool spm = t->v->kind == VOCAB_SPM;
    if (n > w->cap) {
        free(w->symbol);
        free(w->heap);
        w->cap = n + 256;
        w->symbol = alloc(w->cap, sizeof *w->symbol, "symbols", w->e);
        w->heap = alloc(2 * w->cap, sizeof *w->heap, "joins", w->e);
        if (!w->symbol || !w->heap) return -1;
    }
    int count = 0;
    for (size_t i = 0, len; i < n; i += len) {
        uint32_t cp;
        len = spm ? utf8_next(s + i, n - i, &cp) : 1;
        if (!len) len = n - i;
        int id = spm ? find_piece(t, s + i, len) : t->byte_id[(unsigned char)s[i]];
        w->symbol[count] = (Symbol){(uint32_t)i, (uint32_t)len, count - 1, count + 1, id};
        count++;
    }
    w->symbol[count - 1].next = -1;
    w->n_heap = 0;
    for (int i = 0; i < count - 1; i++) consider(w, s, i);
    while (w->n_heap) {
        Join x = pop(w);
        Symbol *a = &w->symbol[x.left];
        if (!a->len || a->next < 0) continue;
        Symbol *b = &w->symbol[a->next];
        if (a->len + b->len != x.len) continue;
        a->len = x.len;
        a->id = x.id;
        a->next = b->next;
        b->len = 0;
        if (a->next >= 0) w->symbol[a->next].prev = x.left;
        consider(w, s, a->prev);
        consider(w, s, x.left);
    }
    for (int i = 0; i >= 0; i = w->symbol[i].next)
        if (emit_symbol(w, s, w->symbol[i])) return -1;
    return 0;
}

// ---- 3 encoding ---------------------------------------------------------------------------------

// The pieces of a word of WordPiece's (n bytes, a space first), the longest first; the unknown token
// where there is none, or where the word is too long.
static int encode_word(Work *w, const char *s, size_t n) {
    const Tokenizer *t = w->t;
    size_t begin = w->n, letters = 0;
    for (size_t i = 1; i < n; i++) letters += (s[i] & 0xC0) != 0x80;
    for (size_t i = 0, len; i < n && letters <= MAX_WORD; i += len) {
        int id = -1;
        for (len = n - i < t->longest ? n - i : t->longest; len > (i == 0); len--)
            if ((i + len == n || (s[i + len] & 0xC0) != 0x80) &&
                (id = find_piece(t, s + i, len)) >= 0) break;
        if (id < 0) break;
        if (emit(w, id)) return -1;
        if (i + len == n) return 0;
    }
    w->n = begin;
    return emit(w, t->v->unk);
}

// Text without special tokens. prefix: put a space before it (SPM; BPE where it has none).
static int encode_plain(Work *w, const char *s, size_t n, bool prefix) {
    const Tokenizer *t = w->t;
    if (t->v->kind == VOCAB_BPE) {
        if (prefix && n && *s != ' ') {
            w->text[0] = ' ';
            memcpy(w->text + 1, s, n++);
            s = w->text;
        }
        for (size_t i = 0, part = 0, end; i < n; i = end) {
            if (i == part) part = part_end(t->v->pre, s, n, i);
            end = word_end(t->v->pre, s, part, i);
            int id = t->v->ignore_merges ? find_piece(t, s + i, end - i) : -1;
            if (id >= 0 ? emit(w, id) : merge_word(w, s + i, end - i)) return -1;
        }
        return 0;
    }
    bool wpm = t->v->kind == VOCAB_WPM;
    w->text[0] = ' ';
    if (wpm) n = wordpiece_words(t->v->rules, s, n, w->text);
    else n = prefix + copy_spaces(w->text + prefix, s, n);
    // SPM: where no piece holds "x ", no join crosses such a place: words can be merged one by one.
    for (size_t i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n; end++)
            if ((wpm || t->by_word) && w->text[end] == ' ' && w->text[end - 1] != ' ') break;
        if (wpm ? encode_word(w, w->text + i, end - i) : merge_word(w, w->text + i, end - i)) return -1;
    }
    return 0;
}

// The longest special piece that s begins with: its bytes, 0 where there is none.
static size_t special_at(const Tokenizer *t, const char *s, size_t n, bool control, int *id) {
    unsigned char c = (unsigned char)s[0];
    int lo = t->first[c], hi = t->first[c + 1];            // those that agree in the first k bytes
    size_t found = 0;
    for (size_t k = 1; lo < hi; k++) {
        for (; lo < hi && t->special[lo].text.n == k; lo++) {   // the shortest stand first
            int this = t->special[lo].id;
            if (found == k || !(control || t->v->type[this] == TOK_USER)) continue;
            found = k;
            *id = this;
        }
        if (k == n) break;
        int from = lo, to = hi;                            // lo: the first with text[k] >= s[k]
        while (from < to) {
            int mid = from + (to - from) / 2;
            if ((unsigned char)t->special[mid].text.s[k] < (unsigned char)s[k]) from = mid + 1;
            else to = mid;
        }
        lo = from;
        to = hi;                                           // hi: the first with text[k] > s[k]
        while (from < to) {
            int mid = from + (to - from) / 2;
            if ((unsigned char)t->special[mid].text.s[k] <= (unsigned char)s[k]) from = mid + 1;
            else to = mid;
        }
        hi = from;
    }
    return found;
}

// SPM: the space prefix goes before the text's first piece, user-defined or not, but behind control
// tokens, each of which begins a document anew. BPE: before any text.
static int encode_all(Work *w, const char *s, size_t n, bool special, bool first) {
    const Vocab *v = w->t->v;
    bool bpe = v->kind == VOCAB_BPE, may = v->add_space_prefix, prefix = may && first;
    size_t from = 0;
    for (size_t i = 0, len; i < n; i += len) {
        int id;
        len = special_at(w->t, s + i, n - i, special, &id);
        if (!len) { len = 1; continue; }
        size_t end = i;
        if (v->strip[id] & TOK_LSTRIP) end = space_begin(s, from, i);
        bool control = v->type[id] == TOK_CONTROL;
        if (end > from || (prefix && !control && !bpe))
            if (encode_plain(w, s + from, end - from, prefix)) return -1;
        if (emit(w, id)) return -1;
        prefix = may && (control || bpe);
        from = i + len;
        if (v->strip[id] & TOK_RSTRIP) from = space_end(s, n, from);
        len = from - i;
    }
    return from < n ? encode_plain(w, s + from, n - from, prefix) : 0;
}

int tokenizer_encode(const Tokenizer *t, const char *text, size_t n, bool special, bool first,
                     int **ids, size_t *n_ids, Err *e) {
    Work w = {.t = t, .e = e};
    *ids = NULL;
    *n_ids = 0;
    if (n >= INT32_MAX) return fail(e, "text of %zu bytes: below %d are supported", n, INT32_MAX);
    w.ids_cap = n / 3 + 16;
    w.ids = malloc(w.ids_cap * sizeof *w.ids);
    if (!w.ids) return fail(e, "token ids: out of memory for %zu ids", w.ids_cap);
    int status = 0;
    size_t room = t->v->kind == VOCAB_WPM ? WORDS_ROOM(n) : n + 1;
    if (!(w.text = alloc(room, 1, "text", e))) status = -1;
    if (!status) status = encode_all(&w, text, n, special, first);
    free(w.text);
    free(w.symbol);
    free(w.heap);
    if (status) {
        free(w.ids);
        return -1;
    }
    *ids = w.ids;
    *n_ids = w.n;
    return 0;
}

// ---- 4 decoding ---------------------------------------------------------------------------------

static const Str replacement = {"\xEF\xBF\xBD", 3};         // U+FFFD

// The whole characters of joined (n bytes), as a string in out; the rest goes to d->held. What is
// broken, and NUL, which no string can hold, is replaced.
static const char *decode_bytes(Tokenizer *t, Decoder *d, size_t n, bool end) {
    size_t k = 0;
    d->n = 0;
    for (size_t i = 0, len; i < n; i += len) {
        uint32_t cp;
        len = utf8_next(t->joined + i, n - i, &cp);
        if (!len) {
            len = n - i;
            if (!end) {
                memcpy(d->held, t->joined + i, len);
                d->n = (int)len;
                break;
            }
        }
        Str s = cp == UTF8_BAD || cp == 0 ? replacement : (Str){t->joined + i, len};
        memcpy(t->out + k, s.s, s.n);
        k += s.n;
    }
    t->out[k] = 0;
    return t->out;
}

// WordPiece: writes to t->joined what stands before the text s of a piece that is shown; returns its
// bytes. A space at the piece's own beginning is taken off.
static size_t join_word(Tokenizer *t, Decoder *d, bool normal, Str *s) {
    bool word = !normal || s->s[0] == ' ', again = d->started;
    d->started = true;
    if (normal && word) {
        s->s++;
        s->n--;
    }
    if (word && (!again || (normal && s->n && strchr(".,?!", s->s[0])))) return 0;
    if (!word && again) return 0;
    memcpy(t->joined, word ? " " : "##", 2);
    return word ? 1 : 2;
}

const char *tokenizer_decode(Tokenizer *t, Decoder *d, int id) {
    const Vocab *v = t->v;
    Str s = {"", 0};
    int type = id >= 0 && id < v->n ? v->type[id] : TOK_UNUSED;
    if (type == TOK_NORMAL || type == TOK_USER || type == TOK_BYTE) s = t->text[id];
    else if (type == TOK_UNKNOWN) s = d->special ? t->text[id] : replacement;
    else if (type == TOK_CONTROL && d->special) s = t->text[id];
    if (v->kind == VOCAB_WPM) {
        size_t before = s.n ? join_word(t, d, type == TOK_NORMAL, &s) : 0;
        if (s.n) memcpy(t->joined + before, s.s, s.n);
        return decode_bytes(t, d, before + s.n, true);
    }
    // The encoder put a space where a document begins; here it goes again.
    if (v->kind == VOCAB_SPM && v->add_space_prefix && !d->started && type == TOK_NORMAL && s.n &&
        s.s[0] == ' ') {
        s.s++;
        s.n--;
    }
    if (type != TOK_UNUSED) d->started = type != TOK_CONTROL;
    size_t held = (size_t)d->n;
    memcpy(t->joined, d->held, held);
    if (s.n) memcpy(t->joined + held, s.s, s.n);
    return decode_bytes(t, d, held + s.n, false);
}

const char *tokenizer_decode_end(Tokenizer *t, Decoder *d) {
    memcpy(t->joined, d->held, (size_t)d->n);
    return decode_bytes(t, d, (size_t)d->n, true);
}
