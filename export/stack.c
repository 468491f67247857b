// stack: matrices of one shape from one or more layers, put behind one another, approximated by
// trawl.c, and taken apart again.
#include "stack.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "trawl.h"

enum { SWEEPS = 50, MOST_STACKS = 4096 };

static const char *const attn_part[] = {"attn_q.weight", "attn_output.weight", "attn_k.weight",
                                        "attn_v.weight"};
static const char *const ffn_part[] = {"ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"};

// Of the feed-forward: the first that there is.
static int first_part(const Stack *s, const Model *m) { return s->attn || m->config.gated ? 0 : 1; }

static int per_layer(const Stack *s, const Model *m) {
    return !s->attn ? 3 - first_part(s, m) : m->config.n_kv == m->config.h ? 4 : 2;
}

// Matrix i of a layer; *transposed: it stands in the stack turned round.
static const Mat *matrix_at(const Stack *s, const Model *m, int layer, int i, bool *transposed) {
    const Layer *l = &m->layer[layer];
    i += first_part(s, m);
    *transposed = s->attn ? i == 1 : i == 2;
    if (!s->attn) return i == 0 ? &l->gate.w : i == 1 ? &l->up.w : &l->down.w;
    return &l->attn.w[i == 0 ? P_Q : i == 1 ? P_O : i == 2 ? P_K : P_V];
}

static int index_of(const Stack *s, const Model *m, const char *part) {
    for (int i = 0; i < per_layer(s, m); i++)
        if (strcmp(part, s->attn ? attn_part[i] : ffn_part[i + first_part(s, m)]) == 0) return i;
    return -1;
}

int stack_of(const Stack *stacks, int n, const Model *m, int layer, const char *part) {
    for (int i = 0; i < n; i++)
        if (layer >= stacks[i].first && layer <= stacks[i].last && index_of(&stacks[i], m, part) >= 0)
            return i;
    return -1;
}

// The largest rank whose factors have at most `keep` of the numbers; at least 1.
static void choose_rank(Stack *s, double keep) {
    const double whole = (double)s->n[0] * (double)s->n[1] * (double)s->n[2];
    s->params[0] = whole;
    if (s->cp) {
        s->rank[0] = (int64_t)(keep * whole / (double)(s->n[0] + s->n[1] + s->n[2]));
        if (s->rank[0] < 1) s->rank[0] = 1;
        s->params[1] = cp_params(s->n, s->rank[0]);
        return;
    }
    s->rank[2] = s->n[2];                      // the stack itself is short, its mode stays whole
    for (int64_t r = s->n[0] > s->n[1] ? s->n[0] : s->n[1], most = r; r > 0; r--) {
        for (int i = 0; i < 2; i++) {
            s->rank[i] = s->n[i] * r / most;
            if (s->rank[i] < 1) s->rank[i] = 1;
        }
        s->params[1] = tucker3_params(s->n, s->rank);
        if (s->params[1] <= keep * whole) return;
    }
}

