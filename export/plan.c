// plan: from options and a source to the list of the output's tensors and its metadata. Reads no
// weights. Owns the list and the index.
#include "compress.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const char letters[] = "qkvo";

// Adds a line to the notes, once.
static void note(Plan *p, const char *fmt, ...) PRINTF_LIKE(2, 3);
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

void groups_sort(LayerPlan *l) {
    qsort(l->group, (size_t)l->n_groups, sizeof *l->group, by_first_letter);
}

int scheme_parse(const char *text, LayerPlan *l, Err *e) {
    int seen = 0, set = 0;
    l->n_groups = 0;
    if (strcmp(text, "none") == 0) return 0;
    for (const char *c = text;; c++) {
        const char *at = *c ? strchr(letters, *c) : NULL;
        int bit = at ? 1 << (at - letters) : 0;
        if ((!at && *c && *c != '+') || (!at && !set) || seen & bit)
            return fail(e, "--scheme %.20s: expected groups of q, k, v, o, each once, such as "
                           "qkvo, qkv+o or qk; or none", text);
        seen |= bit;
        set |= bit;
        if (at) continue;
        l->group[l->n_groups++].set = set;
        set = 0;
        if (!*c) break;
    }
    groups_sort(l);
    return 0;
}

int layers_parse(const char *flag, const char *text, int n, bool *chosen, Err *e) {
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
            return fail(e, "%s: expected all, or numbers and ranges such as 7,8,20-25", flag);
        if (from > to || to >= n)
            return fail(e, "%s: %ld-%ld is no range within layers 0-%d", flag, from, to, n - 1);
        for (long i = from; i <= to; i++) chosen[i] = true;
        if (!*end) break;
        text = end + 1;
    }
    return 0;
}

bool ffn_open(const Options *o) { return o->ffn && strcmp(o->ffn, "auto") == 0; }

static const char *const ffn_name[] = {"gate", "up", "down"};

// "gate:27:0.01,up:20-25:0.5": matrix, layers, part of the full rank that stays.
static int parse_ffn(Plan *p, Err *e) {
    static const char wanted[] = "auto, or such as gate:27:0.01,up:20-25:0.5";
    bool *chosen = alloc((size_t)p->n_layers, sizeof *chosen, "plan", e);
    char *text = alloc(strlen(p->o.ffn) + 1, 1, "plan", e), *save = NULL;
    int result = chosen && text ? 0 : -1;
    if (!result) strcpy(text, p->o.ffn);
    for (char *one = text ? strtok_r(text, ",", &save) : NULL; one && !result;
         one = strtok_r(NULL, ",", &save)) {
        char *layers = strchr(one, ':'), *part = layers ? strchr(layers + 1, ':') : NULL, *end = NULL;
        double rho = part ? strtod(part + 1, &end) : 0;
        int m = 0;
        if (!part || end == part + 1 || *end || !(rho > 0 && rho < 1)) {
            result = fail(e, "--ffn %.40s: expected %s", p->o.ffn, wanted);
            break;
        }
        *layers = *part = 0;
        while (m < N_FFN && strcmp(one, ffn_name[m])) m++;
        if (m == F_GATE && !p->model->config.gated)
            result = fail(e, "--ffn %.40s: architecture %s has no gate", p->o.ffn, p->model->config.arch);
        else if (m == N_FFN) result = fail(e, "--ffn %.40s: expected %s", p->o.ffn, wanted);
        else result = layers_parse("--ffn", layers + 1, p->n_layers, chosen, e);
        const Config *c = &p->model->config;
        int64_t full = c->d < c->f ? c->d : c->f, r = llround(rho * (double)full);
        for (int i = 0; i < p->n_layers && !result; i++)
            if (chosen[i]) p->layer[i].ffn[m] = r > 1 ? r : 1;
    }
    int named = 0;
    for (int i = 0; i < p->n_layers; i++)
        for (int m = 0; m < N_FFN; m++) named += p->layer[i].ffn[m] > 0;
    if (!result && !named) result = fail(e, "--ffn: nothing named");
    free(chosen);
    free(text);
    return result;
}

