// decompose: glue between stored matrices and tucker.c's tensors. Owns nothing between calls; a
// group needs about four times its own size in double precision while it is worked on.
#include "decompose.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int64_t heads_of(const AttnShape *s, int p) { return p == P_Q || p == P_O ? s->h : s->n_kv; }

void projection_shape(const AttnShape *s, int p, int64_t *rows, int64_t *cols) {
    int64_t wide = heads_of(s, p) * s->hd;
    *rows = p == P_O ? s->d : wide;
    *cols = p == P_O ? wide : s->d;
}

bool part_shape(const AttnShape *s, const GroupPlan *g, int part, int64_t *rows, int64_t *cols) {
    int64_t r = g->rank[EMBD], r_head = g->rank[HEAD], r_kind = g->rank[KIND];
    int64_t kinds = group_kinds(g->set, s->h / s->n_kv);
    AttnShape core = {r, s->h, s->n_kv, r_head};       // the cores are a smaller layer's matrices
    bool out = g->set == HAS_O;                        // alone, its U_embd is used as it is
    switch (part) {
    case PART_EMBD: {
        const int64_t shared = s->d - (g->pivoted ? r : 0);
        *rows = out ? shared : r;
        *cols = out ? r : shared;
        return true;
    }
    case PART_HEAD: *rows = s->hd; *cols = r_head; return r_head < s->hd;
    case PART_KIND: *rows = kinds; *cols = r_kind; return r_kind < kinds;
    case PART_MIXED: *rows = r_kind * s->n_kv * r_head; *cols = r; return r_kind < kinds;
    default:
        projection_shape(&core, part - PART_CORE, rows, cols);
        return r_kind == kinds && (g->set & 1 << (part - PART_CORE));
    }
}

void parts_free(GroupParts *p) {
    for (int i = 0; i < N_PARTS; i++) free(p->part[i]);
    free(p->pivot);
    *p = (GroupParts){0};
}

// error[p] from the tensor and its reconstruction, over the kinds of p
static void projection_errors(const AttnShape *s, int set, const double *t, const double *made,
                              double error[4]) {
    int64_t m = s->h / s->n_kv, kinds = group_kinds(set, m);
    for (int p = P_Q; p <= P_O; p++) {
        if (!(set & 1 << p)) continue;
        double whole = 0, lost = 0;
        for (int64_t row = 0; row < s->d * s->hd; row++) {
            int64_t first = (row * kinds + kind_index(set, m, p, 0)) * s->n_kv;
            for (int64_t i = first; i < first + heads_of(s, p); i++) {
                whole += t[i] * t[i];
                lost += (t[i] - made[i]) * (t[i] - made[i]);
            }
        }
        error[p] = whole > 0 ? sqrt(lost / whole) : 0;
    }
}

static void scale(float *x, int64_t n, double by) {
    for (int64_t i = 0; x && i < n; i++) x[i] = (float)(x[i] * by);
}

// With grouped-query attention a head of K or V serves m query heads. So that it weighs in the sum of
// squares as it would if it were repeated for each of them, it is scaled by sqrt(m) before, and what
// stands for it, its cores or its row of U_kind, by 1 / sqrt(m) after: exact, and stored once.
static void weigh_kv(const AttnShape *s, const GroupPlan *g, float *w[4], GroupParts *out) {
    int64_t m = s->h / s->n_kv, rows, cols;
    for (int p = P_K; p <= P_V && m > 1; p++) {
        if (!(g->set & 1 << p)) continue;
        if (w) {
            projection_shape(s, p, &rows, &cols);
            scale(w[p], rows * cols, sqrt((double)m));
        } else if (out->part[PART_KIND]) {
            scale(out->part[PART_KIND] + kind_index(g->set, m, p, 0) * g->rank[KIND], g->rank[KIND],
                  1 / sqrt((double)m));
        } else {
            part_shape(s, g, PART_CORE + p, &rows, &cols);
            scale(out->part[PART_CORE + p], rows * cols, 1 / sqrt((double)m));
        }
    }
}

