// compress: weighted factors of a model's layers. Stacks what shares an input, weighs it (weigh.c),
// spends the budget (ranks.c), and hands out factors in the layout that is stored.
#include "compress.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../core/kernels.h"
#include "../core/linalg.h"
#include "weigh.h"

// Added to D^2, as a part of its mean diagonal.
static const double ridge = 1e-3;

static int first_ffn(const Model *m) { return m->config.gated ? F_GATE : F_UP; }

static const Mat *ffn_matrix(const Layer *l, int matrix) {
    return matrix == F_GATE ? &l->gate.w : matrix == F_UP ? &l->up.w : &l->down.w;
}

// ---- what is decomposed -------------------------------------------------------------------------

// One matrix, or several that share their input stacked by rows, with its weights on both sides.
typedef struct {
    int64_t m, n;
    double *w;                     // (m, n)
    const double *c;               // (n, n), or NULL
    Metric d2;
    double *own;                   // memory of d2 where it was put together here
} Problem;

static void problem_free(Problem *p) {
    free(p->w);
    free(p->own);
}

static int append_rows(Problem *p, const Mat *w, int64_t at, Err *e) {
    float *row = alloc((size_t)w->cols, sizeof *row, "a row", e);
    for (int64_t i = 0; i < w->rows && row; i++) {
        mat_row(w, i, row);
        for (int64_t j = 0; j < w->cols; j++) p->w[(at + i) * p->n + j] = row[j];
    }
    free(row);
    return row ? 0 : -1;
}

// D^2 of a group. Fisher: one full block a projection; attention-KL: a block a head.
static int group_metric(const Compression *c, const LayerMoments *m, int set, Problem *p, Err *e) {
    const AttnShape *s = &c->model->layer[0].attn.shape;
    const bool fisher = c->o->method == METHOD_FISHER;
    if (c->o->method == METHOD_INPUT || (!fisher && set & (HAS_V | HAS_O))) return 0;
    p->d2.block = fisher ? p->m : s->hd;
    p->own = alloc((size_t)p->m, (size_t)p->d2.block * sizeof(double), "metric", e);
    if (!p->own) return -1;
    p->d2.p = p->own;
    int64_t at = 0;
    for (int q = P_Q; q <= P_O; q++) {
        int64_t rows, cols;
        if (!(set & 1 << q)) continue;
        projection_shape(s, q, &rows, &cols);
        for (int64_t i = 0; i < rows; i++) {
            double *to = p->own + (at + i) * p->d2.block;
            if (fisher) memcpy(to + at, m->g[q] + i * rows, (size_t)rows * sizeof *to);
            else memcpy(to, m->kl[q] + i * s->hd, (size_t)s->hd * sizeof *to);
        }
        at += rows;
    }
    return 0;
}

static int group_problem(const Compression *c, int layer, int set, Problem *p, Err *e) {
    const AttnShape *s = &c->model->layer[0].attn.shape;
    const LayerMoments *m = &c->moments->layer[layer];
    *p = (Problem){.c = set == HAS_O ? m->o : m->x};
    for (int q = P_Q; q <= P_O; q++) {
        int64_t rows;
        if (!(set & 1 << q)) continue;
        projection_shape(s, q, &rows, &p->n);
        p->m += rows;
    }
    p->w = alloc((size_t)p->m, (size_t)p->n * sizeof *p->w, "stacked matrices", e);
    if (!p->w || group_metric(c, m, set, p, e)) return -1;
    int64_t at = 0;
    for (int q = P_Q; q <= P_O; q++)
        if (set & 1 << q) {
            const Mat *w = &c->model->layer[layer].attn.w[q];
            if (append_rows(p, w, at, e)) return -1;
            at += w->rows;
        }
    return 0;
}

static int ffn_problem(const Compression *c, int layer, int matrix, Problem *p, Err *e) {
    const LayerMoments *m = c->moments ? &c->moments->layer[layer] : NULL;
    const Mat *w = ffn_matrix(&c->model->layer[layer], matrix);
    *p = (Problem){.m = w->rows, .n = w->cols};
    if (m) p->c = matrix == F_DOWN ? m->down : m->ffn;
    if (m && c->o->method == METHOD_FISHER) {
        p->d2.block = matrix == F_DOWN ? p->m : 1;
        p->d2.p = matrix == F_GATE ? m->g_gate : matrix == F_UP ? m->g_up : m->g_down;
    }
    p->w = alloc((size_t)p->m, (size_t)p->n * sizeof *p->w, "a matrix", e);
    return p->w ? append_rows(p, w, 0, e) : -1;
}

