// summary: what an export did as the data of a report. Owns the table of layers and the singular
// values that only a report asks for.
#include "summary.h"

#include "../core/linalg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// Leaving out the directions from r on, at the rank that halves the numbers.
static double at_half(const Spectrum *s, int64_t rows, int64_t cols, bool pivoted) {
    double tail = 0, half = 0.5 * (double)rows * (double)cols;
    for (int64_t r = s->n; r > 0; r--) {
        const double cost = (double)r * (double)(rows + cols - (pivoted ? r : 0));
        if (cost <= half) return tail / 2;
        tail += s->values[r - 1];
    }
    return tail / 2;
}

static void count_items(const Plan *p, int layer, const char *name, double *params, double *bytes) {
    for (size_t i = 0; i < p->n_items; i++) {
        const Item *item = &p->item[i];
        if (item->layer != layer || !strstr(item->name, name)) continue;
        if (item->type != T_I32) *params += (double)item->rows * (double)item->cols;
        *bytes += (double)item_bytes(item);
    }
}

static void matrix_before(ReportMatrix *m, const Mat *w) {
    *m = (ReportMatrix){.rows = w->rows, .cols = w->cols, .predicted = NAN, .tolerated = NAN};
    m->params[0] = m->params[1] = (double)w->rows * (double)w->cols;
    m->bytes[0] = (double)mat_bytes(w);
    m->bytes[1] = m->bytes[0];
}

// What a group stores is shared out over its projections by their size.
static void summarise_group(const Plan *p, int layer, const GroupPlan *g, ReportLayer *out) {
    const bool fisher = p->o.method == METHOD_FISHER;
    double whole = 0, params = 0, bytes = 0;
    char set[8], name[48];
    scheme_text(&(LayerPlan){.group = {*g}, .n_groups = 1}, set);
    snprintf(name, sizeof name, "attn_tucker_%s_", set);
    count_items(p, layer, name, &params, &bytes);
    for (int q = P_Q; q <= P_O; q++) {
        if (!(g->set & 1 << q)) continue;
        whole += out->matrix[q].params[0];
        if (strlen(set) == 1) continue;                    // its core has the group's own name
        snprintf(name, sizeof name, "attn_tucker_%c_core", "qkvo"[q]);
        count_items(p, layer, name, &params, &bytes);
    }
    for (int q = P_Q; q <= P_O; q++) {
        if (!(g->set & 1 << q)) continue;
        ReportMatrix *m = &out->matrix[q];
        const double share = m->params[0] / whole;
        m->factored = true;
        m->rank = g->rank[EMBD];
        m->params[1] = params * share;
        m->bytes[1] = bytes * share;
        m->error = p->layer[layer].error[q];
        if (fisher) m->predicted = g->predicted * share;
    }
}

// Singular values of the unfoldings of a plain group's tensor.
static int mode_values(const Plan *p, int layer, const GroupPlan *g, ReportLayer *out, Err *e) {
    const Config *c = &p->model->config;
    const AttnShape *s = p->shape;
    const int64_t n[4] = {s->d, s->hd, group_kinds(g->set, s->h / s->n_kv), s->n_kv};
    const int64_t most = n[0] > n[1] ? n[0] > n[2] ? n[0] : n[2] : n[1] > n[2] ? n[1] : n[2];
    float *w[4] = {0};
    double *t = alloc((size_t)(n[0] * n[1]), (size_t)(n[2] * n[3]) * sizeof *t, "tensor", e);
    double *gram = alloc((size_t)most, (size_t)most * sizeof *gram, "Gram matrix", e);
    double *values = alloc((size_t)(n[0] + n[1] + n[2]), sizeof *values, "singular values", e);
    int result = t && gram && values ? 0 : -1;
    for (int q = P_Q; q <= P_O && !result; q++)
        if (g->set & 1 << q && !(w[q] = matrix(&p->model->layer[layer].attn.w[q], c->hd, c->rope_dims,
                                               p->reorder && q <= P_K, p->to_half, e)))
            result = -1;
    if (!result) tensorise(s, g->set, (const float *const *)w, t);
    double *at = values;
    for (int mode = EMBD; mode <= KIND && !result; mode++) {
        if (mode_gram(t, n, mode, gram, e) || eig_sym(gram, n[mode], at, NULL, e)) { result = -1; break; }
        for (int64_t i = 0; i < n[mode]; i++) at[i] = at[i] > 0 ? sqrt(at[i]) : 0;
        out->mode[mode].value = at;
        out->mode[mode].n = n[mode];
        at += n[mode];
    }
    for (int q = P_Q; q <= P_O; q++) free(w[q]);
    free(t);
    free(gram);
    if (result) {
        free(values);
        memset(out->mode, 0, sizeof out->mode);
    }
    return result;
}

void summary_free(ReportLayer *layers, int n) {
    for (int i = 0; i < n && layers; i++) free((void *)(uintptr_t)layers[i].mode[EMBD].value);
    free(layers);
}

int summarise(const Plan *p, ReportLayer **layers, Err *e) {
    const bool fisher = p->o.method == METHOD_FISHER;
    ReportLayer *out = alloc((size_t)p->n_layers, sizeof *out, "report", e);
    *layers = out;
    for (int i = 0; i < p->n_layers && out; i++) {
        const Layer *l = &p->model->layer[i];
        const LayerPlan *plan = &p->layer[i];
        const LayerSpectra *s = p->weighted ? &p->weighted->layer[i] : NULL;
        const Mat *ffn[N_FFN] = {&l->gate.w, &l->up.w, &l->down.w};
        scheme_text(plan, out[i].scheme);
        for (int q = P_Q; q <= P_O; q++) {
            ReportMatrix *m = &out[i].matrix[q];
            matrix_before(m, &l->attn.w[q]);
            if (!s || !s->group[1 << q].n) continue;
            m->spectrum = s->group[1 << q].values;
            m->n_spectrum = s->group[1 << q].n;
            if (fisher) m->tolerated = at_half(&s->group[1 << q], m->rows, m->cols, !p->o.no_pivot);
        }
        for (int k = 0; k < plan->n_groups; k++) summarise_group(p, i, &plan->group[k], &out[i]);
        if (plan->n_groups && !plan->group[0].weighted &&
            mode_values(p, i, &plan->group[0], &out[i], e)) {
            summary_free(out, i);
            *layers = NULL;
            return -1;
        }
        for (int k = 0; k < N_FFN; k++) {
            ReportMatrix *m = &out[i].matrix[R_GATE + k];
            char name[32];
            matrix_before(m, ffn[k]);
            if (s && s->ffn[k].n) {
                m->spectrum = s->ffn[k].values;
                m->n_spectrum = s->ffn[k].n;
                if (fisher) m->tolerated = at_half(&s->ffn[k], m->rows, m->cols, false);
            }
            if (!plan->ffn[k]) continue;
            snprintf(name, sizeof name, "ffn_%s_laser_", (const char *[]){"gate", "up", "down"}[k]);
            m->factored = true;
            m->rank = plan->ffn[k];
            m->params[1] = m->bytes[1] = 0;
            count_items(p, i, name, &m->params[1], &m->bytes[1]);
            m->error = plan->ffn_error[k];
            if (fisher) m->predicted = plan->ffn_predicted[k];
        }
    }
    return out ? 0 : -1;
}
