// plan: from options and a source to the list of the output's tensors and its metadata. Reads no
// weights. Owns the list and the index.
#include "plan.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const char letters[] = "qkvo";

// Adds a line to the notes, once.
static void note(Plan *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void note(Plan *p, const char *fmt, ...) {
    char line[256];
    va_list args;
    va_start(args, fmt);
    strcpy(line, "note: ");
    vsnprintf(line + 6, sizeof line - 7, fmt, args);
    va_end(args);
    strcat(line, "\n");
    size_t used = strlen(p->notes);
    if (!strstr(p->notes, line)) snprintf(p->notes + used, sizeof p->notes - used, "%s", line);
}

// ---- what was asked -----------------------------------------------------------------------------

static int by_first_letter(const void *a, const void *b) {
    int x = ((const GroupPlan *)a)->set, y = ((const GroupPlan *)b)->set;
    return (x & -x) - (y & -y);
}

// "qkv+o": groups of letters, none twice, at least one; projections left out stay dense.
static int parse_scheme(const char *text, LayerPlan *l, Err *e) {
    int seen = 0, set = 0;
    l->n_groups = 0;
    for (const char *c = text;; c++) {
        const char *at = *c ? strchr(letters, *c) : NULL;
        int bit = at ? 1 << (at - letters) : 0;
        if ((!at && *c && *c != '+') || (!at && !set) || seen & bit)
            return fail(e, "--scheme %.20s: expected groups of q, k, v, o, each once, such as "
                           "qkvo, qkv+o or qk", text);
        seen |= bit;
        set |= bit;
        if (at) continue;
        l->group[l->n_groups++].set = set;
        set = 0;
        if (!*c) break;
    }
    qsort(l->group, (size_t)l->n_groups, sizeof *l->group, by_first_letter);
    return 0;
}

// "all", or numbers and ranges: 7,8,20-25. chosen (n)
static int parse_layers(const char *text, int n, bool *chosen, Err *e) {
    bool all = strcmp(text, "all") == 0;
    for (int i = 0; i < n; i++) chosen[i] = all;
    while (!all) {
        char *end;
        long from = strtol(text, &end, 10), to = from;
        bool ok = end > text && *text >= '0' && *text <= '9';
        if (ok && *end == '-') {
            text = end + 1;
            to = strtol(text, &end, 10);
            ok = end > text && *text >= '0' && *text <= '9';
        }
        if (!ok || (*end && *end != ','))
            return fail(e, "--layers: expected all, or numbers and ranges such as 7,8,20-25");
        if (from > to || to >= n)
            return fail(e, "--layers: %ld-%ld is no range within layers 0-%d", from, to, n - 1);
        for (long i = from; i <= to; i++) chosen[i] = true;
        if (!*end) break;
        text = end + 1;
    }
    return 0;
}

// ---- ranks --------------------------------------------------------------------------------------

static bool blocks(int type) { return type_info(type)->block > 1; }

// Type of a group's factors: the one asked for, else that of the first matrix it replaces, so that a
// file shrinks with its ranks; Q8_0 for a quantised type that the engine cannot write.
static int group_type(const Plan *p, int layer, int set) {
    const Mat *w = p->model->layer[layer].attn.w;
    int type = -1;
    if (p->o.type >= 0) return p->o.type;
    for (int q = P_Q; q <= P_O; q++) {
        if (!(set & 1 << q)) continue;
        if (type < 0) type = type_info(w[q].type)->native ? w[q].type : T_Q8_0;
    }
    return type;
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static void choose_ranks(Plan *p, int layer, GroupPlan *g) {
    static const char *const names[] = {"r_embd", "r_head", "r_kind"};
    const AttnShape *s = p->shape;
    int64_t kinds = group_kinds(g->set, s->h / s->n_kv), *r = g->rank;
    int64_t full[3] = {s->d, s->hd, kinds};
    for (int i = HEAD; i <= KIND; i++) r[i] = p->o.rank[i] ? least(p->o.rank[i], full[i]) : full[i];
    full[EMBD] = least(s->d, r[HEAD] * r[KIND] * s->n_kv);  // W then has no more rank
    for (int i = EMBD; i <= KIND; i++)
        if (p->o.rank[i] > full[i])
            note(p, "%s %lld is more than there is, %lld is used", names[i],
                 (long long)p->o.rank[i], (long long)full[i]);
    if (p->o.rank[EMBD]) {
        r[EMBD] = least(p->o.rank[EMBD], full[EMBD]);
        int64_t factors = group_params(s, g->set, r[EMBD], r[HEAD], r[KIND]);
        if (factors > dense_params(s, g->set))
            note(p, "ranks %lld,%lld,%lld: %lld parameters for %lld dense ones", (long long)r[EMBD],
                 (long long)r[HEAD], (long long)r[KIND], (long long)factors,
                 (long long)dense_params(s, g->set));
        return;
    }
    int64_t unit = group_params(s, g->set, 1, r[HEAD], r[KIND]), step = 1;
    r[EMBD] = least(full[EMBD], (int64_t)(p->o.keep * (double)dense_params(s, g->set)) / unit);
    if (p->o.keep >= 1) r[EMBD] = full[EMBD];
    else if (blocks(group_type(p, layer, g->set))) step = 32;
    r[EMBD] -= r[EMBD] % step;
    if (r[EMBD] < step) r[EMBD] = least(step, full[EMBD]);
}

void scheme_text(const LayerPlan *l, char text[8]) {
    char *end = text;
    for (int i = 0; i < l->n_groups; i++) {
        if (i) *end++ = '+';
        for (int p = P_Q; p <= P_O; p++)
            if (l->group[i].set & 1 << p) *end++ = letters[p];
    }
    *end = 0;
}

// ---- tensors ------------------------------------------------------------------------------------

size_t item_bytes(const Item *i) {
    size_t row = 0;
    row_size(i->type, i->n_dims == 1 ? i->rows : i->cols, &row);
    return i->n_dims == 1 ? row : (size_t)i->rows * row;
}

// The type a matrix is stored in where `wanted` was asked: F16 when its rows are no whole blocks.
static int fitting(Plan *p, int wanted, int64_t cols) {
    if (cols % type_info(wanted)->block == 0) return wanted;
    note(p, "rows of %lld numbers are no whole blocks of %s: such tensors are stored as f16",
         (long long)cols, type_info(wanted)->name);
    return T_F16;
}

static int add_item(Plan *p, Item i, Err *e) {
    if (strlen(i.name) >= GGUF_MAX_NAME - 1) return fail(e, "tensor %s: name too long", i.name);
    p->item[p->n_items++] = i;
    int64_t ne[GGUF_MAX_DIMS] = {i.cols, i.rows, 1, 1};
    if (i.n_dims == 1) ne[0] = i.rows, ne[1] = 1;
    gguf_add(p->b, i.name, i.type, i.n_dims, ne, NULL);
    return 0;
}

static int add_copy(Plan *p, const GgufTensor *t, int layer, const char *part, Err *e) {
    static const char *const rotated[] = {"attn_q.weight", "attn_k.weight", "attn_q.bias",
                                          "attn_k.bias", "attn_q_norm.weight",
                                          "attn_k_norm.weight"};
    Item i = {.src = t, .type = t->type, .n_dims = t->n_dims, .layer = layer,
              .rows = t->n_dims == 1 ? t->ne[0] : t->ne[1], .cols = t->n_dims == 1 ? 1 : t->ne[0]};
    if (t->n_dims > 2)
        return fail(e, "tensor %.*s has %d dimensions", (int)t->name.n, t->name.s, t->n_dims);
    snprintf(i.name, sizeof i.name, "%.*s", (int)t->name.n, t->name.s);
    if (i.n_dims == 2 && p->o.type >= 0) i.type = fitting(p, p->o.type, i.cols);
    for (size_t k = 0; k < sizeof rotated / sizeof *rotated; k++)
        if (layer >= 0 && strcmp(part, rotated[k]) == 0) i.reorder = p->reorder;
    return add_item(p, i, e);
}

static int add_factors(Plan *p, int layer, Err *e) {
    static const char *const part_name[] = {"embd", "head", "kind", "core"};
    const LayerPlan *l = &p->layer[layer];
    for (int k = 0; k < l->n_groups; k++) {
        const GroupPlan *g = &l->group[k];
        char set[8];
        scheme_text(&(LayerPlan){.group = {*g}, .n_groups = 1}, set);
        for (int part = 0; part < N_PARTS; part++) {
            Item i = {.n_dims = 2, .layer = layer, .group = k, .part = part, .type = T_F32};
            if (!part_shape(p->shape, g, part, &i.rows, &i.cols)) continue;
            if (part < PART_CORE)
                snprintf(i.name, sizeof i.name, "blk.%d.attn_tucker_%s_%s.weight", layer, set,
                         part_name[part]);
            else
                snprintf(i.name, sizeof i.name, "blk.%d.attn_tucker_%c_core.weight", layer,
                         letters[part - PART_CORE]);
            if (part != PART_HEAD && part != PART_KIND)
                i.type = fitting(p, group_type(p, layer, g->set), i.cols);
            if (add_item(p, i, e)) return -1;
        }
    }
    return 0;
}

static const char *const dense_name[] = {"attn_q.weight", "attn_k.weight", "attn_v.weight",
                                         "attn_output.weight"};

// The dense matrices of a factored layer of the source.
static int add_rebuilt(Plan *p, int layer, Err *e) {
    const Attention *a = &p->model->layer[layer].attn;
    for (int q = P_Q; q <= P_O; q++) {
        if (a->group_of[q] < 0) continue;
        const Group *g = &a->groups[a->group_of[q]];
        Item i = {.n_dims = 2, .layer = layer, .group = a->group_of[q], .part = PART_CORE + q,
                  .reorder = p->reorder && q <= P_K};
        projection_shape(p->shape, q, &i.rows, &i.cols);
        snprintf(i.name, sizeof i.name, "blk.%d.%s", layer, dense_name[q]);
        int type = g->kind.rows ? g->core.type : a->w[q].type;
        i.type = fitting(p, p->o.type >= 0 ? p->o.type : blocks(type) ? T_Q8_0 : type, i.cols);
        if (add_item(p, i, e)) return -1;
    }
    return 0;
}

// The layer of "blk.N.part", -1 for other names; *part points behind the dot.
static int layer_of(const char *name, const char **part) {
    char *end;
    if (strncmp(name, "blk.", 4)) return -1;
    long n = strtol(name + 4, &end, 10);
    *part = *end == '.' ? end + 1 : end;
    return n >= 0 && n < 1 << 20 ? (int)n : -1;
}

// All tensors of one layer (or, layer = -1, of none) in the source's order; where matrices are
// replaced, what replaces them comes in the place of the first.
static int add_layer(Plan *p, int layer, const int *layer_of_tensor, Err *e) {
    const Gguf *g = &p->source->g;
    bool replaced = false;
    for (uint64_t t = 0; t < g->n_tensors; t++) {
        char name[GGUF_MAX_NAME + 1];
        const char *part = name;
        if (layer_of_tensor[t] != layer) continue;
        snprintf(name, sizeof name, "%.*s", (int)g->tensor[t].name.n, g->tensor[t].name.s);
        layer_of(name, &part);
        bool factor = strncmp(part, "attn_tucker_", 12) == 0;      // only there when rebuilding
        for (int k = 0; layer >= 0 && k < p->layer[layer].n_groups; k++)
            for (int q = P_Q; q <= P_O; q++)
                factor |= p->layer[layer].group[k].set & 1 << q && strcmp(part, dense_name[q]) == 0;
        if (!factor && add_copy(p, &g->tensor[t], layer, part, e)) return -1;
        if (!factor || replaced) continue;
        replaced = true;
        if (p->o.rebuild ? add_rebuilt(p, layer, e) : add_factors(p, layer, e)) return -1;
    }
    return 0;
}

static int add_tensors(Plan *p, Err *e) {
    const Gguf *g = &p->source->g;
    p->item = alloc(g->n_tensors + (size_t)p->n_layers * 4 * N_PARTS, sizeof *p->item, "plan", e);
    int *layer = alloc(g->n_tensors, sizeof *layer, "plan", e), result = p->item && layer ? 0 : -1;
    for (uint64_t t = 0; t < g->n_tensors && !result; t++) {
        char name[GGUF_MAX_NAME + 1];
        const char *part;
        snprintf(name, sizeof name, "%.*s", (int)g->tensor[t].name.n, g->tensor[t].name.s);
        layer[t] = layer_of(name, &part);
    }
    for (int i = -1; i < p->n_layers && !result; i++) result = add_layer(p, i, layer, e);
    free(layer);
    return result;
}

// ---- metadata -----------------------------------------------------------------------------------

static bool begins(Str s, const char *text) {
    return s.n >= strlen(text) && memcmp(s.s, text, strlen(text)) == 0;
}

static void copy_metadata(Plan *p) {
    // llama.cpp's number for "mostly this type"
    static const struct { int type, file; } file_type[] = {
        {T_F32, 0}, {T_F16, 1}, {T_Q4_0, 2}, {T_Q4_1, 3}, {T_Q8_0, 7}, {T_BF16, 32}};
    const Gguf *g = &p->source->g;
    for (uint64_t i = 0; i < g->n_kv; i++)
        if ((!begins(g->kv[i].key, "tucker.") || begins(g->kv[i].key, "tucker.tokenizer.")) &&
            !str_is(g->kv[i].key, "general.alignment"))
            gguf_set_copy(p->b, &g->kv[i]);
    for (size_t i = 0; i < sizeof file_type / sizeof *file_type; i++)
        if (file_type[i].type == p->o.type)
            gguf_set_int(p->b, "general.file_type", GGUF_U32, file_type[i].file);
    for (size_t i = 0; i < p->n_items; i++)
        if (blocks(p->item[i].type))
            gguf_set_int(p->b, "general.quantization_version", GGUF_U32, 2);
}

// The keys that make the file a .tbin. tucker.error is patched when the errors are known.
static int set_tucker(Plan *p, Err *e) {
    const char *path = p->o.source;
    size_t n = strlen(path), from;
    while (n > 1 && path[n - 1] == '/') n--;
    for (from = n; from && path[from - 1] != '/';) from--;
    gguf_set_int(p->b, "tucker.version", GGUF_U32, 1);
    gguf_set_str(p->b, "tucker.rope_pairs", "half", 4);
    gguf_set_str(p->b, "tucker.method", p->o.sweeps ? "hooi" : "hosvd", p->o.sweeps ? 4 : 5);
    gguf_set_str(p->b, "tucker.source.name", path + from, n - from);
    gguf_set_str(p->b, "tucker.source.sha256", p->source->sha256, 64);

    size_t layers = (size_t)p->n_layers;
    char (*text)[8] = alloc(layers, sizeof *text, "plan", e);
    Str *scheme = alloc(layers, sizeof *scheme, "plan", e);
    int32_t *ranks = alloc(layers, 12 * sizeof *ranks, "plan", e);
    float *error = alloc(layers, 4 * sizeof *error, "plan", e);
    bool ok = text && scheme && ranks && error;
    for (size_t i = 0; i < layers && ok; i++) {
        const LayerPlan *l = &p->layer[i];
        scheme_text(l, text[i]);
        scheme[i] = (Str){text[i], strlen(text[i])};
        for (int k = 0; k < l->n_groups; k++)
            for (int q = P_Q; q <= P_O; q++)
                for (int r = 0; r < 3 && l->group[k].set & 1 << q; r++)
                    ranks[12 * i + 3 * (size_t)q + (size_t)r] = (int32_t)l->group[k].rank[r];
    }
    if (ok) {
        gguf_set_strings(p->b, "tucker.scheme", scheme, layers);
        gguf_set_array(p->b, "tucker.ranks", GGUF_I32, ranks, 12 * layers);
        gguf_set_array(p->b, "tucker.error", GGUF_F32, error, 4 * layers);
    }
    free(text);
    free(scheme);
    free(ranks);
    free(error);
    return ok ? 0 : -1;
}

// ---- all of it ----------------------------------------------------------------------------------

static int make(Plan *p, Err *e) {
    const Config *c = &p->model->config;
    bool factors = !p->o.dense && !p->o.rebuild;
    p->to_half = factors || strcmp(c->arch, "llama") != 0;      // as a GGUF of that family has them
    p->reorder = c->rope_half != p->to_half;
    p->b = gguf_builder(e);
    p->layer = alloc((size_t)p->n_layers, sizeof *p->layer, "plan", e);
    bool *chosen = alloc((size_t)p->n_layers, sizeof *chosen, "plan", e);
    LayerPlan l = {0};
    int result = -1;
    if (!p->b || !p->layer || !chosen || (factors && parse_scheme(p->o.scheme, &l, e)) ||
        parse_layers(factors ? p->o.layers : "all", p->n_layers, chosen, e)) goto done;
    for (int i = 0; i < p->n_layers; i++) {
        if (!chosen[i] || !factors) continue;
        p->layer[i] = l;
        for (int k = 0; k < l.n_groups; k++) choose_ranks(p, i, &p->layer[i].group[k]);
    }
    if (add_tensors(p, e)) goto done;
    copy_metadata(p);
    result = factors ? set_tucker(p, e) : 0;
done:
    free(chosen);
    return result;
}

int plan_make(Plan *p, const Options *o, const Source *s, const Model *m, Err *e) {
    *p = (Plan){.o = *o, .source = s, .model = m, .shape = &m->layer[0].attn.shape,
                .n_layers = (int)m->config.n_layers};
    if (o->rebuild && !m->config.tucker)
        return fail(e, "%s: no factors to multiply back (--rebuild takes a .tbin)", o->source);
    if (!o->rebuild && m->config.tucker)
        return fail(e, "%s: is factored already (--rebuild makes a dense file of it first)",
                    o->source);
    if (o->tokenizer && strcmp(s->kind, "gguf") == 0)
        note(p, "a GGUF holds its own tokenizer, %s is not read", o->tokenizer);
    if (make(p, e) == 0) return 0;
    plan_free(p);
    return -1;
}

void plan_free(Plan *p) {
    gguf_builder_free(p->b);
    free(p->layer);
    free(p->item);
    *p = (Plan){0};
}