// ---- spectra ------------------------------------------------------------------------------------

static int spectrum_of(Problem *p, Spectrum *s, Err *e) {
    Weighted w = {0};
    if (weigh(&w, p->w, p->m, p->n, p->c, p->d2, ridge, e)) return -1;
    s->values = w.values;
    s->n = w.m < w.n ? w.m : w.n;
    w.values = NULL;
    weighted_free(&w);
    return 0;
}

// Groups that may be used: those of the scheme, or, where it is left open, Q and K apart or
// together, V and O alone.
static int open_sets(const Options *o, int set[16]) {
    static const int free_choice[] = {HAS_Q, HAS_K, HAS_V, HAS_O, HAS_Q | HAS_K};
    int n = 0;
    if (!o->scheme) {
        for (int i = 0; i < 5; i++) set[n++] = free_choice[i];
        return n;
    }
    LayerPlan l = {0};
    Err ignored = {""};
    if (scheme_parse(o->scheme, &l, &ignored)) return 0;
    for (int i = 0; i < l.n_groups; i++) set[n++] = l.group[i].set;
    return n;
}

int moments_wanted(const Options *o) {
    const int ffn = o->ffn ? WANT_FFN | WANT_DOWN : 0;
    switch (o->method) {
    case METHOD_INPUT: return WANT_X | WANT_O | ffn;
    case METHOD_KL: return WANT_X | WANT_O | WANT_KL | ffn;
    case METHOD_FISHER: return WANT_X | WANT_O | WANT_FISHER | ffn;
    case METHOD_HOSVD:
    case METHOD_HOOI: break;
    }
    return 0;
}

int compression_init(Compression *c, const Options *o, const Model *m, const Moments *moments,
                     const CalibText *text, Progress *progress, void *ctx, Err *e) {
    const int64_t layers = m->config.n_layers;
    int set[16], n = moments ? open_sets(o, set) : 0;
    *c = (Compression){.o = o, .model = m, .moments = moments, .text = text};
    c->chosen = alloc((size_t)layers, sizeof *c->chosen, "layers", e);
    c->layer = alloc((size_t)layers, sizeof *c->layer, "spectra", e);
    if (!c->chosen || !c->layer ||
        layers_parse("--layers", o->layers, (int)layers, c->chosen, e)) goto failed;
    for (int l = 0; l < layers; l++) {
        if (progress) progress(ctx, "spectra", l, (double)layers);
        if (interrupted) { fail(e, "interrupted"); goto failed; }
        for (int i = 0; i < n && c->chosen[l]; i++) {
            Problem p;
            int bad = group_problem(c, l, set[i], &p, e) ||
                      spectrum_of(&p, &c->layer[l].group[set[i]], e);
            problem_free(&p);
            if (bad) goto failed;
        }
        for (int i = first_ffn(m); i < N_FFN && c->chosen[l] && ffn_open(o); i++) {
            Problem p;
            int bad = ffn_problem(c, l, i, &p, e) || spectrum_of(&p, &c->layer[l].ffn[i], e);
            problem_free(&p);
            if (bad) goto failed;
        }
    }
    if (progress) progress(ctx, "spectra", (double)layers, (double)layers);
    return 0;
failed:
    compression_free(c);
    return -1;
}

void compression_free(Compression *c) {
    for (int64_t l = 0; c->layer && l < c->model->config.n_layers; l++) {
        for (int i = 0; i < 16; i++) free(c->layer[l].group[i].values);
        for (int i = 0; i < N_FFN; i++) free(c->layer[l].ffn[i].values);
    }
    free(c->layer);
    free(c->chosen);
    *c = (Compression){0};
}

// ---- ranks --------------------------------------------------------------------------------------

static bool in_blocks(int type) { return type_info(type)->block > 1; }

static double numbers(const Mat *w) { return (double)w->rows * (double)w->cols; }
static double stored(const Mat *w) { return (double)mat_bytes(w); }

static double bytes_each(int type) {
    return (double)type_info(type)->bytes / type_info(type)->block;
}

// What a matrix that stays dense costs: in bytes in the type that it will be written in.
static double dense_cost_of(const Compression *c, const Mat *w, bool bytes) {
    const int type = c->o->type;
    if (!bytes) return numbers(w);
    if (type < 0) return stored(w);
    return numbers(w) * bytes_each(type_for_rows(type, w->cols));
}