int decompose_group(const AttnShape *s, const GroupPlan *g, float *w[4], int sweeps,
                    GroupParts *out, double error[4], Err *e) {
    int64_t n[4] = {s->d, s->hd, group_kinds(g->set, s->h / s->n_kv), s->n_kv};
    int64_t rank[4] = {g->rank[EMBD], g->rank[HEAD], g->rank[KIND], s->n_kv};
    size_t size = (size_t)(n[0] * n[1]) * (size_t)(n[2] * n[3]);
    Tucker k = {0};
    int result = -1;
    *out = (GroupParts){0};
    double *made = NULL, *t = alloc_raw(size, sizeof *t, "attention tensor", e);
    if (!t) goto done;
    weigh_kv(s, g, w, NULL);
    tensorise(s, g->set, (const float *const *)w, t);
    for (int p = P_Q; p <= P_O; p++)
        if (g->set & 1 << p) {
            free(w[p]);
            w[p] = NULL;
        }
    if (sweeps ? tucker_hooi(&k, t, n, rank, sweeps, 1e-5, e) : tucker_hosvd(&k, t, n, rank, e))
        goto done;
    for (int i = 0; i < N_PARTS; i++) {
        int64_t rows, cols;
        if (!part_shape(s, g, i, &rows, &cols)) continue;
        out->part[i] = alloc((size_t)rows, (size_t)cols * sizeof(float), "factors", e);
        if (!out->part[i]) goto done;
    }
    tucker_pack(&k, s, g->set, out->part[PART_EMBD], out->part[PART_HEAD], out->part[PART_KIND],
                &out->part[PART_CORE], out->part[PART_MIXED]);
    weigh_kv(s, g, NULL, out);
    made = alloc_raw(size, sizeof *made, "attention tensor", e);
    if (!made || tucker_reconstruct(&k, made, e)) goto done;
    projection_errors(s, g->set, t, made, error);
    result = 0;
done:
    tucker_free(&k);
    free(t);
    free(made);
    if (result) parts_free(out);
    return result;
}

// ---- back ---------------------------------------------------------------------------------------

// A stored factor as U (n, r) in double precision; stored transposed: as (r, n). NULL where absent.
static int read_factor(const Mat *m, bool transposed, double **u, Err *e) {
    *u = NULL;
    if (!m->rows) return 0;
    float *row = alloc((size_t)m->cols, sizeof *row, "factor", e);
    *u = alloc((size_t)m->rows, (size_t)m->cols * sizeof **u, "factor", e);
    for (int64_t i = 0; i < m->rows && row && *u; i++) {
        mat_row(m, i, row);
        for (int64_t j = 0; j < m->cols; j++)
            (*u)[transposed ? j * m->rows + i : i * m->cols + j] = row[j];
    }
    free(row);
    if (row && *u) return 0;
    free(*u);
    *u = NULL;
    return -1;
}

// U_embd (d, r_embd) of a group. Pivoted: rows of the identity at the pivots, X at the rest.
static int read_embd(const Group *t, int64_t d, double **u, Err *e) {
    double *x;
    if (read_factor(&t->embd, t->set != HAS_O, &x, e)) return -1;
    *u = x;
    if (!t->pivot) return 0;
    const size_t row = (size_t)t->r_embd;
    *u = alloc((size_t)d, row * sizeof **u, "factor", e);
    for (int64_t k = 0; k < t->r_embd && *u; k++) (*u)[t->pivot[k] * t->r_embd + k] = 1;
    for (int64_t k = 0; k < d - t->r_embd && *u; k++)
        memcpy(*u + t->rest[k] * t->r_embd, x + k * t->r_embd, row * sizeof **u);
    free(x);
    return *u ? 0 : -1;
}