static int parse_one(char *text, const Model *m, Stack **stacks, int *n, Err *e) {
    char part[8], form[8], layers[32], extra;
    double keep = 0;
    int first, last, step = 0;
    if (sscanf(text, "%7[a-z]:%31[0-9/-]:%7[a-z]:%lf%c", part, layers, form, &keep, &extra) != 4 ||
        (strcmp(part, "attn") && strcmp(part, "ffn")) || (strcmp(form, "cp") && strcmp(form, "tucker")) ||
        !(keep > 0 && keep <= 1))
        return fail(e, "--trawl %.40s: expected such as ffn:20-25/2:cp:0.5 or attn:29:tucker:0.5", text);
    char *slash = strchr(layers, '/');
    if (slash) {
        char *end;
        const long each = strtol(slash + 1, &end, 10), all = (long)m->config.n_layers;
        step = end == slash + 1 || *end || each < 1 ? 0 : (int)(each < all ? each : all);
        *slash = 0;
    }
    if (sscanf(layers, "%d-%d%c", &first, &last, &extra) != 2) {
        if (sscanf(layers, "%d%c", &first, &extra) != 1) first = -1;
        last = first;
    }
    if (first < 0 || first > last || last >= m->config.n_layers || (slash && step < 1))
        return fail(e, "--trawl %.40s: no layers within 0-%lld, or no number of them behind the /", text,
                    (long long)m->config.n_layers - 1);
    if (!step) step = last - first + 1;
    for (int l = first; l <= last; l += step) {
        if (*n == MOST_STACKS) return fail(e, "--trawl: more than %d tensors", MOST_STACKS);
        Stack s = {.attn = strcmp(part, "attn") == 0, .first = l, .cp = strcmp(form, "cp") == 0};
        s.last = l + step - 1 < last ? l + step - 1 : last;
        bool transposed;
        const Mat *w = matrix_at(&s, m, l, 0, &transposed);
        s.n[0] = w->rows, s.n[1] = w->cols;
        s.n[2] = per_layer(&s, m) * (s.last - s.first + 1);
        choose_rank(&s, keep);
        for (int k = 0; k < *n; k++)
            if ((*stacks)[k].attn == s.attn && (*stacks)[k].first <= s.last && s.first <= (*stacks)[k].last)
                return fail(e, "--trawl: layer %d stands in two tensors", s.first);
        Stack *more = realloc(*stacks, (size_t)(*n + 1) * sizeof *more);
        if (!more) return fail(e, "--trawl: out of memory");
        *stacks = more;
        more[(*n)++] = s;
    }
    return 0;
}

int stacks_parse(const char *text, const Model *m, Stack **stacks, int *n, Err *e) {
    char *copy = alloc(strlen(text) + 1, 1, "--trawl", e), *save = NULL;
    int result = copy ? 0 : -1;
    *stacks = NULL;
    *n = 0;
    if (copy) strcpy(copy, text);
    for (char *one = copy ? strtok_r(copy, ",", &save) : NULL; one && !result;
         one = strtok_r(NULL, ",", &save))
        result = parse_one(one, m, stacks, n, e);
    if (!result && !*n) result = fail(e, "--trawl: nothing named");
    free(copy);
    if (result) stacks_free(*stacks, *n), *stacks = NULL, *n = 0;
    return result;
}

void stacks_free(Stack *stacks, int n) {
    for (int i = 0; i < n; i++) free(stacks[i].t);
    free(stacks);
}

int stack_make(Stack *s, const Model *m, Err *e) {
    size_t size;
    if (s->t) return 0;
    if (!mul_size((size_t)(s->n[0] * s->n[1]), (size_t)s->n[2], &size))
        return fail(e, "--trawl: layers %d-%d are too many for one tensor", s->first, s->last);
    s->t = alloc(size, sizeof *s->t, "stacked matrices", e);
    float *row = alloc((size_t)(s->n[0] > s->n[1] ? s->n[0] : s->n[1]), sizeof *row, "a row", e);
    int k = 0, each = per_layer(s, m);
    for (int l = s->first; l <= s->last && s->t && row; l++)
        for (int i = 0; i < each; i++, k++) {
            bool turned;
            const Mat *w = matrix_at(s, m, l, i, &turned);
            for (int64_t r = 0; r < w->rows; r++) {
                mat_row(w, r, row);
                for (int64_t c = 0; c < w->cols; c++)
                    s->t[(turned ? c * s->n[1] + r : r * s->n[1] + c) * s->n[2] + k] = row[c];
            }
        }
    free(row);
    if (!s->t || !row) return -1;
    return s->cp ? cp_approximate(s->t, s->n, s->rank[0], SWEEPS, 1e-5, &s->error, e)
                 : tucker3_approximate(s->t, s->n, s->rank, SWEEPS, &s->error, e);
}

float *stack_matrix(const Stack *s, const Model *m, int layer, const char *part, Err *e) {
    const int i = index_of(s, m, part);
    const int64_t k = (int64_t)(layer - s->first) * per_layer(s, m) + i;
    bool turned;
    const Mat *w = matrix_at(s, m, layer, i, &turned);
    float *out = alloc((size_t)w->rows, (size_t)w->cols * sizeof *out, "a matrix", e);
    for (int64_t r = 0; r < w->rows && out; r++)
        for (int64_t c = 0; c < w->cols; c++)
            out[r * w->cols + c] =
                (float)s->t[(turned ? c * s->n[1] + r : r * s->n[1] + c) * s->n[2] + k];
    return out;
}
