// ranks: budgets against brute force on small problems; options against the definition.
#include "../export/ranks.h"
#include "test.h"

// A random problem: `slots` slots of two ways, of two and of one parts.
enum { SLOTS = 3, MOST = 6 };
typedef struct {
    RankOption option[SLOTS][3][MOST];
    RankPart part[SLOTS][3];
    RankWay way[SLOTS][2];
    RankSlot slot[SLOTS];
} Small;

static void make_small(Small *p, uint64_t seed) {
    for (int s = 0; s < SLOTS; s++) {
        for (int i = 0; i < 3; i++) {
            int n = 3 + (int)(random_u64(&seed) % (MOST - 2));
            p->option[s][i][0] = (RankOption){0, i == 2 ? 20 : 10, 0};
            for (int k = 1; k < n; k++)
                p->option[s][i][k] = (RankOption){k, (double)(random_u64(&seed) % 10) + (i == 2 ? 5 : 0),
                                                  random_f32(&seed)};
            p->part[s][i] = (RankPart){p->option[s][i], n, 0};
        }
        p->way[s][0] = (RankWay){p->part[s], 2};
        p->way[s][1] = (RankWay){p->part[s] + 2, 1};
        p->slot[s] = (RankSlot){p->way[s], 2, 0};
    }
}

static RankTotal total_of(const Small *p) {
    RankTotal t = {0};
    for (int s = 0; s < SLOTS; s++) {
        const RankWay *w = &p->slot[s].way[p->slot[s].chosen];
        for (int i = 0; i < w->n; i++) {
            t.cost += w->part[i].option[w->part[i].chosen].cost;
            t.loss += w->part[i].option[w->part[i].chosen].loss;
        }
    }
    return t;
}

// Every choice of every slot, its cost and loss in a list.
static int all_choices(const Small *p, int s, RankTotal *out) {
    int n = 0;
    for (int a = 0; a < p->part[s][0].n; a++)
        for (int b = 0; b < p->part[s][1].n; b++)
            out[n++] = (RankTotal){p->option[s][0][a].cost + p->option[s][1][b].cost,
                                   p->option[s][0][a].loss + p->option[s][1][b].loss};
    for (int c = 0; c < p->part[s][2].n; c++)
        out[n++] = (RankTotal){p->option[s][2][c].cost, p->option[s][2][c].loss};
    return n;
}

static double best_loss(const Small *p, double budget) {
    RankTotal c[SLOTS][64];
    int n[SLOTS];
    double best = INFINITY;
    for (int s = 0; s < SLOTS; s++) n[s] = all_choices(p, s, c[s]);
    for (int i = 0; i < n[0]; i++)
        for (int j = 0; j < n[1]; j++)
            for (int k = 0; k < n[2]; k++) {
                double cost = c[0][i].cost + c[1][j].cost + c[2][k].cost;
                double loss = c[0][i].loss + c[1][j].loss + c[2][k].loss;
                if (cost <= budget && loss < best) best = loss;
            }
    return best;
}

static int budgets(void) {
    double lost = 0, least = 0;
    for (uint64_t seed = 1; seed <= 200; seed++) {
        Small p;
        RankTotal t;
        Err e = {""};
        make_small(&p, seed);
        const double budget = 12 + (double)(seed % 40);
        const double best = best_loss(&p, budget);
        const int result = ranks_for_cost(p.slot, SLOTS, budget, &t, &e);
        CHECK(result == (best == INFINITY ? -1 : 0), "seed %d: %d, brute force %g, %s", (int)seed,
              result, best, e.msg);
        if (result) continue;
        CHECK(t.cost <= budget, "cost %g of %g", t.cost, budget);
        const RankTotal real = total_of(&p);
        CHECK(fabs(real.cost - t.cost) < 1e-9 && fabs(real.loss - t.loss) < 1e-9,
              "said %g %g, chosen %g %g", t.cost, t.loss, real.cost, real.loss);
        CHECK(t.loss >= best - 1e-12, "loss %g below the best %g", t.loss, best);
        lost += t.loss - best;
        least += best;
    }
    // A price per unit finds the convex hull only; what is between is left to single steps.
    CHECK(lost < 0.15 * least, "on average %g more than the best %g", lost / 200, least / 200);
    return PASS;
}

