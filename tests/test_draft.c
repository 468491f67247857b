// draft: what a draft proposes never changes what the target says. Greedy text to the token, for drafts
// that are the target itself, its weights in 4 bits, another model; drawn text by its frequencies, and
// the rule of acceptance by enumeration.
#include "../tools/draft.h"
#include "rig.h"

enum { MOST_TEXT = 96 };
static const SamplerConfig greedy = {.temp = 0, .top_p = 1, .repeat_penalty = 1, .seed = 3};
static const int prompt[] = {3, 1, 4, 1, 5, 9, 2, 6};

// n tokens behind the prompt: by the target alone (d = NULL), or with a draft. Returns how many there were.
static int say(Session *s, Sampler *sampler, Draft *d, int64_t n, int *to, Err *e) {
    int made = 0;
    if (d ? draft_prefill(d, prompt, COUNT(prompt), e) : prefill(s, prompt, COUNT(prompt), e)) return -1;
    for (int i = 0; i < COUNT(prompt); i++) sampler_accept(sampler, prompt[i]);
    for (int64_t i = 0; i < n; i++) {
        int id = d ? draft_pick(d) : sampler_pick(sampler, logits(s, s->n - 1, 1));
        sampler_accept(sampler, id);
        to[made++] = id;
        if (i + 1 == n || (d ? d->pos : s->pos) >= s->config.context) break;
        if (d ? draft_forward(d, id, n - i - 1, e) : forward(s, &id, 1, e)) return -1;
    }
    if (d) draft_rest(d);
    return made;
}

typedef struct { Session s; Sampler sampler; Draft draft; } Pair;
static int pair_init(Pair *p, const Model *m, const Model *draft, SessionConfig c, SamplerConfig sc,
                     int64_t most, float sure, Err *e) {
    memset(p, 0, sizeof *p);
    if (session_init(&p->s, m, c, e) || sampler_init(&p->sampler, (int)m->config.vocab, sc, e)) return -1;
    return draft ? draft_init(&p->draft, draft, &p->s, &p->sampler, most, sure, e) : 0;
}
static void pair_free(Pair *p) {
    draft_free(&p->draft);
    session_free(&p->s);
    sampler_free(&p->sampler);
}

// The same greedy text with and without, for both drafts, several lengths and a context that is too short.
static int same_text(const char *name, const Model *m, const Model *draft, SessionConfig c, SamplerConfig sc,
                     bool all) {
    for (int64_t context = 20; context <= 64; context += SANITIZED ? 44 : 22)
        for (int64_t most = 1; most <= DRAFT_MOST; most = most * 2 + 1)
            for (float sure = 0; sure < 1; sure += SANITIZED ? 0.6f : 0.45f) {
                int alone[MOST_TEXT], with[MOST_TEXT];
                Pair a, b;
                Err e;
                c.context = context;
                CHECK(pair_init(&a, m, NULL, c, sc, 0, 0, &e) == 0, "%s", e.msg);
                CHECK(pair_init(&b, m, draft, c, sc, most, sure, &e) == 0, "%s", e.msg);
                int n = say(&a.s, &a.sampler, NULL, 60, alone, &e);
                int k = say(&b.s, &b.sampler, &b.draft, 60, with, &e);
                const int64_t made = 60 < context - COUNT(prompt) + 1 ? 60 : context - COUNT(prompt) + 1;
                CHECK(n == made && k == n, "%s: %d and %d tokens, not %d: %s", name, n, k, (int)made,
                      n < 0 || k < 0 ? e.msg : "");
                for (int i = 0; i < n; i++)
                    CHECK(alone[i] == with[i], "%s: token %d is %d, alone %d", name, i, with[i], alone[i]);
                CHECK(a.s.pos == b.s.pos, "%s: %d positions, alone %d", name, (int)b.s.pos, (int)a.s.pos);
                CHECK(b.draft.proposed > 0 && b.draft.kept <= b.draft.proposed, "%s", name);
                if (all) CHECK(b.draft.kept == b.draft.proposed, "%s: %d of %d kept", name,
                               (int)b.draft.kept, (int)b.draft.proposed);
                pair_free(&a);
                pair_free(&b);
            }
    return PASS;
}

static const Rig small = {.arch = "llama", .d = 64, .h = 4, .n_kv = 2, .hd = 16, .f = 96, .vocab = 50,
                          .layers = 2, .context = 64, .type = T_F32, .seed = 11};

