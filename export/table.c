// table: the lines that say what an export did: layer by layer ranks, errors and parameters, then
// totals. Prints to standard output, computes nothing that is stored.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "plan.h"

typedef struct { double params, bytes; } Size;

// 1,234,567
static const char *commas(double v) {
    static char text[4][32];
    static int turn;
    char digits[32], *out = text[turn++ % 4], *at = out;
    int n = snprintf(digits, sizeof digits, "%.0f", v);
    for (int i = 0; i < n; i++) {
        if (i && (n - i) % 3 == 0) *at++ = ',';
        *at++ = digits[i];
    }
    *at = 0;
    return out;
}

static double percent(double part, double whole) { return whole > 0 ? 100 * part / whole : 100; }

// A layer's attention matrices, or the factors that stand for them.
static bool is_attention(const char *name) {
    static const char *const parts[] = {"attn_q.weight", "attn_k.weight", "attn_v.weight",
                                        "attn_output.weight"};
    const char *part = strncmp(name, "blk.", 4) ? NULL : strchr(name + 4, '.');
    for (int i = 0; part && i < 4; i++)
        if (strcmp(part + 1, parts[i]) == 0) return true;
    return part && strncmp(part + 1, "attn_tucker_", 12) == 0;
}

static void count(Size *s, double params, double bytes) {
    s->params += params;
    s->bytes += bytes;
}

static void total(const char *what, Size before, Size after) {
    printf("%-10s  parameters %15s -> %15s (%5.1f %%)\n", what, commas(before.params), commas(after.params),
           percent(after.params, before.params));
    printf("%-10s  bytes      %15s -> %15s (%5.1f %%)\n", "", commas(before.bytes), commas(after.bytes),
           percent(after.bytes, before.bytes));
}

static double params_of(const Plan *p, const GroupPlan *g) {
    return (double)(g->pivoted ? pivoted_params(p->shape, g->set, g->rank[EMBD])
                               : group_params(p->shape, g->set, g->rank[EMBD], g->rank[HEAD],
                                              g->rank[KIND]));
}

static void print_layer(const Plan *p, int i) {
    const LayerPlan *l = &p->layer[i];
    char scheme[8], ranks[128] = "";
    double before = 0, after = 0;
    int seen = 0;
    scheme_text(l, scheme);
    for (int k = 0; k < l->n_groups; k++) {
        const GroupPlan *g = &l->group[k];
        size_t used = strlen(ranks);
        if (g->weighted)
            snprintf(ranks + used, sizeof ranks - used, "%s%lld", k ? "+" : "",
                     (long long)g->rank[EMBD]);
        else
            snprintf(ranks + used, sizeof ranks - used, "%s%lld,%lld,%lld", k ? " + " : "",
                     (long long)g->rank[EMBD], (long long)g->rank[HEAD], (long long)g->rank[KIND]);
        before += (double)dense_params(p->shape, g->set);
        after += params_of(p, g);
        seen |= g->set;
    }
    for (int q = P_Q; q <= P_O; q++) {
        double dense = (double)dense_params(p->shape, 1 << q);
        if (seen & 1 << q) continue;
        before += dense;
        after += dense;
    }
    printf("%5d  %-8s", i, scheme);
    for (int q = P_Q; q <= P_O; q++)
        if (seen & 1 << q) printf("  %.3f", l->error[q]);
        else printf("  dense");
    printf(" %11s %5.1f %%  %s", commas(after), percent(after, before), ranks);
    const char *between = "\n%15s";        // the feed-forward's ranks have a line of their own
    for (int k = 0; k < N_FFN; k++) {
        if (!l->ffn[k]) continue;
        printf(between, "");
        printf("  %s %lld", (const char *[]){"gate", "up", "down"}[k], (long long)l->ffn[k]);
        between = "%s";
    }
    putchar('\n');
}

static bool factored(const LayerPlan *l) {
    return l->n_groups || l->ffn[F_GATE] || l->ffn[F_UP] || l->ffn[F_DOWN];
}

static void print_layers(const Plan *p) {
    printf("By %s. Of every layer the errors |W - W'| / |W|, W' the factors multiplied\n"
           "out, and what stays of attention's %s parameters.\n"
           "layer  scheme        Q      K      V      O  parameters   stay  %s\n",
           method_name(p->o.method), commas((double)dense_params(p->shape, HAS_Q | HAS_K | HAS_V | HAS_O)),
           p->o.method < METHOD_INPUT ? "embd,head,kind" : "ranks");
    for (int i = 0, end; i < p->n_layers; i = end) {
        for (end = i; end < p->n_layers && !factored(&p->layer[end]);) end++;
        if (end == i) print_layer(p, end++);
        else if (end == i + 1) printf("%5d  dense\n", i);
        else printf("%2d-%-3d dense\n", i, end - 1);
    }
}

void table(const Plan *p, double measured, double took) {
    Size before[2] = {0}, after[2] = {0};              // attention, all
    const Gguf *g = &p->source->g;
    if (!p->o.dense && !p->o.rebuild) print_layers(p);
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        const GgufTensor *t = &g->tensor[i];
        char name[GGUF_MAX_NAME + 1];
        snprintf(name, sizeof name, "%.*s", (int)t->name.n, t->name.s);
        double params = (double)t->ne[0] * (double)t->ne[1] * (double)t->ne[2] * (double)t->ne[3];
        for (int k = is_attention(name) ? 0 : 1; k < 2; k++)
            count(&before[k], params, (double)t->size);
    }
    for (size_t i = 0; i < p->n_items; i++)
        for (int k = is_attention(p->item[i].name) ? 0 : 1; k < 2; k++)
            count(&after[k], p->item[i].type == T_I32 ? 0 : (double)p->item[i].rows * (double)p->item[i].cols,
                     (double)item_bytes(&p->item[i]));            // indices are no parameters
    for (int i = 0; i < p->n_stacks; i++) {
        const Stack *s = &p->stack[i];
        printf("trawl: %s of layers %d-%d, %lld matrices, ", s->attn ? "attention" : "feed-forward",
               s->first, s->last, (long long)s->n[2]);
        if (s->cp) printf("cp of rank %lld", (long long)s->rank[0]);
        else printf("tucker of ranks %lld,%lld,%lld", (long long)s->rank[0], (long long)s->rank[1],
                    (long long)s->rank[2]);
        printf(": error %.4f, %s -> %s parameters as factors, stored dense\n", s->error,
               commas(s->params[0]), commas(s->params[1]));
    }
    total("attention", before[0], after[0]);
    total("weights", before[1], after[1]);
    if (p->o.method == METHOD_FISHER && p->weighted)
        printf("calibration loss: %+.4f nats predicted, ", p->predicted);
    else if (!isnan(measured)) printf("calibration loss: ");
    if (!isnan(measured)) printf("%+.4f nats measured\n", measured);
    printf("%s written in %.1f s\n", p->o.out, took);
}
