// explain: what one layer's attention is stored as, drawn to scale, what a token costs in it, and, with a
// text, what its heads look at. A teaching tool: names and order are those of tucker.h and doc/MATH.md.
#include "explain.h"

#include <stdlib.h>
#include <string.h>

Ink ink_of(int p) { return (Ink)(INK_Q + p); }

const char *letters_of(int set, const char *between, char out[16]) {
    *out = 0;
    for (int p = P_Q, at = 0; p <= P_O; p++)
        if (set & 1 << p) at += snprintf(out + at, (size_t)(16 - at), "%s%c", at ? between : "", "QKVO"[p]);
    return out;
}

void heading(Page *p, const char *text) {
    page_rule(p, page_put(p, 0, 1, STRONG, "%s ", text), 1);
    page_print(p);
}

// ---- what is stored ------------------------------------------------------------------------------

// A matrix of the layer. Of a pivoted factor an identity, which is not stored, stands before it (eye_cols)
// or above it (eye_rows).
typedef struct {
    char name[24], note[40];
    Ink ink;
    Mat m;
    int64_t heads;                 // that it holds, one below the other (O: beside); 0: it is shared
    int64_t eye_rows, eye_cols;
    int64_t slices;                // drawn as so many, side by side
} Piece;
enum { MAX_PIECES = 32, GAP = 2 };

static Piece *piece(Piece *list, int *n, const char *name, const char *of, Ink ink, Mat m) {
    Piece *t = &list[*n < MAX_PIECES ? (*n)++ : MAX_PIECES - 1];
    *t = (Piece){.ink = ink, .m = m};
    snprintf(t->name, sizeof t->name, *of ? "%s (%s)" : "%s", name, of);
    return t;
}

// The matrix of projection p, W or its cores M.
static Piece *own(const Attention *a, Piece *list, int *n, const char *form, int p, Mat w) {
    char name[8];
    snprintf(name, sizeof name, form, "QKVO"[p]);
    Piece *t = piece(list, n, name, "", ink_of(p), w);
    t->heads = heads_of(&a->shape, p);
    return t;
}

static int dense_pieces(const Attention *a, Piece *list) {
    int n = 0;
    for (int p = P_Q; p <= P_O; p++)
        NOTE(own(a, list, &n, "W_%c", p, twin_of(a, p)), "%lld x %lld %s", (long long)heads_of(&a->shape, p),
             (long long)a->shape.hd, p == P_O ? "columns" : "rows");
    return n;
}

// The factors and cores of every group, and what stays dense, in the order of the groups.
static int stored_pieces(const Attention *a, Piece *list) {
    const AttnShape *s = &a->shape;
    int n = 0;
    for (int i = 0; i < a->n_groups; i++) {
        const Group *g = &a->groups[i];
        char set[16], of[16] = "";
        const bool out = g->set == HAS_O;
        letters_of(g->set, ", ", set);
        if (a->n_groups > 1) letters_of(g->set, "", of);
        Piece *t = piece(list, &n, g->pivot ? "X" : out ? "U_embd" : "U_embd^T", of, INK_SHARED, g->embd);
        NOTE(t, "of %s", set);
        if (g->pivot) {
            *(out ? &t->eye_rows : &t->eye_cols) = g->r_embd;
            NOTE(t, out ? "U_embd = P [I; X]" : "U_embd^T = [I X] P");
            const Mat pivots = {g->pivot, 1, g->r_embd, T_I32};
            NOTE(piece(list, &n, "pivots", of, INK_SHARED, pivots), "where I stands in d");
        }
        if (g->head.rows) NOTE(piece(list, &n, "U_head", of, INK_SHARED, g->head), "of every head");
        if (g->kind.rows) {
            NOTE(piece(list, &n, "U_kind", of, INK_SHARED, g->kind), "mixes slices of G");
            t = piece(list, &n, "G", of, INK_SHARED, g->core);
            t->slices = g->r_kind;
            NOTE(t, "%dx%d of %dx%d", (int)g->r_kind, (int)s->n_kv, (int)g->r_head, (int)g->r_embd);
        }
        for (int p = P_Q; p <= P_O; p++)
            if (a->group_of[p] == i && !g->kind.rows)
                NOTE(own(a, list, &n, "M^%c", p, a->w[p]), "%d of %dx%d", (int)heads_of(s, p),
                     (int)(p == P_O ? g->r_embd : g->r_head), (int)(p == P_O ? g->r_head : g->r_embd));
    }
    for (int p = P_Q; p <= P_O; p++)
        if (a->group_of[p] < 0) NOTE(own(a, list, &n, "W_%c", p, a->w[p]), "dense");
    return n;
}