static int greedy_text_is_the_targets(void) {
    static const struct { const char *arch; int type; const char *scheme; CacheForm form;
                   int64_t laser; } all[] = {
        {"llama", T_F32, NULL, CACHE_AUTO, 0}, {"llama", T_F16, "qkvo", CACHE_AUTO, 0},
        {"llama", T_Q8_0, "qkv+o", CACHE_LATENT, 32}, {"llama", T_Q4_0, NULL, CACHE_AUTO, 0},
        {"gpt2", T_F32, "qkvo", CACHE_LATENT, 0}, {"qwen3", T_F16, NULL, CACHE_AUTO, 0},
        {"gptj", T_F32, NULL, CACHE_AUTO, 0},
    };
    for (int i = 0; i < COUNT(all); i++) {
        Rig c = small, same = small, other = small;
        RigModel target, coarse, bad;
        Err e;
        c.arch = same.arch = other.arch = all[i].arch;
        if (rig_plain(&c)) c.n_kv = same.n_kv = other.n_kv = c.h;
        c.type = all[i].type, same.type = T_Q4_0, other.seed = 99;
        RigTucker t = {.scheme = all[i].scheme, .r_embd = 32, .laser = {all[i].laser, all[i].laser, 0}};
        CHECK(rig_build(&target, &c, all[i].scheme ? &t : NULL, &e) == 0, "%s", e.msg);
        CHECK(rig_build(&coarse, &same, NULL, &e) == 0 &&
              rig_build(&bad, &other, NULL, &e) == 0, "%s", e.msg);
        // uniform: single tokens add up as those of a batch, to the bit
        SessionConfig session = {0, 16, T_F32, all[i].form, true};
        SamplerConfig penalised = greedy;
        penalised.repeat_penalty = 1.5f, penalised.repeat_last = 6;
        if (same_text("itself", &target.m, &target.m, session, greedy, true) ||
            same_text("in 4 bits", &target.m, &coarse.m, session, penalised, false) ||
            same_text("another", &target.m, &bad.m, session, greedy, false)) {
            printf("  of %s, %s, %s\n", all[i].arch,
                   type_info(c.type)->name, all[i].scheme ? all[i].scheme : "dense");
            return FAIL;
        }
        rig_free(&target);
        rig_free(&coarse);
        rig_free(&bad);
    }
    return PASS;
}

// A text may end within a draft: what was proposed behind leaves no trace in the caches.
static int ends_within_a_draft(void) {
    RigModel target;
    Err e;
    CHECK(rig_build(&target, &small, NULL, &e) == 0, "%s", e.msg);
    for (int64_t n = 1; n < 12; n++) {
        Pair a, b;
        int alone[MOST_TEXT], with[MOST_TEXT];
        SessionConfig c = {64, 16, T_F16, CACHE_AUTO, true};
        CHECK(pair_init(&a, &target.m, NULL, c, greedy, 0, 0, &e) == 0, "%s", e.msg);
        CHECK(pair_init(&b, &target.m, &target.m, c, greedy, 5, 0, &e) == 0, "%s", e.msg);
        for (int turn = 0; turn < 3; turn++) {
            // as in a chat: the loop is left before what was picked last is computed
            int k = say(&a.s, &a.sampler, NULL, n, alone, &e), left = 0, id = 0;
            CHECK(draft_prefill(&b.draft, prompt, COUNT(prompt), &e) == 0, "%s", e.msg);
            while (left < k) {
                with[left++] = id = draft_pick(&b.draft);
                if (left < k) CHECK(draft_forward(&b.draft, id, 40, &e) == 0, "%s", e.msg);
            }
            draft_rest(&b.draft);
            for (int i = 0; i < k; i++)
                CHECK(alone[i] == with[i], "turn %d of %d tokens: token %d", turn, (int)n, i);
            CHECK(a.s.pos == b.s.pos && b.draft.session.pos <= b.s.pos, "%d, %d", (int)a.s.pos, (int)b.s.pos);
        }
        pair_free(&a);
        pair_free(&b);
    }
    rig_free(&target);
    return PASS;
}