// ---- ranks --------------------------------------------------------------------------------------

static bool blocks(int type) { return type_info(type)->block > 1; }

int factor_type(const Options *o, int type) {
    const bool four_bits = type == T_Q4_0 || type == T_Q4_1;
    if (o->type >= 0) return o->type;
    return !type_info(type)->native || (four_bits && o->method >= METHOD_INPUT) ? T_Q8_0 : type;
}

// Type of a group's factors: by the first matrix it replaces.
static int group_type(const Plan *p, int layer, int set) {
    int q = P_Q;
    while (!(set & 1 << q)) q++;
    return factor_type(&p->o, p->model->layer[layer].attn.w[q].type);
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
    const int64_t least_rank = least(step, full[EMBD]);
    const char *type = type_info(group_type(p, layer, g->set))->name;
    if (r[EMBD] < least_rank)
        note(p, "r_embd is at least %lld in %s: more stays than was asked for", (long long)least_rank, type);
    else if (r[EMBD] % step)
        note(p, "r_embd is a multiple of %lld in %s: less stays than was asked for", (long long)step, type);
    r[EMBD] = r[EMBD] < least_rank ? least_rank : r[EMBD] - r[EMBD] % step;
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

int type_for_rows(int wanted, int64_t cols) { return cols % type_info(wanted)->block ? T_F16 : wanted; }

// That, and a note where it is another.
static int fitting(Plan *p, int wanted, int64_t cols) {
    const int type = type_for_rows(wanted, cols);
    if (type != wanted)
        note(p, "rows of %lld numbers are no whole blocks of %s: such tensors are stored as f16",
             (long long)cols, type_info(wanted)->name);
    return type;
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
    if (layer >= 0 && p->weighted && p->weighted->down && p->weighted->down[layer] &&
        strcmp(part, "ffn_down.weight") == 0) {
        i.src = NULL;
        i.part = PART_REFIT;
        i.type = fitting(p, factor_type(&p->o, t->type), i.cols);
    }
    i.stack = layer < 0 ? 0 : 1 + stack_of(p->stack, p->n_stacks, p->model, layer, part);
    if (i.stack) {
        i.src = NULL;
        i.type = fitting(p, factor_type(&p->o, t->type), i.cols);
    }
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
        Item pivot = {.n_dims = 1, .layer = layer, .group = k, .part = PART_PIVOT, .type = T_I32,
                      .rows = g->rank[EMBD], .cols = 1};
        snprintf(pivot.name, sizeof pivot.name, "blk.%d.attn_tucker_%s_pivot", layer, set);
        if (g->pivoted && add_item(p, pivot, e)) return -1;
    }
    return 0;
}

// B A in place of a matrix W (rows, cols) of the feed-forward.
static int add_ffn(Plan *p, int layer, int matrix, const GgufTensor *w, Err *e) {
    const int64_t r = p->layer[layer].ffn[matrix], cols = w->ne[0], rows = w->ne[1];
    const int type = factor_type(&p->o, w->type), part = PART_FFN + 2 * matrix;
    Item a = {.n_dims = 2, .layer = layer, .part = part, .rows = r, .cols = cols};
    Item b = {.n_dims = 2, .layer = layer, .part = part + 1, .rows = rows, .cols = r};
    a.type = fitting(p, type, a.cols);
    b.type = fitting(p, type, b.cols);
    snprintf(a.name, sizeof a.name, "blk.%d.ffn_%s_laser_in.weight", layer, ffn_name[matrix]);
    snprintf(b.name, sizeof b.name, "blk.%d.ffn_%s_laser_out.weight", layer, ffn_name[matrix]);
    return add_item(p, a, e) || add_item(p, b, e) ? -1 : 0;
}