static int losses(void) {
    for (uint64_t seed = 1; seed <= 100; seed++) {
        Small p;
        RankTotal t, back;
        Err e = {""};
        make_small(&p, seed);
        const double limit = 0.05 * (double)(1 + seed % 20);
        CHECK(ranks_for_loss(p.slot, SLOTS, limit, &t, &e) == 0, "%s", e.msg);
        CHECK(t.loss <= limit, "loss %g of %g", t.loss, limit);
        CHECK(fabs(total_of(&p).loss - t.loss) < 1e-9, "said %g", t.loss);
        CHECK(ranks_for_cost(p.slot, SLOTS, t.cost, &back, &e) == 0, "%s", e.msg);
        CHECK(back.loss <= limit + 0.5, "%g at the cost of %g", back.loss, limit);
    }
    return PASS;
}

// A budget that everything fits loses nothing; the same problem twice gives the same choice.
static int edges(void) {
    Small p, q;
    RankTotal t, u;
    Err e = {""};
    make_small(&p, 7);
    make_small(&q, 7);
    CHECK(ranks_for_cost(p.slot, SLOTS, 1e9, &t, &e) == 0 && t.loss == 0, "loss %g", t.loss);
    CHECK(ranks_for_cost(p.slot, SLOTS, -1, &t, &e) == -1 && strstr(e.msg, "smallest"), "%s", e.msg);
    make_small(&p, 7);
    CHECK(!ranks_for_cost(p.slot, SLOTS, 30, &t, &e) && !ranks_for_cost(q.slot, SLOTS, 30, &u, &e),
          "%s", e.msg);
    for (int s = 0; s < SLOTS; s++) {
        CHECK(p.slot[s].chosen == q.slot[s].chosen, "slot %d", s);
        for (int i = 0; i < 3; i++)
            CHECK(p.part[s][i].chosen == q.part[s][i].chosen, "slot %d part %d", s, i);
    }
    return PASS;
}

static int options(void) {
    const double values[8] = {128, 64, 32, 16, 8, 4, 2, 1};
    RankOption *o;
    Err e = {""};
    int n = rank_options(&o, 8, 12, values, 8, true, 2, 1, 96, &e);
    CHECK(n == 4, "%d options", n);                 // dense, 6, 4, 2: at 8 nothing is saved
    CHECK(o[0].rank == 0 && o[0].cost == 96 && o[0].loss == 0, "dense: %g %g", o[0].cost, o[0].loss);
    for (int i = 1; i < n; i++) {
        double tail = 0;
        for (int64_t k = o[i].rank; k < 8; k++) tail += values[k] / 2;
        CHECK(o[i].rank == 8 - 2 * i, "rank %lld", (long long)o[i].rank);
        CHECK(o[i].loss == tail, "rank %lld: loss %g, not %g", (long long)o[i].rank, o[i].loss, tail);
        CHECK(o[i].cost == (double)(o[i].rank * (20 - o[i].rank)), "cost %g", o[i].cost);
    }
    free(o);
    n = rank_options(&o, 8, 12, values, 8, false, 1, 0.5, 48, &e);
    CHECK(n == 5 && o[1].rank == 4 && o[1].cost == 40, "%d options, first %lld at %g", n,
          (long long)o[1].rank, o[1].cost);
    free(o);
    return PASS;
}

static const Test tests[] = {
    {"budgets against brute force", budgets}, {"losses", losses}, {"edges", edges},
    {"options of a matrix", options},
};
int main(int argc, char **argv) { return run_tests("ranks", tests, COUNT(tests), argc, argv); }
