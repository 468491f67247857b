// info: what a model file holds, without running it.
#include "tools.h"

#include <string.h>

static void part(const char *name, double params, double bytes, double all) {
    printf("  %-12s %14.0f %14.0f  %5.1f %%\n", name, params, bytes, all > 0 ? 100 * bytes / all : 0);
}

const char *scheme_of(const Attention *a, char out[16]) {
    char *p = out;
    for (int i = 0; i < a->n_groups; i++) {
        if (i) *p++ = '+';
        for (int q = P_Q; q <= P_O; q++)
            if (a->groups[i].set & 1 << q) *p++ = "qkvo"[q];
    }
    *p = 0;
    return *out ? out : "dense";
}

// One line a layer: its groups with their ranks, its attention's bytes and multiply-adds a token, and
// the ranks of the feed-forward where it is on factors.
static void layers(const Model *m) {
    bool pivoted = false, laser = false;
    printf("layer  scheme       ranks (embd, head, kind)           bytes a token  madds a token\n");
    for (int64_t l = 0; l < m->config.n_layers; l++) {
        const Layer *w = &m->layer[l];
        const Attention *a = &w->attn;
        char scheme[16], ranks[160] = "";
        for (int i = 0, at = 0; i < a->n_groups; i++) {
            const Group *g = &a->groups[i];
            at += snprintf(ranks + at, sizeof ranks - (size_t)at, "%s%lld%s,%lld,%lld", i ? " " : "",
                           (long long)g->r_embd, g->pivot ? "p" : "", (long long)g->r_head,
                           (long long)g->r_kind);
            pivoted |= g->pivot != NULL;
        }
        Cost cost = attention_cost(a);
        printf("%5lld  %-11s  %-33s %14.0f %14.0f", (long long)l, scheme_of(a, scheme), ranks,
               cost.bytes, cost.madds);
        const struct { const char *name; const LaserMat *m; } ffn[] = {
            {"gate", &w->gate}, {"up", &w->up}, {"down", &w->down}};
        for (int i = 0; i < 3; i++)
            if (ffn[i].m->a.rows) {
                printf("  %s %lld", ffn[i].name, (long long)ffn[i].m->a.rows);
                laser = true;
            }
        printf("\n");
    }
    if (pivoted) printf("p: the factor is pivoted\n");
    if (laser) printf("gate, up, down: ranks of the feed-forward's factors\n");
}

static void string_key(const Gguf *g, const char *key, const char *label) {
    Str s = {0};
    Err ignored;
    if (gguf_get_str(g, key, &s, &ignored) || !s.n) return;
    printf("%-14s ", label);
    for (size_t i = 0; i < s.n && i < 200; i++)
        putchar((unsigned char)s.s[i] < ' ' || s.s[i] == 127 ? '?' : s.s[i]);
    putchar('\n');
}

int tool_info(const Loaded *l, int kv_type, Err *e) {
    (void)e;
    const Gguf *g = l->file;
    printf("file           %s, %zu bytes, %llu tensors\n", l->path, g->map.size,
           (unsigned long long)g->n_tensors);
    string_key(g, "general.name", "name");
    string_key(g, "tucker.source.name", "made from");
    string_key(g, "tucker.source.sha256", "sha256");
    string_key(g, "tucker.method", "method");
    const Vocab *v = l->vocab;
    printf("tokenizer      %s, %d pieces, BOS %d%s, EOS %d%s\n",
           v->kind == VOCAB_SPM ? "SentencePiece BPE" : v->kind == VOCAB_WPM ? "WordPiece" : pre_name(v->pre),
           v->n, v->bos, v->add_bos ? " (added)" : "", v->eos, v->add_eos ? " (added)" : "");
    if (!l->model) return 0;

    const Model *m = l->model;
    const Config *c = &m->config;
    printf("architecture   %s: d %lld, %lld layers, %lld query heads, %lld KV heads of %lld, "
           "feed-forward %lld\n", c->arch, (long long)c->d, (long long)c->n_layers, (long long)c->h,
           (long long)c->n_kv, (long long)c->hd, (long long)c->f);
    const char *const acts[] = {"silu", "gelu", "gelu (tanh)"};
    printf("layers         %s, %s %s, %s%s\n", c->encoder ? "encoder" : "decoder",
           c->layer_norm ? "LayerNorm" : "RMSNorm",
           c->post_norm ? "behind each sublayer" : c->parallel ? "before both sublayers"
                                                               : "before each sublayer",
           acts[c->act], c->gated ? "-gated" : "");
    if (c->encoder)
        printf("head           %s\n", model_predicts(m) ? "masked tokens" : "none (hidden states only)");
    if (!c->rope_dims) printf("positions      %lld, learned", (long long)c->context);
    else
        printf("positions      %lld, rope base %g, scale %g%s, %lld of %lld numbers a head, %s pairs",
               (long long)c->context, c->rope_base, c->rope_scale,
               m->rope_factors ? " and a factor a pair" : "", (long long)c->rope_dims, (long long)c->hd,
               c->rope_half ? "half" : "interleaved");
    if (c->window) printf(", window %lld", (long long)c->window);
    printf("\n\n");

    Parts params = model_params(m), bytes = model_bytes(m);
    double all = bytes.attention + bytes.ffn + bytes.embedding + bytes.output + bytes.other;
    printf("  part             parameters          bytes\n");
    part("attention", params.attention, bytes.attention, all);
    part("feed-forward", params.ffn, bytes.ffn, all);
    part(m->output.data == m->embedding.data ? "embedding=out" : "embedding", params.embedding,
         bytes.embedding, all);
    if (bytes.output > 0) part("output", params.output, bytes.output, all);
    part("norms, bias", params.other, bytes.other, all);
    part("total", params.attention + params.ffn + params.embedding + params.output + params.other, all,
         all);
    printf("  a token's step reads %.0f bytes of weights\n\n", model_step_bytes(m));
    layers(m);
    if (c->encoder) return 0;                        // it caches nothing from text to text

    // The cache, summed over the layers; the dense form beside the one that auto chooses.
    double dense = 0, chosen = 0;
    int latent[2] = {0};                       // layers whose K, whose V is
    for (int64_t i = 0; i < c->n_layers; i++) {
        const Attention *a = &m->layer[i].attn;
        Cache plain = attention_cache(a, kv_type, 1, CACHE_DENSE);
        Cache best = attention_cache(a, kv_type, 1, CACHE_AUTO);
        dense += attention_cache_cost(a, &plain).bytes;
        chosen += attention_cache_cost(a, &best).bytes;
        latent[0] += best.z_width > 0;
        latent[1] += best.latent;
    }
    printf("\ncache          %.0f bytes a position in %s", chosen, type_info(kv_type)->name);
    if (latent[0] || latent[1])
        printf(" (%.0f dense; of %lld layers K as latents in %d, V in %d)", dense, (long long)c->n_layers,
               latent[0], latent[1]);
    printf("\n");
    return 0;
}