static const char *const dense_name[] = {"attn_q.weight", "attn_k.weight", "attn_v.weight",
                                         "attn_output.weight"};

// A product of rounded factors is rounded once more: finely, unless asked otherwise.
static int rebuilt_type(const Plan *p, int type) {
    return p->o.type >= 0 ? p->o.type : blocks(type) ? T_Q8_0 : type;
}

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
        i.type = fitting(p, rebuilt_type(p, type), i.cols);
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

// "ffn_gate.weight" of F_GATE, with "_laser_in" behind gate for that factor; -1: another tensor.
static int ffn_of(const char *part, const char *factor) {
    for (int i = 0; i < N_FFN; i++) {
        char name[48];
        snprintf(name, sizeof name, "ffn_%s%s.weight", ffn_name[i], factor);
        if (strcmp(part, name) == 0) return i;
    }
    return -1;
}

// A dense matrix of the feed-forward in place of its two factors in the source.
static int add_rebuilt_ffn(Plan *p, int layer, int matrix, Err *e) {
    const Layer *l = &p->model->layer[layer];
    const LaserMat *w = matrix == F_GATE ? &l->gate : matrix == F_UP ? &l->up : &l->down;
    Item i = {.n_dims = 2, .layer = layer, .part = PART_FFN + 2 * matrix, .rows = w->w.rows,
              .cols = w->a.cols};
    snprintf(i.name, sizeof i.name, "blk.%d.ffn_%s.weight", layer, ffn_name[matrix]);
    i.type = fitting(p, rebuilt_type(p, w->w.type), i.cols);
    return add_item(p, i, e);
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
        if (!p->o.dense && strncmp(part, "attn_qkv.", 9) == 0)
            return fail(e, "tensor %s: Q, K and V in one tensor have to be taken apart first", name);
        bool factor = strncmp(part, "attn_tucker_", 12) == 0;      // only there when rebuilding
        for (int k = 0; layer >= 0 && k < p->layer[layer].n_groups; k++)
            for (int q = P_Q; q <= P_O; q++)
                factor |= p->layer[layer].group[k].set & 1 << q && strcmp(part, dense_name[q]) == 0;
        const int matrix = layer < 0 ? -1 : ffn_of(part, ""), in = ffn_of(part, "_laser_in");
        if (matrix >= 0 && p->layer[layer].ffn[matrix]) {
            if (add_ffn(p, layer, matrix, &g->tensor[t], e)) return -1;
            continue;
        }
        if (in >= 0 && add_rebuilt_ffn(p, layer, in, e)) return -1;
        if (in >= 0 || ffn_of(part, "_laser_out") >= 0) continue;         // only there when rebuilding
        if (!factor && add_copy(p, &g->tensor[t], layer, part, e)) return -1;
        if (!factor || replaced) continue;
        replaced = true;
        if (p->o.rebuild ? add_rebuilt(p, layer, e) : add_factors(p, layer, e)) return -1;
    }
    return 0;
}