// A part of a layer's budget: the group `set`, or a matrix of the feed-forward.
static int make_part(const Compression *c, const Budget *budget, int layer, int set, int matrix,
                     RankPart *part, Err *e) {
    const bool bytes = budget->size > 0;
    const Layer *l = &c->model->layer[layer];
    const Spectrum *s = set ? &c->layer[layer].group[set] : &c->layer[layer].ffn[matrix];
    const Mat *w = set ? NULL : ffn_matrix(l, matrix);
    int64_t rows = 0, cols = 0;
    double dense = 0;
    for (int q = set ? P_Q : P_O + 1; q <= P_O; q++) {
        if (!(set & 1 << q)) continue;
        w = &l->attn.w[q];
        rows += w->rows, cols = w->cols;
        dense += dense_cost_of(c, w, bytes);
    }
    if (!set) rows = w->rows, cols = w->cols, dense = dense_cost_of(c, w, bytes);
    const int type = factor_type(c->o, w->type);
    const int step = in_blocks(type) ? 32 : budget->rank ? 1 : 8;          // a rank asked for is kept
    RankOption *options;
    part->chosen = 0;
    part->n = rank_options(&options, rows, cols, s->values, s->n, set && !c->o->no_pivot,
                           step, bytes ? bytes_each(type) : 1, dense, e);
    part->option = options;
    return part->n < 0 ? -1 : 0;
}

enum { MOST_WAYS = 2, MOST_PARTS = 4 };
typedef struct {
    RankSlot *slot;
    RankWay *way;                  // (slots, MOST_WAYS)
    RankPart *part;                // (slots, MOST_WAYS, MOST_PARTS)
    int (*set)[MOST_WAYS][MOST_PARTS];         // of each part; 0: a matrix of the feed-forward
    int *layer, *matrix, n;        // of each slot
    int room;                      // slots that there is room for; the one behind the last may be begun
} Board;

static void board_free(Board *b) {
    for (int i = 0; b->part && i < b->room * MOST_WAYS * MOST_PARTS; i++)
        free((void *)(uintptr_t)b->part[i].option);
    free(b->slot);
    free(b->way);
    free(b->part);
    free(b->set);
    free(b->layer);
    free(b->matrix);
}

static int add_way(const Compression *c, const Budget *budget, Board *b, const int *set, int n, int matrix,
                   Err *e) {
    RankSlot *s = &b->slot[b->n];
    const int at = b->n * MOST_WAYS + s->n;
    b->way[at] = (RankWay){b->part + at * MOST_PARTS, 0};
    s->way = b->way + b->n * MOST_WAYS;
    for (int i = 0; i < n; i++) {
        b->set[b->n][s->n][i] = set[i];
        if (make_part(c, budget, b->layer[b->n], set[i], matrix, &b->way[at].part[i], e)) return -1;
        b->way[at].n++;
    }
    s->n++;
    return 0;
}

static int fill_board(const Compression *c, const Budget *budget, Board *b, Err *e) {
    static const int apart[] = {HAS_Q, HAS_K, HAS_V, HAS_O};
    static const int joined[] = {HAS_Q | HAS_K, HAS_V, HAS_O};
    const int layers = (int)c->model->config.n_layers, most = layers * (1 + N_FFN);
    int set[16], n = open_sets(c->o, set);
    *b = (Board){.room = most};
    b->slot = alloc((size_t)most, sizeof *b->slot, "budget", e);
    b->way = alloc((size_t)most, MOST_WAYS * sizeof *b->way, "budget", e);
    b->part = alloc((size_t)most, MOST_WAYS * MOST_PARTS * sizeof *b->part, "budget", e);
    b->set = alloc((size_t)most, sizeof *b->set, "budget", e);
    b->layer = alloc((size_t)most, sizeof *b->layer, "budget", e);
    b->matrix = alloc((size_t)most, sizeof *b->matrix, "budget", e);
    if (!b->slot || !b->way || !b->part || !b->set || !b->layer || !b->matrix) return -1;
    for (int l = 0; l < layers; l++) {
        if (!c->chosen[l]) continue;
        b->layer[b->n] = l;
        b->matrix[b->n] = -1;
        if (c->o->scheme ? add_way(c, budget, b, set, n, 0, e)
                         : add_way(c, budget, b, apart, 4, 0, e) ||
                           (c->o->method == METHOD_FISHER && add_way(c, budget, b, joined, 3, 0, e)))
            return -1;
        b->n++;
        for (int i = first_ffn(c->model); i < N_FFN && ffn_open(c->o); i++) {
            b->layer[b->n] = l;
            b->matrix[b->n] = i;
            if (add_way(c, budget, b, (int[]){0}, 1, i, e)) return -1;
            b->n++;
        }
    }
    return 0;
}

