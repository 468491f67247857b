// ranks: one budget shared by all matrices. For a price mu of a unit of cost every slot takes what
// minimises loss + mu cost by itself; bisection finds the price at which the sum fits the budget;
// single steps use up what is left of it.
#include "ranks.h"

#include <float.h>
#include <math.h>

static double part_price(const RankPart *p, double mu, int *best) {
    double least = INFINITY;
    for (int i = 0; i < p->n; i++) {
        const double price = p->option[i].loss + mu * p->option[i].cost;
        if (price < least) least = price, *best = i;
    }
    return least;
}

static double way_price(const RankWay *w, double mu, bool choose) {
    double sum = 0;
    for (int i = 0; i < w->n; i++) {
        int best = 0;
        sum += part_price(&w->part[i], mu, &best);
        if (choose) w->part[i].chosen = best;
    }
    return sum;
}

static RankTotal total_of(const RankSlot *slot, int n) {
    RankTotal t = {0};
    for (int s = 0; s < n; s++) {
        const RankWay *w = &slot[s].way[slot[s].chosen];
        for (int i = 0; i < w->n; i++) {
            const RankOption *o = &w->part[i].option[w->part[i].chosen];
            t.cost += o->cost;
            t.loss += o->loss;
        }
    }
    return t;
}

// Every slot's own best at price mu.
static RankTotal choose(RankSlot *slot, int n, double mu) {
    for (int s = 0; s < n; s++) {
        double least = INFINITY;
        for (int w = 0; w < slot[s].n; w++) {
            const double price = way_price(&slot[s].way[w], mu, false);
            if (price < least) least = price, slot[s].chosen = w;
        }
        way_price(&slot[s].way[slot[s].chosen], mu, true);
    }
    return total_of(slot, n);
}

// One step of one part to another option of it: the best ratio of what is gained to what is paid
// among those that the limit allows. Saving: gain is cost, paid is loss; else the other way round.
static bool step(RankSlot *slot, int n, bool saving, double room) {
    RankPart *where = NULL;
    int to = 0;
    double best = 0;
    for (int s = 0; s < n; s++) {
        RankWay *w = &slot[s].way[slot[s].chosen];
        for (int i = 0; i < w->n; i++) {
            RankPart *p = &w->part[i];
            const RankOption *now = &p->option[p->chosen];
            for (int k = 0; k < p->n; k++) {
                const double cost = p->option[k].cost - now->cost;
                const double loss = p->option[k].loss - now->loss;
                const double gain = saving ? -cost : -loss, paid = saving ? loss : cost;
                if (gain <= 0 || paid > room) continue;
                const double ratio = gain / (paid > DBL_MIN ? paid : DBL_MIN);
                if (ratio > best) best = ratio, where = p, to = k;
            }
        }
    }
    if (where) where->chosen = to;
    return where != NULL;
}

// The price at which `cost` (or, saving, `loss`) is just kept, by bisection between prices that are
// far too low and far too high. The side that keeps the limit is returned.
static RankTotal settle(RankSlot *slot, int n, bool saving, double limit) {
    double low = 1e-30, high = 1e30;             // of nats a unit of cost
    for (int i = 0; i < 300 && high / low > 1 + 1e-12; i++) {
        const double mu = sqrt(low) * sqrt(high);
        const RankTotal t = choose(slot, n, mu);
        const bool higher = saving ? t.loss <= limit : t.cost > limit;
        *(higher ? &low : &high) = mu;
    }
    RankTotal t = choose(slot, n, saving ? low : high);
    while (step(slot, n, saving, limit - (saving ? t.loss : t.cost))) t = total_of(slot, n);
    return t;
}

int ranks_for_cost(RankSlot *slot, int n, double cost, RankTotal *total, Err *e) {
    *total = choose(slot, n, 1e30);
    if (total->cost > cost)
        return fail(e, "a budget of %.0f is below the smallest possible, %.0f: ask for %.3g times as much",
                    cost, total->cost, total->cost / cost);
    *total = settle(slot, n, false, cost);
    return 0;
}

int ranks_for_loss(RankSlot *slot, int n, double loss, RankTotal *total, Err *e) {
    const RankTotal best = choose(slot, n, 1e-30);
    if (best.loss > loss)
        return fail(e, "a loss of %g is below the smallest possible, %g", loss, best.loss);
    *total = settle(slot, n, true, loss);
    return 0;
}

int rank_options(RankOption **options, int64_t rows, int64_t cols, const double *values,
                 int64_t n_values, bool pivoted, int64_t step_, double unit, double dense, Err *e) {
    RankOption *o = alloc((size_t)(n_values / step_ + 1), sizeof *o, "ranks", e);
    *options = o;
    if (!o) return -1;
    const int64_t most = (rows < cols ? rows : cols) - pivoted;      // beside pivots something is left
    int n = 0;
    o[n++] = (RankOption){0, dense, 0};
    double tail = 0;
    for (int64_t i = n_values - 1; i >= 0; i--) {               // tail = the sum of values[i ..]
        if (i < n_values - 1) tail += values[i + 1] / 2;
        const int64_t r = i + 1;
        const double cost = unit * (double)r * (double)(rows + cols - (pivoted ? r : 0));
        if (r % step_ == 0 && r <= most && cost < dense)
            o[n++] = (RankOption){r, cost, tail};
    }
    return n;
}