static int add_tensors(Plan *p, Err *e) {
    const Gguf *g = &p->source->g;
    const size_t most = 4 * (N_PARTS + 1) + 2 * N_FFN;         // tensors that a layer can gain
    p->item = alloc(g->n_tensors + (size_t)p->n_layers * most, sizeof *p->item, "plan", e);
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
        if ((!begins(g->kv[i].key, "tucker.") || begins(g->kv[i].key, "tucker.tokenizer.") ||
             str_is(g->kv[i].key, "tucker.activation")) &&
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
    while (n > 1 && is_separator(path[n - 1])) n--;
    for (from = n; from && !is_separator(path[from - 1]);) from--;
    gguf_set_int(p->b, "tucker.version", GGUF_U32, 1);
    const char *pairs = p->to_half ? "half" : "interleaved", *method = method_name(p->o.method);
    gguf_set_str(p->b, "tucker.rope_pairs", pairs, strlen(pairs));
    gguf_set_str(p->b, "tucker.method", method, strlen(method));
    if (p->weighted && p->weighted->text)
        gguf_set_str(p->b, "tucker.calibration.sha256", p->weighted->text->sha256, 64);
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

// Ranks of plain Tucker: the same scheme and budget for every chosen layer.
static int plain_ranks(Plan *p, Err *e) {
    bool *chosen = alloc((size_t)p->n_layers, sizeof *chosen, "plan", e);
    LayerPlan l = {0};
    int result = -1;
    if (chosen && !scheme_parse(p->o.scheme ? p->o.scheme : "qkvo", &l, e) &&
        !layers_parse("--layers", p->o.layers, p->n_layers, chosen, e)) result = 0;
    for (int i = 0; i < p->n_layers && !result; i++) {
        if (!chosen[i]) continue;
        p->layer[i] = l;
        for (int k = 0; k < l.n_groups; k++) choose_ranks(p, i, &p->layer[i].group[k]);
    }
    free(chosen);
    return result;
}

// `--size` is spent on what may be factored once it is known what all else takes: as far as it goes, before.
static int weighted_ranks(Plan *p, Err *e) {
    Budget b = {p->o.keep, p->o.size, p->rest, p->o.loss, p->o.rank[EMBD]};
    RankTotal spent;
    if (b.size > 0 && !b.rest) b.size = 1e18;
    if (compression_ranks(p->weighted, b, p->layer, &spent, e)) return -1;
    p->predicted = spent.loss, p->spent = spent.cost;
    for (int l = 0; l < p->n_layers && b.rank; l++) {
        const LayerPlan *layer = &p->layer[l];
        int set = 0;
        for (int k = 0; k < layer->n_groups; k++) {
            const int64_t rank = layer->group[k].rank[EMBD];
            set |= layer->group[k].set;
            if (rank != b.rank)
                note(p, "rank %lld in place of %lld: multiples of 32 in blocks, and no more than saves "
                     "anything", (long long)rank, (long long)b.rank);
        }
        if (p->weighted->chosen[l] && !p->o.scheme && set != (HAS_Q | HAS_K | HAS_V | HAS_O))
            note(p, "without --scheme V stays dense at --rank, and what rank %lld would not make smaller",
                 (long long)b.rank);
    }
    return 0;
}

// A matrix is replaced by factors or by what TRAWL makes of it, not both.
static int stacks_are_apart(const Plan *p, Err *e) {
    for (int i = 0; i < p->n_stacks; i++)
        for (int l = p->stack[i].first; l <= p->stack[i].last; l++) {
            const LayerPlan *f = &p->layer[l];
            if (p->stack[i].attn ? f->n_groups : f->ffn[F_GATE] || f->ffn[F_UP] || f->ffn[F_DOWN])
                return fail(e, "--trawl: the %s of layer %d is factored as well (--scheme none?)",
                            p->stack[i].attn ? "attention" : "feed-forward", l);
        }
    return 0;
}

static bool by_data(const Plan *p) { return p->o.method >= METHOD_INPUT; }

static int make(Plan *p, Err *e) {
    const Config *c = &p->model->config;
    const bool factors = !p->o.dense && !p->o.rebuild;
    // Rows of Q and K are brought to the order that GGUF files of the family have, or, where they
    // share a U_head with V, to the one in which V stands: that of training, which GGUF changed for
    // llama only. Weighted factors follow the source; learned positions have no pairs.
    const bool trained_half = strcmp(c->arch, "gptj") != 0;
    p->to_half = !c->rope_dims || (factors && by_data(p)) ? c->rope_half
               : trained_half && (factors || strcmp(c->arch, "llama") != 0);
    p->reorder = c->rope_half != p->to_half;
    p->b = gguf_builder(e);
    p->layer = alloc((size_t)p->n_layers, sizeof *p->layer, "plan", e);
    if (!p->b || !p->layer) return -1;
    if (factors && (by_data(p) ? weighted_ranks(p, e) : plain_ranks(p, e))) return -1;
    if (factors && p->o.ffn && !ffn_open(&p->o) && parse_ffn(p, e)) return -1;
    if (p->o.trawl && stacks_parse(p->o.trawl, p->model, &p->stack, &p->n_stacks, e)) return -1;
    if (stacks_are_apart(p, e) || add_tensors(p, e)) return -1;
    copy_metadata(p);
    return factors ? set_tucker(p, e) : 0;
}

static void unmake(Plan *p) {
    gguf_builder_free(p->b);
    free(p->layer);
    free(p->item);
    stacks_free(p->stack, p->n_stacks);
    p->stack = NULL, p->n_stacks = 0;
    p->b = NULL, p->layer = NULL, p->item = NULL, p->n_items = 0;
}

// `--size` counts everything, also an index whose size depends on what was chosen: planned again
// with what the last plan showed, until the file fits. The first one is dense.
static int make_sized(Plan *p, Err *e) {
    for (int i = 0;; i++) {
        if (make(p, e)) return -1;
        if (p->o.size <= 0) return 0;
        const double bytes = (double)gguf_size(p->b, e);
        if (!bytes) return -1;
        if (bytes <= p->o.size) return 0;
        if (i == 8) return fail(e, "--size: %.0f bytes are needed, %.0f were asked for", bytes, p->o.size);
        p->rest = bytes - p->spent;
        unmake(p);
    }
}

const char *method_name(Method m) {
    static const char *const names[] = {"hosvd", "hooi", "input", "kl", "fisher"};
    return names[m];
}

int plan_check(const Options *o, const Source *s, const Model *m, Err *e) {
    Plan p = {.o = *o, .source = s, .model = m, .n_layers = (int)m->config.n_layers};
    LayerPlan l = {0};
    int result = -1;
    if (o->rebuild && !m->config.tucker)
        return fail(e, "%s: no factors to multiply back (--rebuild takes a .tbin)", o->source);
    if (!o->rebuild && m->config.tucker)
        return fail(e, "%s: is factored already (--rebuild makes a dense file of it first)",
                    o->source);
    if (o->dense || o->rebuild) return 0;
    if (calib_supported(&m->config, moments_wanted(o), e)) return -1;
    if (o->refit && m->config.encoder)
        return fail(e, "--refit: the norms of an encoder stand behind what would be fitted");
    p.layer = alloc((size_t)p.n_layers, sizeof *p.layer, "plan", e);
    bool *chosen = alloc((size_t)p.n_layers, sizeof *chosen, "plan", e);
    if (o->trawl && stacks_parse(o->trawl, m, &p.stack, &p.n_stacks, e)) goto done;
    if (!p.layer || !chosen || (o->scheme && scheme_parse(o->scheme, &l, e)) ||
        layers_parse("--layers", o->layers, p.n_layers, chosen, e) ||
        (o->ffn && !ffn_open(o) && parse_ffn(&p, e))) goto done;
    result = 0;
    for (int k = 0; k < l.n_groups && o->method >= METHOD_INPUT; k++)
        if (l.group[k].set & HAS_O && l.group[k].set != HAS_O)
            result = fail(e, "--scheme %s: weighted factors keep o apart from q, k and v (--method "
                          "hooi does not)", o->scheme);
done:
    stacks_free(p.stack, p.n_stacks);
    free(p.layer);
    free(chosen);
    return result;
}

int plan_make(Plan *p, const Options *o, const Source *s, const Model *m, const Compression *c,
              Err *e) {
    *p = (Plan){.o = *o, .source = s, .model = m, .weighted = c, .shape = &m->layer[0].attn.shape,
                .n_layers = (int)m->config.n_layers};
    if (make_sized(p, e) == 0) return 0;
    plan_free(p);
    return -1;
}

void plan_free(Plan *p) {
    unmake(p);
    *p = (Plan){0};
}