// Cost of everything on the board, dense.
static double dense_cost(const Board *b) {
    double sum = 0;
    for (int s = 0; s < b->n; s++)
        for (int i = 0; i < b->slot[s].way[0].n; i++) sum += b->slot[s].way[0].part[i].option[0].cost;
    return sum;
}

// The same rank for every part, for O `o_times` that: the part's own largest one up to it, dense above
// what saves anything. keep_v: V, which tolerates least, stays dense. Returns the cost.
static double same_rank(Board *b, int64_t rank, int o_times, bool keep_v) {
    double cost = 0;
    for (int s = 0; s < b->n; s++)
        for (int i = 0; i < b->slot[s].way[0].n; i++) {
            RankPart *p = &b->slot[s].way[0].part[i];
            const int set = b->set[s][0][i];
            const int64_t most = set == HAS_O ? o_times * rank : rank;
            const bool dense = p->n == 1 || most > p->option[1].rank || (keep_v && set == HAS_V);
            p->chosen = dense ? 0 : p->n - 1;
            for (int k = p->n - 1; k > 0 && !dense; k--)           // options come by falling rank
                if (p->option[k].rank <= most) p->chosen = k;
            cost += p->option[p->chosen].cost;
        }
    return cost;
}

// Without a common measure of loss: the largest rank that all parts can have within the budget. O gets
// twice the rank of the others: the same for all costs much (doc/MATH.md, 8).
enum { O_TIMES = 2 };
static int same_rank_for(const Compression *c, Board *b, double budget, RankTotal *total, Err *e) {
    const bool open = !c->o->scheme;
    int64_t r = 0;
    total->cost = same_rank(b, 1, O_TIMES, open);
    const bool keep_v = open && total->cost <= budget;
    if (!keep_v) total->cost = same_rank(b, 1, O_TIMES, false);
    if (total->cost > budget)
        return fail(e, "a budget of %.0f is below the smallest possible, %.0f: ask for %.3g times as much",
                    budget, total->cost, total->cost / budget);
    for (int s = 0; s < b->n; s++)
        for (int i = 0; i < b->slot[s].way[0].n; i++) {
            const RankPart *p = &b->slot[s].way[0].part[i];
            if (p->n > 1 && p->option[1].rank > r) r = p->option[1].rank;
        }
    for (r++; r > 1 && same_rank(b, r, O_TIMES, keep_v) > budget;) r--;
    same_rank(b, r, O_TIMES, keep_v);
    return 0;
}

static void take_board(const Compression *c, const Board *b, LayerPlan *layer, RankTotal *spent) {
    *spent = (RankTotal){0};
    for (int s = 0; s < b->n; s++) {
        LayerPlan *l = &layer[b->layer[s]];
        const int way = b->slot[s].chosen;
        for (int i = 0; i < b->slot[s].way[way].n; i++) {
            const RankPart *p = &b->slot[s].way[way].part[i];
            const RankOption *o = &p->option[p->chosen];
            spent->loss += o->loss;
            spent->cost += o->cost;
            if (!o->rank) continue;
            if (b->matrix[s] >= 0) {
                l->ffn[b->matrix[s]] = o->rank;
                l->ffn_predicted[b->matrix[s]] = o->loss;
            } else {
                const AttnShape *a = &c->model->layer[0].attn.shape;
                const int set = b->set[s][way][i];
                l->group[l->n_groups++] = (GroupPlan){
                    .set = set, .weighted = true, .pivoted = !c->o->no_pivot,
                    .rank = {o->rank, a->hd, group_kinds(set, a->h / a->n_kv)},
                    .predicted = o->loss};
            }
        }
        groups_sort(l);
    }
}