// ---- drawn to scale ------------------------------------------------------------------------------

// A sign is `unit` numbers wide and, for it is twice as high as wide, 2 * unit high.
static int signs(int64_t n, int64_t unit) {
    const int64_t w = (n + unit / 2) / unit;
    return w < 1 ? 1 : (int)w;
}

typedef struct { int w, h, eye_w, eye_h, width; char shape[40]; } Size;

static Size size_of(const Piece *t, int64_t unit) {
    Size z = {.eye_w = t->eye_cols ? signs(t->eye_cols, unit) : 0,
              .eye_h = t->eye_rows ? signs(t->eye_rows, 2 * unit) : 0};
    z.w = signs(t->m.cols + t->eye_cols, unit) - z.eye_w;      // edges fall where they would without I
    z.h = signs(t->m.rows + t->eye_rows, 2 * unit) - z.eye_h;
    if (z.w < 1) z.w = 1;
    if (z.h < 1) z.h = 1;
    snprintf(z.shape, sizeof z.shape, "%lldx%lld", (long long)t->m.rows, (long long)t->m.cols);
    const int words[] = {z.w + z.eye_w, (int)strlen(z.shape), (int)strlen(t->name)};
    for (int i = 0; i < 3; i++) if (words[i] > z.width) z.width = words[i];
    return z;
}

// A small unit at which these stand side by side, and not too high.
static int64_t unit_of(const Piece *list, int n) {
    int64_t largest_side = 1;
    for (int i = 0; i < n; i++) {
        if (list[i].m.rows > largest_side) largest_side = list[i].m.rows;
        if (list[i].m.cols > largest_side) largest_side = list[i].m.cols;
    }
    for (int64_t unit = 1 + largest_side / PAGE_WIDTH;; unit += 1 + unit / 64) {
        int width = -GAP, height = 0;
        for (int i = 0; i < n; i++) {
            const Size z = size_of(&list[i], unit);
            width += z.width + GAP;
            if (z.h > height) height = z.h;
        }
        if ((width <= PAGE_WIDTH && height <= 10) || unit > largest_side) return unit;
    }
}

static void draw_piece(Page *p, int x, int bottom, const Piece *t, const Size *z) {
    const int top = bottom - z->h - z->eye_h, w = z->eye_w ? z->eye_w : z->w, h = z->eye_h ? z->eye_h : z->h;
    char inside[24];
    if (z->eye_w || z->eye_h) {
        page_box(p, x, top, w, h, FAINT, true);
        if (w > 2 && h > 2) page_put(p, x + w / 2, top + h / 2, FAINT, "I");
    }
    page_box(p, x + z->eye_w, top + z->eye_h, z->w, z->h, t->ink, false);
    const int n = snprintf(inside, sizeof inside, "%d head%s", (int)t->heads, t->heads > 1 ? "s" : "");
    if (t->heads && z->h > 2 && z->w > n + 1)
        page_put(p, x + z->eye_w + (z->w - n) / 2, top + z->eye_h + (z->h - 1) / 2, FAINT, "%s", inside);
    page_put(p, x, bottom, t->ink, "%s", t->name);
    page_put(p, x, bottom + 1, PLAIN, "%s", z->shape);
}

// What is drawn of a list: of G its slices, of many the first ones and the last; pivots are no matrix.
static int boxes(const Piece *list, int n, Piece *box) {
    enum { MOST = 6 };
    int out = 0;
    for (int i = 0; i < n; i++) {
        const int64_t slices = list[i].slices ? list[i].slices : 1, shown = slices > MOST ? MOST : slices;
        for (int64_t j = 0; j < shown && list[i].m.type != T_I32; j++, out++) {
            const bool last = j == shown - 1;
            box[out] = list[i];
            box[out].m.rows /= slices;
            if (list[i].slices)
                snprintf(box[out].name, sizeof box[out].name, "%sG_%d%.16s",
                         last && slices > shown ? ".." : "", (int)(last ? slices : j + 1), list[i].name + 1);
        }
    }
    return out;
}

// As many to a line of boxes as fit; they stand on one line, names and shapes below.
static void draw(Page *p, const Piece *list, int n, int64_t unit) {
    Piece box[2 * MAX_PIECES];
    n = boxes(list, n, box);
    for (int i = 0, end; i < n; i = end) {
        int x = 0, height = 0;
        for (end = i; end < n; end++) {
            const Size z = size_of(&box[end], unit);
            if (x + z.width > PAGE_WIDTH && x) break;
            x += z.width + GAP;
            if (z.h + z.eye_h > height) height = z.h + z.eye_h;
        }
        for (x = 0; i < end; i++) {
            const Size z = size_of(&box[i], unit);
            draw_piece(p, x, height, &box[i], &z);
            x += z.width + GAP;
        }
        page_say(p, PLAIN, "%s", "");
    }
}