// p and q in 24ths over five tokens, u and v on a grid: what comes out, summed over x drawn from q, is p.
static int rule_by_enumeration(void) {
    enum { GRID = 480 };
    static const int cases[][2][5] = {
        {{12, 6, 3, 2, 1}, {6, 12, 1, 3, 2}}, {{24, 0, 0, 0, 0}, {0, 12, 12, 0, 0}},
        {{8, 8, 8, 0, 0}, {0, 0, 8, 8, 8}}, {{6, 6, 6, 6, 0}, {6, 6, 6, 6, 0}},
        {{1, 2, 4, 7, 10}, {24, 0, 0, 0, 0}},
    };
    double spare[5] = {0};
    for (int k = 0; k < COUNT(cases); k++) {
        Candidate p[5], q[5];
        Distribution of_p = {p, 0, 12}, of_q = {q, 0, 48};      // weights, divided by different sums
        double out[5] = {0}, kept_in_all = 0, common = 0;
        for (int i = 0; i < 5; i++) {
            const int a = cases[k][0][i], b = cases[k][1][i];
            if (a) p[of_p.n++] = (Candidate){(float)a / 2, i};
            if (b) q[of_q.n++] = (Candidate){(float)b * 2, i};
            common += (a < b ? a : b) / 24.0;
        }
        for (int i = 0; i < of_q.n; i++)
            for (int u = 0; u < GRID; u++)
                for (int v = 0; v < GRID; v++) {
                    bool kept;
                    const float fu = ((float)u + 0.5f) / GRID, fv = ((float)v + 0.5f) / GRID;
                    const int id = draft_judge(q[i].id, of_p, of_q, fu, fv, spare, &kept);
                    const double weight = q[i].p / of_q.sum / GRID / GRID;
                    CHECK(!kept || id == q[i].id, "kept %d, gave %d", q[i].id, id);
                    out[id] += weight;
                    kept_in_all += kept * weight;
                }
        for (int i = 0; i < 5; i++) {
            CHECK(fabs(out[i] - cases[k][0][i] / 24.0) < 5.0 / GRID, "case %d token %d: %g, not %d/24", k, i,
                  out[i], cases[k][0][i]);
            CHECK(spare[i] == 0, "spare is not left as it was");
        }
        CHECK(fabs(kept_in_all - common) < 5.0 / GRID, "case %d: %g kept, not %g", k, kept_in_all, common);
    }
    return PASS;
}

// Three tokens drawn with a draft, thousands of times, against the target's own probabilities of each of
// the V^3 texts. The critical value is that of one chance in 100,000 for a right program.
enum { V = 5, CELLS = V * V * V, DRAWS = SANITIZED ? 1000 : 20000 };
static int texts_of_target(const Model *m, SamplerConfig sc, double *p, Err *e) {
    memset(p, 0, CELLS * sizeof *p);
    Session s;
    Sampler own;
    SessionConfig c = {16, 16, T_F32, CACHE_AUTO, true};
    if (session_init(&s, m, c, e) || sampler_init(&own, V, sc, e)) return -1;
    for (int cell = 0; cell < CELLS; cell++) {
        const int id[3] = {cell / V / V, cell / V % V, cell % V};
        const Candidate *of;
        double sum, all = 1;
        session_rewind(&s, 0);
        own.n_recent = 0;
        if (forward(&s, (int[]){1, 2}, 2, e)) return -1;
        for (int i = 0; i < 3; i++) {
            double here = 0;
            int n = sampler_candidates(&own, logits(&s, s.n - 1, 1), &of, &sum);
            for (int k = 0; k < n; k++) if (of[k].id == id[i]) here = of[k].p / sum;
            all *= here;
            sampler_accept(&own, id[i]);
            if (forward(&s, &id[i], 1, e)) return -1;
        }
        p[cell] = all;
    }
    session_free(&s);
    sampler_free(&own);
    return 0;
}

static int frequencies_are_the_targets(void) {
    const SamplerConfig all[] = {
        {.temp = 1, .top_p = 1, .repeat_penalty = 1, .seed = 21},
        {.temp = 0.7f, .top_k = 3, .top_p = 1, .repeat_penalty = 1.3f, .repeat_last = 2, .seed = 22},
        {.temp = 1.5f, .top_p = 0.8f, .min_p = 0.05f, .repeat_penalty = 1, .seed = 23},
    };
    Rig c = small, other = small;
    RigModel target, draft;
    Err e;
    c.vocab = other.vocab = V, c.layers = other.layers = 1, other.seed = 12;
    CHECK(rig_build(&target, &c, NULL, &e) == 0 && rig_build(&draft, &other, NULL, &e) == 0, "%s", e.msg);
    for (int k = 0; k < COUNT(all); k++) {
        double p[CELLS], chi = 0;
        int count[CELLS] = {0}, cells = 0;
        Pair b;
        CHECK(texts_of_target(&target.m, all[k], p, &e) == 0, "%s", e.msg);
        SessionConfig session = {16, 16, T_F32, CACHE_AUTO, true};
        CHECK(pair_init(&b, &target.m, &draft.m, session, all[k], 2, 0, &e) == 0, "%s", e.msg);
        for (int i = 0; i < DRAWS; i++) {
            int cell = 0;
            b.draft.pos = 0, b.sampler.n_recent = 0;                    // from the start again
            CHECK(draft_prefill(&b.draft, (int[]){1, 2}, 2, &e) == 0, "%s", e.msg);
            for (int at = 0; at < 3; at++) {
                const int id = draft_pick(&b.draft);
                sampler_accept(&b.sampler, id);
                cell = cell * V + id;
                CHECK(draft_forward(&b.draft, id, 8, &e) == 0, "%s", e.msg);
            }
            count[cell]++;
        }
        for (int i = 0; i < CELLS; i++) {
            CHECK(p[i] > 0 || count[i] == 0, "config %d: a text that cannot be came %d times", k, count[i]);
            if (p[i] <= 0) continue;
            chi += (count[i] - DRAWS * p[i]) * (count[i] - DRAWS * p[i]) / (DRAWS * p[i]);
            cells++;
        }
        const double freedom = cells - 1, z = 4.265, h = 2 / (9 * freedom);     // Wilson and Hilferty
        const double most = freedom * pow(1 - h + z * sqrt(h), 3);
        CHECK(cells > 5 && chi < most, "config %d: chi-square %g of %d texts, at most %g", k, chi,
              cells, most);
        CHECK(b.draft.kept > DRAWS / 20 && b.draft.proposed - b.draft.kept > DRAWS / 20,
              "config %d tests little: %d of %d kept", k, (int)b.draft.kept, (int)b.draft.proposed);
        pair_free(&b);
    }
    rig_free(&target);
    rig_free(&draft);
    return PASS;
}