int compression_ranks(const Compression *c, Budget budget, LayerPlan *layer, RankTotal *spent, Err *e) {
    Board b;
    int result = fill_board(c, &budget, &b, e);
    if (!result && budget.rank) {
        same_rank(&b, budget.rank, 1, !c->o->scheme);
    } else if (!result && budget.loss > 0) {
        result = ranks_for_loss(b.slot, b.n, budget.loss, spent, e);
    } else if (!result) {
        const double cost = budget.size > 0 ? budget.size - budget.rest : budget.keep * dense_cost(&b);
        result = c->o->method == METHOD_FISHER ? ranks_for_cost(b.slot, b.n, cost, spent, e)
                                               : same_rank_for(c, &b, cost, spent, e);
        if (result && budget.size > 0)
            fail(e, "--size: %.0f bytes are needed at least, %.0f were asked for", budget.rest + spent->cost,
                 budget.size);
    }
    if (!result) take_board(c, &b, layer, spent);
    board_free(&b);
    return result;
}

// ---- factors ------------------------------------------------------------------------------------

static float *floats_of(const double *a, int64_t rows, int64_t cols, bool transposed, Err *e) {
    float *out = alloc((size_t)rows, (size_t)cols * sizeof *out, "factors", e);
    for (int64_t i = 0; i < rows && out; i++)
        for (int64_t j = 0; j < cols; j++)
            out[i * cols + j] = (float)(transposed ? a[j * rows + i] : a[i * cols + j]);
    return out;
}

// W ~ B A at rank r. b (m, r), a (r, n), and |W - B A| / |W| of the rows from `first` on, `rows` each.
typedef struct { double *b, *a; } Factors;

static void factors_free(Factors *f) {
    free(f->b);
    free(f->a);
}

static int factors_of(const Problem *p, int64_t r, Factors *f, Err *e) {
    Weighted w = {0};
    int result = weigh(&w, p->w, p->m, p->n, p->c, p->d2, ridge, e);
    *f = (Factors){0};
    if (!result && (!(f->b = alloc((size_t)p->m, (size_t)r * sizeof *f->b, "factors", e)) ||
                    !(f->a = alloc((size_t)r, (size_t)p->n * sizeof *f->a, "factors", e))))
        result = -1;
    for (int64_t i = 0; i < p->m && !result; i++)
        memcpy(f->b + i * r, w.left + i * p->m, (size_t)r * sizeof *f->b);
    if (!result) memcpy(f->a, w.right, (size_t)(r * p->n) * sizeof *f->a);
    weighted_free(&w);
    return result;
}

// |W - B A| / |W| over rows first .. first + rows.
static int error_of(const Problem *p, const Factors *f, int64_t r, int64_t first, int64_t rows,
                    double *error, Err *e) {
    double *made = alloc((size_t)rows, (size_t)p->n * sizeof *made, "a product", e);
    if (!made) return -1;
    const double *w = p->w + first * p->n;
    dgemm(false, false, rows, p->n, r, f->b + first * r, r, f->a, p->n, 0, made, p->n);
    for (int64_t i = 0; i < rows * p->n; i++) made[i] -= w[i];
    const double whole = norm2(w, rows * p->n);
    *error = whole > 0 ? sqrt(norm2(made, rows * p->n) / whole) : 0;
    free(made);
    return 0;
}

static double *transposed(const double *a, int64_t rows, int64_t cols, Err *e) {
    double *t = alloc((size_t)rows, (size_t)cols * sizeof *t, "factors", e);
    for (int64_t i = 0; i < rows && t; i++)
        for (int64_t j = 0; j < cols; j++) t[j * rows + i] = a[i * cols + j];
    return t;
}

// How large each component of the shared side is: of the input, by C; of O's output, how much the loss
// minds it, by D^2. (n) in *scale; 1 where nothing is known, and bounded below.
static int side_scale(const Problem *p, bool output, int64_t n, double **scale, Err *e) {
    const bool known = output ? p->d2.p && p->d2.block == p->m : p->c != NULL;
    const double *square = output ? p->d2.p : p->c;
    double mean = 0;
    *scale = alloc((size_t)n, sizeof **scale, "scales", e);
    for (int64_t i = 0; i < n && known; i++) mean += square[i * n + i] / (double)n;
    for (int64_t i = 0; i < n && *scale; i++)
        (*scale)[i] = known && mean > 0 ? sqrt(square[i * n + i] / mean + 1e-4) : 1;
    return *scale ? 0 : -1;
}