static void table(Page *p, const Piece *list, int n, double of) {
    double all_bytes = 0, all_params = 0;
    int y = 0;
    page_put(p, 0, y, STRONG, "matrix");
    page_put(p, 16, y, STRONG, "shape");
    page_put(p, 30, y, STRONG, "type");
    page_right(p, 45, y, STRONG, "bytes");
    page_right(p, 57, y++, STRONG, "parameters");
    for (int i = 0; i < n; i++, y++) {
        const Piece *t = &list[i];
        const double bytes = (double)mat_bytes(&t->m);
        const double params = t->m.type == T_I32 ? 0 : (double)t->m.rows * (double)t->m.cols;
        page_put(p, 0, y, t->ink, "%s", t->name);
        page_put(p, 16, y, PLAIN, "%lldx%lld", (long long)t->m.rows, (long long)t->m.cols);
        page_put(p, 30, y, PLAIN, "%s", type_info(t->m.type)->name);
        page_right(p, 45, y, PLAIN, "%.0f", bytes);
        page_right(p, 57, y, PLAIN, "%.0f", params);
        page_put(p, 59, y, FAINT, "%s", t->note);
        all_bytes += bytes, all_params += params;
    }
    page_put(p, 0, y, STRONG, "together");
    page_right(p, 45, y, STRONG, "%.0f", all_bytes);
    page_right(p, 57, y, STRONG, "%.0f", all_params);
    if (of > 0) page_put(p, 59, y, STRONG, "%.1f %% of dense", 100 * all_params / of);
    page_print(p);
}

// ---- the tensors ---------------------------------------------------------------------------------

// The labels of a group's kinds; of many query heads the first, dots, the last.
static int cards(int set, int64_t m, char label[8][8], Ink ink[8]) {
    int n = 0;
    for (int p = P_Q; p <= P_O; p++) {
        if (!(set & 1 << p)) continue;
        const int64_t kinds = p == P_Q || p == P_O ? m : 1, shown = kinds > 3 ? 3 : kinds;
        for (int64_t j = 0; j < shown; j++, n++) {
            const int64_t number = j == shown - 1 ? kinds : j + 1;
            ink[n] = ink_of(p);
            if (kinds == 1) snprintf(label[n], 8, "%c", "QKVO"[p]);
            else if (kinds > 3 && j == 1) snprintf(label[n], 8, "...");
            else snprintf(label[n], 8, "%c_%d", "QKVO"[p], (int)(number % 100));
        }
    }
    return n;
}

// One tensor: the kinds side by side, a card each, the KV heads one behind the other. Returns its width.
static int draw_tensor(Page *p, int x, int set, int64_t m, int64_t groups) {
    enum { CARD = 5, HIGH = 4, BEHIND = 3 };
    const int sheets = groups > BEHIND ? BEHIND : (int)groups - 1;
    char label[8][8];
    Ink ink[8];
    const int n = cards(set, m, label, ink);
    for (int b = sheets; b > 0; b--) page_box(p, x + 2 * b, sheets - b, n * CARD + 1, HIGH, FAINT, false);
    page_box(p, x, sheets, n * CARD + 1, HIGH, PLAIN, false);
    for (int i = 0; i < n; i++) {
        if (i) page_split(p, x + i * CARD, sheets, HIGH, PLAIN);
        page_put(p, x + i * CARD + 1, sheets + 1, ink[i], "%s", label[i]);
    }
    return n * CARD + 1 + 2 * sheets;
}

static void draw_tensors(Page *p, const Attention *a) {
    const AttnShape *s = &a->shape;
    const int64_t m = s->h / s->n_kv;
    page_say(p, PLAIN, "Stacked to a tensor d x hd x kinds x n_kv: a card is one head's W^T (of O: W),");
    page_say(p, PLAIN, "d high, hd wide; kinds stand side by side, %s one behind the other.",
             m > 1 ? "KV heads" : "heads");
    if (m > 1)
        page_say(p, PLAIN, "The %d query heads that read a KV head are kinds of their own.",
                 (int)m);
    for (int i = 0, x = 0; i < a->n_groups; i++)
        x += draw_tensor(p, x, a->groups[i].set, m, s->n_kv) + GAP;
    page_print(p);
    for (int i = 0; i < a->n_groups; i++) {
        const Group *g = &a->groups[i];
        char set[16];
        const int x = page_put(p, 0, i, STRONG, "%-4s ", letters_of(g->set, "", set));
        page_put(p, x, i, PLAIN, "W %dx%dx%dx%d  ~  G %dx%dx%dx%d x1 U_embd%s%s", (int)s->d, (int)s->hd,
                 (int)g->kinds, (int)s->n_kv, (int)g->r_embd, (int)g->r_head, (int)g->r_kind, (int)s->n_kv,
                 g->head.rows ? " x2 U_head" : "", g->kind.rows ? " x3 U_kind" : "");
    }
    page_print(p);
    bool whole = false, mixed = false;
    for (int i = 0; i < a->n_groups; i++) *(a->groups[i].kind.rows ? &mixed : &whole) = true;
    if (whole)
        page_say(p, FAINT, "Where r_kind = kinds, U_kind is multiplied into G: cores M^Q, M^K, M^V, M^O.");
    if (mixed)
        page_say(p, FAINT, "Where r_kind < kinds, G stays: r_kind slices meet z, then U_kind mixes them.");
    page_say(p, PLAIN, "%s", "");
}