static int refuses_other_vocabularies(void) {
    Str a[3] = {{"x", 1}, {"y", 1}, {"z", 1}}, b[3] = {{"x", 1}, {"yy", 2}, {"z", 1}};
    Vocab va = {.kind = VOCAB_BPE, .n = 3, .piece = a}, vb = va;
    Model m = {.config = {.vocab = 4, .arch = "llama"}}, wide = m, encoder = m;
    Loaded target = {.path = "target.gguf", .vocab = &va, .model = &m};
    Loaded draft = {.path = "draft.gguf", .vocab = &vb, .model = &m};
    Err e = {""};
    CHECK(draft_fits(&target, &draft, &e) == 0, "%s", e.msg);
    vb.piece = b;
    CHECK(draft_fits(&target, &draft, &e) && strstr(e.msg, "token 1 is \"yy\", in target.gguf \"y\""), "%s",
          e.msg);
    vb.piece = a, vb.n = 2;
    CHECK(draft_fits(&target, &draft, &e) && strstr(e.msg, "draft.gguf: 2 tokens"), "%s", e.msg);
    vb = va, vb.kind = VOCAB_SPM;
    CHECK(draft_fits(&target, &draft, &e) && strstr(e.msg, "another kind"), "%s", e.msg);
    vb = va, wide.config.vocab = 8, draft.model = &wide;
    CHECK(draft_fits(&target, &draft, &e) && strstr(e.msg, "(8 rows)"), "%s", e.msg);
    encoder.config.encoder = true, draft.model = &encoder;
    CHECK(draft_fits(&target, &draft, &e) && strstr(e.msg, "encoder"), "%s", e.msg);
    return PASS;
}

// Beyond the positions that the draft has nothing is proposed, and the text goes on.
static int outlives_a_short_draft(void) {
    Rig shorter = small;
    RigModel target, draft;
    Err e;
    shorter.context = 24;
    CHECK(rig_build(&target, &small, NULL, &e) == 0 &&
          rig_build(&draft, &shorter, NULL, &e) == 0, "%s", e.msg);
    SessionConfig c = {64, 16, T_F32, CACHE_AUTO, true};
    Pair a, b;
    int alone[MOST_TEXT], with[MOST_TEXT];
    CHECK(pair_init(&a, &target.m, NULL, c, greedy, 0, 0, &e) == 0, "%s", e.msg);
    CHECK(pair_init(&b, &target.m, &draft.m, c, greedy, 4, 0, &e) == 0, "%s", e.msg);
    const int n = say(&a.s, &a.sampler, NULL, 90, alone, &e);
    const int k = say(&b.s, &b.sampler, &b.draft, 90, with, &e);
    CHECK(n == 57 && k == n && memcmp(alone, with, (size_t)n * sizeof *alone) == 0, "%d and %d tokens", n, k);
    CHECK(b.draft.proposed > 8 && b.draft.proposed <= 20, "%d proposed", (int)b.draft.proposed);
    pair_free(&a);
    pair_free(&b);
    rig_free(&target);
    rig_free(&draft);
    return PASS;
}

static const Test tests[] = {
    {"greedy_text_is_the_targets", greedy_text_is_the_targets},
    {"ends_within_a_draft", ends_within_a_draft},
    {"rule_by_enumeration", rule_by_enumeration},
    {"frequencies_are_the_targets", frequencies_are_the_targets},
    {"refuses_other_vocabularies", refuses_other_vocabularies},
    {"outlives_a_short_draft", outlives_a_short_draft},
};

int main(int argc, char **argv) { return run_tests("draft", tests, COUNT(tests), argc, argv); }