// Pivots the factor that is shared: A of Q, K, V; of O its own, B, where y = B (A o). Replaces the
// shared factor by X: (r, n - r), of O (m - r, r), in out->part[PART_EMBD], and the other one by
// what then stands for it. Columns compete by what they carry: A diag(scale) is pivoted. So large
// inputs become pivots, which are exact, and no rounding error of X meets one.
static int pivot_group(const Problem *p, bool output, int64_t r, Factors *f, GroupParts *out,
                       Err *e) {
    const int64_t shared = output ? p->m : p->n, other = output ? p->n : p->m;
    double *x = alloc((size_t)r, (size_t)(shared - r) * sizeof *x, "factors", e), *scale = NULL;
    double *b = output ? transposed(f->a, r, p->n, e) : f->b;
    double *a = output ? transposed(f->b, p->m, r, e) : f->a;
    int result = -1;
    out->pivot = alloc((size_t)r, sizeof *out->pivot, "pivots", e);
    if (!x || !a || !b || !out->pivot || side_scale(p, output, shared, &scale, e)) goto done;
    for (int64_t i = 0; i < r * shared; i++) a[i] *= scale[i % shared];
    if (pivot_factors(b, other, a, r, shared, out->pivot, x, e)) goto done;
    for (int64_t i = 0; i < r; i++)                    // X back to inputs as they are, and so B
        for (int64_t j = 0, k = 0; j < shared; j++) {
            if (k < r && out->pivot[k] == j) { k++; continue; }
            x[i * (shared - r) + j - k] *= scale[out->pivot[i]] / scale[j];
        }
    for (int64_t i = 0; i < other * r; i++) b[i] /= scale[out->pivot[i % r]];
    out->part[PART_EMBD] = floats_of(x, output ? shared - r : r, output ? r : shared - r, output, e);
    if (output) {
        free(f->a);
        f->a = transposed(b, other, r, e);
    }
    result = out->part[PART_EMBD] && f->a ? 0 : -1;
done:
    free(x);
    free(scale);
    if (output) {
        free(a);
        free(b);
    }
    return result;
}

int compression_group(const Compression *c, int layer, const GroupPlan *g, GroupParts *out,
                      double error[4], Err *e) {
    const int64_t r = g->rank[EMBD];
    Problem p;
    Factors f = {0};
    int result = -1;
    int64_t at = 0;
    *out = (GroupParts){0};
    const bool output = g->set == HAS_O;
    if (group_problem(c, layer, g->set, &p, e) || factors_of(&p, r, &f, e)) goto done;
    for (int q = P_Q; q <= P_O; q++) {
        int64_t rows, cols;
        if (!(g->set & 1 << q)) continue;
        projection_shape(&c->model->layer[0].attn.shape, q, &rows, &cols);
        if (error_of(&p, &f, r, at, rows, &error[q], e)) goto done;
        at += rows;
    }
    if (g->pivoted) {
        if (pivot_group(&p, output, r, &f, out, e)) goto done;
    } else {
        out->part[PART_EMBD] = output ? floats_of(f.b, p.m, r, false, e)
                                      : floats_of(f.a, r, p.n, false, e);
        if (!out->part[PART_EMBD]) goto done;
    }
    at = 0;
    for (int q = P_Q; q <= P_O; q++) {
        int64_t rows, cols;
        if (!(g->set & 1 << q)) continue;
        projection_shape(&c->model->layer[0].attn.shape, q, &rows, &cols);
        out->part[PART_CORE + q] = output ? floats_of(f.a, r, p.n, false, e)
                                          : floats_of(f.b + at * r, rows, r, false, e);
        if (!out->part[PART_CORE + q]) goto done;
        at += rows;
    }
    result = 0;
done:
    problem_free(&p);
    factors_free(&f);
    if (result) parts_free(out);
    return result;
}

int compression_ffn(const Compression *c, int layer, int matrix, int64_t rank, float **a, float **b,
                    double *error, Err *e) {
    Problem p;
    Factors f = {0};
    int result = -1;
    *a = *b = NULL;
    if (ffn_problem(c, layer, matrix, &p, e) || factors_of(&p, rank, &f, e) ||
        error_of(&p, &f, rank, 0, p.m, error, e)) goto done;
    *a = floats_of(f.a, rank, p.n, false, e);
    *b = floats_of(f.b, p.m, rank, false, e);
    result = *a && *b ? 0 : -1;
done:
    problem_free(&p);
    factors_free(&f);
    return result;
}