// The core tensor (r_embd, r_head, r_kind, n_kv) from the stored cores.
static int read_core(const Attention *a, const Group *t, double *g, Err *e) {
    const AttnShape *s = &a->shape, small = {t->r_embd, s->h, s->n_kv, t->r_head};
    if (t->kind.rows) {                              // stored as [kind][KV head][r_head][r_embd]
        float *mixed = matrix(&t->core, 1, 0, false, false, e);
        if (!mixed) return -1;
        for (int64_t i = 0; i < t->core.rows; i++) {
            int64_t x = i % t->r_head, kv = i / t->r_head % s->n_kv, kind = i / t->r_head / s->n_kv;
            for (int64_t j = 0; j < t->r_embd; j++)
                g[((j * t->r_head + x) * t->r_kind + kind) * s->n_kv + kv] =
                    mixed[i * t->r_embd + j];
        }
        free(mixed);
        return 0;
    }
    float *core[4] = {0};
    int result = 0;
    for (int p = P_Q; p <= P_O && !result; p++)
        if (t->set & 1 << p && !(core[p] = matrix(&a->w[p], 1, 0, false, false, e))) result = -1;
    if (!result) tensorise(&small, t->set, (const float *const *)core, g);
    for (int p = P_Q; p <= P_O; p++) free(core[p]);
    return result;
}

int rebuild_group(const Attention *a, int i, float *w[4], Err *e) {
    const AttnShape *s = &a->shape;
    const Group *t = &a->groups[i];
    Tucker k = {.n = {s->d, s->hd, t->kinds, s->n_kv},
                .r = {t->r_embd, t->r_head, t->r_kind, s->n_kv}};
    size_t core = (size_t)(k.r[0] * k.r[1]) * (size_t)(k.r[2] * k.r[3]);
    size_t size = (size_t)(k.n[0] * k.n[1]) * (size_t)(k.n[2] * k.n[3]);
    int result = -1;
    double *made = alloc_raw(size, sizeof *made, "attention tensor", e);
    k.core = alloc(core, sizeof *k.core, "core", e);
    if (!made || !k.core || read_core(a, t, k.core, e) ||
        read_embd(t, s->d, &k.u[EMBD], e) ||
        read_factor(&t->head, false, &k.u[HEAD], e) ||
        read_factor(&t->kind, false, &k.u[KIND], e) || tucker_reconstruct(&k, made, e)) goto done;
    for (int p = P_Q; p <= P_O; p++) {
        int64_t rows, cols;
        projection_shape(s, p, &rows, &cols);
        if (!(t->set & 1 << p)) continue;
        w[p] = alloc((size_t)rows, (size_t)cols * sizeof(float), "matrix", e);
        if (!w[p]) goto done;
    }
    untensorise(s, t->set, made, w);
    result = 0;
done:
    tucker_free(&k);
    free(made);
    return result;
}

float *rebuild_product(const Mat *b, const Mat *a, Err *e) {
    float *out = alloc((size_t)b->rows, (size_t)a->cols * sizeof *out, "matrix", e);
    float *bs = alloc((size_t)b->cols, sizeof *bs, "factor", e);
    float *as = matrix(a, 1, 0, false, false, e);
    for (int64_t i = 0; i < b->rows && out && bs && as; i++) {
        mat_row(b, i, bs);
        for (int64_t k = 0; k < b->cols; k++) axpy(out + i * a->cols, bs[k], as + k * a->cols, a->cols);
    }
    if (!bs || !as) {
        free(out);
        out = NULL;
    }
    free(bs);
    free(as);
    return out;
}

// ---- matrices -----------------------------------------------------------------------------------

int64_t pair_row(int64_t row, int64_t hd, int64_t dims, bool to_half) {
    int64_t a = row % hd, half = dims / 2;
    if (a >= dims) return row;
    return row - a + (to_half ? 2 * (a % half) + a / half : a % 2 * half + a / 2);
}

float *matrix(const Mat *w, int64_t hd, int64_t dims, bool reorder, bool to_half, Err *e) {
    float *out = alloc((size_t)w->rows, (size_t)w->cols * sizeof *out, "matrix", e);
    for (int64_t i = 0; i < w->rows && out; i++)
        mat_row(w, reorder ? pair_row(i, hd, dims, to_half) : i, out + i * w->cols);
    return out;
}