// --------------------------------------------------------------------------------------------------

static void print_pieces(Page *p, const Attention *a) {
    Piece dense[MAX_PIECES], stored[MAX_PIECES];
    const int n_dense = dense_pieces(a, dense), n = stored_pieces(a, stored);
    const int64_t unit = unit_of(dense, n_dense);
    char what[16];
    int set = 0;
    for (int i = 0; i < a->n_groups; i++) set |= a->groups[i].set;
    const int left = ~set & (HAS_Q | HAS_K | HAS_V | HAS_O);

    heading(p, set ? "1. The matrices, and what stands in their place" : "1. The matrices");
    page_say(p, PLAIN, "y = W x. A column here is %d number%s, a line %d; areas are parameters.", (int)unit,
             unit > 1 ? "s" : "", (int)(2 * unit));
    draw(p, dense, n_dense, unit);
    if (!set) {
        page_say(p, PLAIN, "This layer is dense: no factors stand in the place of its matrices.");
        table(p, dense, n_dense, 0);
        return;
    }
    draw_tensors(p, a);
    page_say(p, PLAIN, "In their place, at the same scale%s%s:", left ? "; dense stays: " : "",
             left ? letters_of(left, ", ", what) : "");
    draw(p, stored, n, unit);
    table(p, stored, n, (double)dense_params(&a->shape, HAS_Q | HAS_K | HAS_V | HAS_O));
}

// A factored layer in the middle of those that are, else the first.
static int64_t usual_layer(const Model *m) {
    int64_t factored = 0;
    for (int64_t l = 0; l < m->config.n_layers; l++) factored += m->layer[l].attn.n_groups > 0;
    for (int64_t l = 0, i = 0; l < m->config.n_layers; l++)
        if (m->layer[l].attn.n_groups && i++ == factored / 2) return l;
    return 0;
}

int tool_explain(const Loaded *l, int64_t layer, const char *text, SessionConfig c, Err *e) {
    const Model *m = l->model;
    const Config *config = &m->config;
    Session s = {0};
    Page page, *p = &page;
    Text ids = {0};
    char scheme[16];
    int status = -1;
    if (layer >= config->n_layers)
        return fail(e, "--layer %lld: %s has layers 0 .. %lld", (long long)layer, l->path,
                    (long long)config->n_layers - 1);
    if (c.context > config->context)
        return fail(e, "-c %lld: the model was trained for %lld positions", (long long)c.context,
                    (long long)config->context);
    if (layer < 0) layer = usual_layer(m);
    const Attention *a = &m->layer[layer].attn;
    const int64_t context = c.context ? c.context : config->context;
    if (text && read_ids(l, text, strlen(text), &ids, e)) return -1;
    if (ids.n > context) {
        fail(e, "the text has %lld tokens, the context %lld positions (-c)", (long long)ids.n,
             (long long)context);
        goto done;
    }
    c.context = c.batch = 1;                       // its caches say what this run would choose
    if (session_init(&s, m, c, e)) goto done;

    page_init(p);
    page_word(p, 0, 0, 40, STRONG, path_name(l->path));
    page_right(p, PAGE_WIDTH, 0, STRONG, "layer %lld of 0 .. %lld, %s", (long long)layer,
               (long long)config->n_layers - 1, scheme_of(a, scheme));
    page_put(p, 0, 1, PLAIN, "%s, %s: d %lld, h %lld query heads, n_kv %lld KV heads, hd %lld", config->arch,
             config->encoder ? "encoder" : "decoder", (long long)config->d, (long long)config->h,
             (long long)config->n_kv, (long long)config->hd);
    page_print(p);
    print_pieces(p, a);
    print_path(p, m, layer, &s, context);
    status = text ? print_trace(p, l, layer, ids, e) : 0;
done:
    session_free(&s);
    free(ids.ids);
    return status;
}
