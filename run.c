// run: the command line. Loads a model, then generates, chats, or hands over to a tool. This file
// and export/export.c are the only ones that print errors and exit.
#include "tools/draft.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char usage[] =
"usage: ./run MODEL [options]            MODEL: a .tbin, or a dense GGUF\n"
"text   -p TEXT | -f FILE | standard input    the prompt (\"\": from BOS alone)\n"
"       -i               chat, by the model's own template; -p: its first message\n"
"       --system TEXT    the chat's system message\n"
"       --no-echo        without the prompt       --ids   token ids, not text\n"
"       -n N             tokens to generate (256; chat: as many as there is room)\n"
"       -c N             positions of the cache (prompt + n; chat: 4096)\n"
"draw   -s SEED (1)      --temp T (0.8; 0: greedy)\n"
"       --top-k K (40; 0: all)     --top-p P (0.95)     --min-p P (0.05)\n"
"       --repeat-penalty R (1: off)     --repeat-last N (64)\n"
"run    -t N             threads (OMP_NUM_THREADS, else all cores)\n"
"       -b N             tokens computed together in a prompt (128)\n"
"       --kv f32|f16|q8  type of the cache (f16)\n"
"       --cache auto|dense|latent    K and V of factored layers (auto: by cost)\n"
"       --draft FILE     a cheaper model proposes, MODEL judges: text as before\n"
"       --draft-tokens N     at once (5)\n"
"look   --info           configuration, ranks, parameters and bytes by part\n"
"       --explain        a layer's factors to scale and what a token costs in it\n"
"       --layer L            which (the middle one of those that are factored)\n"
"       -p TEXT              and what its heads look at in a text\n"
"judge  --perplexity FILE    how well it predicts a text\n"
"       -c N  --windows K    in windows of N positions (512), K of them (all)\n"
"       --eval FILE.jsonl    benchmark items: accuracy and loss\n"
"       --limit K  --eval-out OUT.jsonl    the first K; outcomes of every item\n"
"       --eval-against MODEL    both models, and a paired test\n"
"       --bench          how fast it runs here\n"
"       --json  --repeat N (5)  --bench-depths 0,2048,8192\n"
"encode --fill-mask TEXT [--top K]    the K likeliest words (5) of each mask\n"
"       --embed TEXT | --embed-file FILE    a text, or each line, as one vector\n"
"       --pool mean|first    of its tokens' vectors (mean)\n"
"ids    --tokenize FILE | --detokenize FILE    text to ids, and back (\"-\": stdin)\n"
"       --version  -h\n";

typedef enum { DO_GENERATE, DO_CHAT, DO_INFO, DO_EXPLAIN, DO_PERPLEXITY, DO_EVAL, DO_FILL_MASK, DO_EMBED,
               DO_EMBED_FILE, DO_BENCH, DO_TOKENIZE, DO_DETOKENIZE } Action;

typedef struct {
    const char *model, *prompt, *prompt_file, *system, *tool_file;     // tool_file: or its text
    const char *against, *eval_out, *draft;
    Action action;
    bool no_echo, ids;
    int64_t n, context, windows, top, limit, batch, threads, draft_tokens;   // n, context: 0 when not given
    int64_t layer;                                             // -1: not given
    Pooling pool;
    SamplerConfig sampler;
    int kv_type;
    CacheForm form;
    BenchConfig bench;
} Options;

static const char no_output[] = "cannot write to standard output";

static void die(const char *message) {
    fflush(stdout);
    fprintf(stderr, "run: %s\n", message);
    exit(1);
}

static void leave(void) {                                  // what was printed has arrived, or it is an error
    if (fflush(stdout) || ferror(stdout)) die(no_output);
    exit(0);
}

// ---- the command line ----------------------------------------------------------------------------

static int64_t whole(const char *flag, const char *text, int64_t min, int64_t max) {
    char *end, message[256];
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (end == text || *end || errno || v < min || v > max) {
        snprintf(message, sizeof message, "%s takes a whole number from %lld to %lld, not \"%.60s\"",
                 flag, (long long)min, (long long)max, text);
        die(message);
    }
    return v;
}

static float real(const char *flag, const char *text, double min, double max) {
    char *end, message[256];
    double v = strtod(text, &end);
    if (end == text || *end || !(v >= min && v <= max)) {
        snprintf(message, sizeof message, "%s takes a number from %g to %g, not \"%.60s\"", flag, min,
                 max, text);
        die(message);
    }
    return (float)v;
}

static int choice(const char *flag, const char *text, const char *const *names, int n) {
    char message[256];
    for (int i = 0; i < n; i++)
        if (strcmp(text, names[i]) == 0) return i;
    snprintf(message, sizeof message, "%s does not know \"%.60s\" (-h shows what it takes)", flag, text);
    die(message);
    return -1;
}

static void task(Options *o, Action a) {
    if (o->action != DO_GENERATE && o->action != a)
        die("one task at a time: -i, --info, --explain, --bench, a tool");
    o->action = a;
}

static void tool(Options *o, Action a, const char *file) {
    task(o, a);
    o->tool_file = file;
}

static Options read_options(int argc, char **argv) {
    static const char *const plain[] = {"-h", "--help", "--version", "-i", "--info", "--explain", "--bench",
                                        "--json", "--no-echo", "--ids", NULL};
    static const char *const valued[] = {
        "-p", "--prompt", "-f", "--system", "-n", "-c", "-t", "-b", "-s", "--temp", "--top-k",
        "--top-p", "--min-p", "--repeat-penalty", "--repeat-last", "--windows", "--kv", "--cache",
        "--perplexity", "--eval", "--eval-out", "--eval-against", "--limit", "--tokenize",
        "--detokenize", "--fill-mask", "--top", "--embed", "--embed-file", "--pool", "--repeat",
        "--bench-depths", "--layer", "--draft", "--draft-tokens", NULL};
    const Flags flags = {plain, valued};
    Err wrong;
    static const char *const kv_names[] = {"f32", "f16", "q8", "q8_0"};
    static const int kv_types[] = {T_F32, T_F16, T_Q8_0, T_Q8_0};
    static const char *const forms[] = {"auto", "dense", "latent"}, *const pools[] = {"mean", "first"};
    Options o = {.kv_type = T_F16, .batch = 128, .layer = -1, .bench = {.fill_seconds = 60},
                 .sampler = {.temp = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f,
                             .repeat_penalty = 1, .repeat_last = 64, .seed = 1}};
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : NULL;
        #define IS(flag) (strcmp(a, flag) == 0)
        if (IS("-h") || IS("--help")) { fputs(usage, stdout); leave(); }
        if (IS("--version")) {
            printf("tensorllm.c, %s, %s kernels, %d thread%s%s\n", COMPILER, kernels_isa(),
                   threads_get(), threads_get() == 1 ? "" : "s",
        #ifdef _OPENMP
                   "");
        #else
                   ", built without OpenMP");
        #endif
            leave();
        }
        if (IS("-i")) { task(&o, DO_CHAT); continue; }
        if (IS("--info")) { task(&o, DO_INFO); continue; }
        if (IS("--explain")) { task(&o, DO_EXPLAIN); continue; }
        if (IS("--bench")) { task(&o, DO_BENCH); continue; }
        if (IS("--json")) { o.bench.json = true; continue; }
        if (IS("--no-echo")) { o.no_echo = true; continue; }
        if (IS("--ids")) { o.ids = o.no_echo = true; continue; }
        if (*a != '-' || !a[1]) {
            if (o.model) die("more than one model file (a prompt goes behind -p)");
            o.model = a;
            continue;
        }
        if (check_flag(&flags, a, v, &wrong)) die(wrong.msg);
        i++;
        if (IS("-p") || IS("--prompt")) o.prompt = v;
        else if (IS("-f")) o.prompt_file = v;
        else if (IS("--system")) o.system = v;
        else if (IS("-n")) o.n = whole(a, v, 1, 1 << 30);
        else if (IS("-c")) o.context = whole(a, v, 2, 1 << 30);
        else if (IS("-t")) o.threads = whole(a, v, 1, 256);
        else if (IS("-b")) o.batch = whole(a, v, 1, 4096);
        else if (IS("-s")) o.sampler.seed = (uint64_t)whole(a, v, 0, INT64_MAX);
        else if (IS("--temp")) o.sampler.temp = real(a, v, 0, 100);
        else if (IS("--top-k")) o.sampler.top_k = (int)whole(a, v, 0, INT32_MAX);
        else if (IS("--top-p")) o.sampler.top_p = real(a, v, 0, 1);
        else if (IS("--min-p")) o.sampler.min_p = real(a, v, 0, 1);
        else if (IS("--repeat-penalty")) o.sampler.repeat_penalty = real(a, v, 0.01, 100);
        else if (IS("--repeat-last")) o.sampler.repeat_last = (int)whole(a, v, 0, 1 << 20);
        else if (IS("--windows")) o.windows = whole(a, v, 1, INT32_MAX);
        else if (IS("--kv")) o.kv_type = kv_types[choice(a, v, kv_names, 4)];
        else if (IS("--cache")) o.form = (CacheForm)choice(a, v, forms, 3);
        else if (IS("--draft")) o.draft = v;
        else if (IS("--draft-tokens")) o.draft_tokens = whole(a, v, 1, DRAFT_MOST);
        else if (IS("--layer")) o.layer = whole(a, v, 0, INT32_MAX);
        else if (IS("--repeat")) o.bench.repeat = whole(a, v, 1, BENCH_REPEATS);
        else if (IS("--bench-depths")) o.bench.depths = v;
        else if (IS("--perplexity")) tool(&o, DO_PERPLEXITY, v);
        else if (IS("--eval")) tool(&o, DO_EVAL, v);
        else if (IS("--eval-out")) o.eval_out = v;
        else if (IS("--eval-against")) o.against = v;
        else if (IS("--limit")) o.limit = whole(a, v, 1, INT64_MAX);
        else if (IS("--fill-mask")) tool(&o, DO_FILL_MASK, v);
        else if (IS("--top")) o.top = whole(a, v, 1, 1000);
        else if (IS("--embed")) tool(&o, DO_EMBED, v);
        else if (IS("--embed-file")) tool(&o, DO_EMBED_FILE, v);
        else if (IS("--pool")) o.pool = (Pooling)choice(a, v, pools, 2);
        else if (IS("--tokenize")) tool(&o, DO_TOKENIZE, v);
        else tool(&o, DO_DETOKENIZE, v);
        #undef IS
    }
    if (!o.model) die("no model file given; for instance: ./run models/stories.tbin -p \"Once upon a time\"");
    if (o.prompt && o.prompt_file) die("-p and -f are two prompts: give one");
    const bool asks = o.action == DO_GENERATE || o.action == DO_CHAT;
    if (o.action == DO_CHAT && (o.prompt_file || o.ids)) die("-f and --ids are not for a chat (-i)");
    if (o.action != DO_CHAT && o.system) die("--system belongs to a chat (-i)");
    if (!asks && o.action != DO_EXPLAIN && (o.prompt || o.prompt_file))
        die("-p and -f are for text (and -p for --explain and a chat)");
    if (o.action != DO_FILL_MASK && o.top) die("--top belongs to --fill-mask");
    if (!o.top) o.top = 5;
    if (o.action != DO_PERPLEXITY && o.windows) die("--windows belongs to --perplexity");
    if (o.action != DO_EXPLAIN && o.layer >= 0) die("--layer belongs to --explain");
    if (o.action == DO_EXPLAIN && o.prompt_file) die("--explain takes its text from -p");
    if (o.action != DO_BENCH && (o.bench.json || o.bench.repeat || o.bench.depths))
        die("--json, --repeat and --bench-depths belong to --bench");
    if (o.draft && o.action != DO_GENERATE && o.action != DO_CHAT)
        die("--draft is for text (-p, -f, standard input) and chat (-i)");
    if (!o.draft && o.draft_tokens) die("--draft-tokens goes with --draft");
    if (!o.draft_tokens) o.draft_tokens = 5;
    if (!o.bench.repeat) o.bench.repeat = 5;
    if (!o.bench.depths) o.bench.depths = "0,2048,8192";
    if (o.action != DO_EVAL && (o.against || o.eval_out || o.limit))
        die("--limit, --eval-out and --eval-against go with --eval");
    if (o.eval_out && (out_meets(o.eval_out, o.model) || out_meets(o.eval_out, o.tool_file) ||
                       (o.against && out_meets(o.eval_out, o.against))))
        die("--eval-out is a file that is read, or becomes one on the way: choose another");
    return o;
}

// ---- text as it is made --------------------------------------------------------------------------

// Holds back what may become the stop string, so that it never reaches the screen. ids: prints token
// ids instead of text.
typedef struct { const char *stop; char held[64]; size_t n; bool stopped, ids; } Printer;

static void print_text(Printer *p, const char *text) {
    for (; *text && !p->stopped; text++) {
        if (!p->stop) { putchar(*text); continue; }
        p->held[p->n++] = *text;
        while (p->n && strncmp(p->held, p->stop, p->n) != 0) {
            putchar(p->held[0]);
            memmove(p->held, p->held + 1, --p->n);
        }
        if (p->n == strlen(p->stop)) p->stopped = true;
    }
    fflush(stdout);
}

static void print_end(Printer *p) {
    if (!p->stopped) fwrite(p->held, 1, p->n, stdout);
    p->n = 0;
    fflush(stdout);
}

typedef struct { int64_t prompt, made; double prompt_time, made_time, read; } Timing;

#define SURE 0.2f     // a draft stops where its own certainty falls below: doc/SPEED.md

// A model at work: its timeline, what draws from it, and with --draft what proposes (else draft.target is
// NULL).
// pending: the id said last, where the session does not hold it yet; else -1.
typedef struct { const Loaded *l; Session s; Sampler sampler; Draft draft; int pending; } Writer;

static int writer_init(Writer *w, const Loaded *l, const Options *o, int64_t context, int64_t batch, Err *e) {
    if (o->draft && batch < o->draft_tokens + 1) batch = o->draft_tokens + 1;
    SessionConfig c = {context, batch, o->kv_type, o->form, false};
    w->l = l;
    w->pending = -1;
    if (session_init(&w->s, l->model, c, e) ||
        sampler_init(&w->sampler, (int)l->model->config.vocab, o->sampler, e))
        return -1;
    return o->draft ? draft_init(&w->draft, l[1].model, &w->s, &w->sampler, o->draft_tokens, SURE, e) : 0;
}

static void writer_free(Writer *w) {
    draft_free(&w->draft);
    session_free(&w->s);
    sampler_free(&w->sampler);
}

static int64_t position(const Writer *w) { return w->draft.target ? w->draft.pos : w->s.pos; }

static void go_back(Writer *w, int64_t pos) {
    if (w->draft.target) w->draft.pos = pos, draft_rest(&w->draft);
    else session_rewind(&w->s, pos);
}

static int take_in(Writer *w, const int *ids, int64_t n, Timing *t, Err *e) {
    const double start = seconds();
    const int64_t before = position(w);
    if (w->draft.target ? draft_prefill(&w->draft, ids, n, e) : prefill(&w->s, ids, n, e)) return -1;
    t->prompt_time += seconds() - start;
    t->prompt += position(w) - before;
    return 0;
}

// Generates up to n tokens from the logits of the last one computed; the ids go on in the cache. The
// token that ends the text is not printed, nor is a stop string, which the cache is rid of. Stops at
// `interrupted`.
static int generate(Writer *w, Printer *out, Decoder *decoder, int64_t n, Timing *t, Err *e) {
    Session *s = &w->s;
    Draft *d = w->draft.target ? &w->draft : NULL;
    double start = seconds(), rounds = d ? (double)d->rounds : 0, steps = d ? (double)d->steps : 0;
    int64_t cached = 0, made = 0, clean = position(w);     // clean: what may become a stop string is behind
    bool full = false;
    w->pending = -1;
    for (int64_t i = 0; i < n && !interrupted; i++) {
        int id = d ? draft_pick(d) : sampler_pick(&w->sampler, logits(s, s->n - 1, 1));
        sampler_accept(&w->sampler, id);
        if (tokenizer_ends(w->l->tokenizer, id)) break;
        if (out->ids) printf("%d ", id);
        else print_text(out, tokenizer_decode(w->l->tokenizer, decoder, id));
        if (ferror(stdout) || out->stopped) break;
        w->pending = id;
        if (i + 1 == n) break;
        if (position(w) >= s->config.context) {
            full = true;
            break;
        }
        if (d ? draft_forward(d, id, n - i - 1, e) : forward(s, &id, 1, e)) return -1;
        w->pending = -1;
        if (!out->n) clean = position(w);
        made++;
        const int64_t window = w->l->model->config.window;
        cached += window && window < position(w) ? window : position(w);
    }
    if (d) draft_rest(d);
    if (out->stopped) go_back(w, clean);
    print_text(out, tokenizer_decode_end(w->l->tokenizer, decoder));
    print_end(out);
    t->made_time += seconds() - start;
    t->made += made;
    // With a draft: the weights that both have read, and the target's cache once a round.
    rounds = d ? (double)d->rounds - rounds : (double)made;
    t->read += rounds * model_step_bytes(w->l->model) + (made ? rounds / (double)made : 0) * (double)cached *
               (double)s->cache_bytes / (double)s->config.context;
    if (d) t->read += ((double)d->steps - steps) * model_step_bytes(d->session.model);
    if (full)
        fprintf(stderr, "\nrun: all %lld positions of the context are taken%s\n",
                (long long)s->config.context,
                s->config.context < w->l->model->config.context ? " (-c)" : "");
    return ferror(stdout) ? fail(e, no_output) : 0;
}

static void report(const Timing *t, const Writer *w) {
    const Session *s = &w->s;
    const Draft *d = &w->draft;
    if (d->target)
        fprintf(stderr, "[draft: %lld tokens proposed, %lld kept (%.1f %%), %.2f tokens a batch]\n",
                (long long)d->proposed, (long long)d->kept,
                d->proposed ? 100 * (double)d->kept / (double)d->proposed : 0,
                d->rounds ? (double)t->made / (double)d->rounds : 0);
    fprintf(stderr, "[prompt %lld tokens, %.1f tok/s; decode %lld tokens, %.1f tok/s, %.1f GB/s read; "
            "cache %.1f MB, peak memory %.0f MB]\n", (long long)t->prompt,
            t->prompt_time > 0 ? (double)t->prompt / t->prompt_time : 0, (long long)t->made,
            t->made_time > 0 ? (double)t->made / t->made_time : 0,
            t->made_time > 0 ? t->read / t->made_time / 1e9 : 0, (double)s->cache_bytes / 1e6,
            (double)peak_memory() / 1e6);
}

// ---- one prompt ----------------------------------------------------------------------------------

static int run_prompt(const Loaded *l, const Options *o, const char *prompt, size_t size, Err *e) {
    Writer w = {0};
    int *text = NULL, *ids = NULL, status = -1;
    size_t n_text = 0;
    if (tokenizer_encode(l->tokenizer, prompt, size, true, true, &text, &n_text, e)) return -1;
    bool bos = l->vocab->bos >= 0 && (l->vocab->add_bos || n_text == 0);
    if (bos && n_text && text[0] == l->vocab->bos) bos = false;         // written in the prompt
    int64_t n = (int64_t)n_text + bos, trained = l->model->config.context;
    int64_t make = o->n ? o->n : 256, context = o->context ? o->context : n + make;
    if (!o->context && context > trained) context = trained;
    if (n == 0) { fail(e, "an empty prompt, and this vocabulary has no BOS to begin with"); goto done; }
    if (n >= context && (o->context || n > trained)) {
        fail(e, "the prompt has %lld tokens, the context %lld positions%s", (long long)n,
             (long long)context, o->context ? " (-c)" : "");
        goto done;
    }
    if (!(ids = alloc((size_t)n, sizeof *ids, "prompt", e)) ||
        writer_init(&w, l, o, context, o->batch < n ? o->batch : n, e))
        goto done;
    if (bos) ids[0] = l->vocab->bos;
    if (n_text) memcpy(ids + bos, text, n_text * sizeof *ids);
    if (!o->no_echo) fwrite(prompt, 1, size, stdout);
    fflush(stdout);

    Timing t = {0};
    Printer out = {.ids = o->ids};
    Decoder decoder = {.started = n_text > 0};
    if (take_in(&w, ids, n, &t, e)) goto done;
    for (int64_t i = 0; i < n; i++) sampler_accept(&w.sampler, ids[i]);
    if (!interrupted && generate(&w, &out, &decoder, make, &t, e)) goto done;
    putchar('\n');
    fflush(stdout);
    report(&t, &w);
    status = interrupted ? fail(e, "interrupted") : 0;
done:
    writer_free(&w);
    free(ids);
    free(text);
    return status;
}

// ---- chat ----------------------------------------------------------------------------------------

// A chat format: what stands around each turn. Marks are read as control tokens, what people write
// never is; a blank at a mark's end goes with what follows it, of whose first word it is a part.
// system_first: the system message stands inside the first user turn.
typedef struct {
    const char *name, *needs[2];             // recognised when the template holds both strings
    const char *system[2], *user[2];         // before and after
    const char *reply_end;                   // behind the model's reply
    bool system_first, bos_each_turn;
    const char *stop;                        // ends a reply beside the vocabulary's own tokens
} ChatFormat;

static const ChatFormat formats[] = {
    {"chatml", {"<|im_start|>", "<|im_end|>"}, {"<|im_start|>system\n", "<|im_end|>\n"},
     {"<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"}, "<|im_end|>\n", false, false, NULL},
    {"llama3", {"<|start_header_id|>", "<|eot_id|>"},
     {"<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"},
     {"<|start_header_id|>user<|end_header_id|>\n\n",
      "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"}, "<|eot_id|>", false, false, NULL},
    {"llama2", {"[INST]", "<<SYS>>"}, {"[INST] <<SYS>>\n", "\n<</SYS>>\n\n"}, {"[INST] ", " [/INST]"},
     " </s>", true, true, NULL},
    {"mistral", {"[INST]", "[/INST]"}, {"[INST] ", "\n\n"}, {"[INST] ", " [/INST]"}, "</s>", true,
     false, NULL},
    {"plain", {"", ""}, {"", "\n\n"}, {"User: ", "\nAssistant:"}, "\n", false, false, "\nUser:"},
};

// Where `what` stands first in s (n bytes), NULL: nowhere.
static const char *find(const char *s, size_t n, const char *what) {
    const size_t m = strlen(what);
    for (const char *p; n >= m && (p = memchr(s, *what, n - m + 1)); n -= (size_t)(p + 1 - s), s = p + 1)
        if (memcmp(p, what, m) == 0) return p;
    return NULL;
}

static const ChatFormat *chat_format(Str t) {
    const ChatFormat *plain = &formats[sizeof formats / sizeof *formats - 1], *f = formats;
    while (f < plain && !(find(t.s, t.n, f->needs[0]) && find(t.s, t.n, f->needs[1]))) f++;
    if (f == plain)
        fprintf(stderr, "run: %s; using plain \"User: … Assistant: …\" turns\n", t.n
                ? "the chat template in this file is of no kind known here (chatml, llama2, llama3, "
                  "mistral)" : "this file has no chat template");
    return f;
}

// The system message that a chatml template puts when none is given: the text between its marks,
// where that is literal. *to stays NULL where there is none. Caller frees.
static int default_system(const ChatFormat *f, Str t, char **to, Err *e) {
    if (f != &formats[0]) return 0;                        // t may be none
    const char *at = t.s, *stop = t.s + t.n, *end;
    while ((at = find(at, (size_t)(stop - at), "<|im_start|>system"))) {
        at += strlen("<|im_start|>system");
        if (!(end = find(at, (size_t)(stop - at), "<|im_end|>"))) break;
        at += *at == '\n' ? 1 : at[0] == '\\' && at[1] == 'n' ? 2 : 0;
        const size_t n = end > at ? (size_t)(end - at) : 0;
        if (!n || memchr(at, '{', n) || memchr(at, '\'', n)) continue;
        return (*to = strndup(at, n)) ? 0 : fail(e, "out of memory");
    }
    return 0;
}

typedef struct { int *ids; size_t n; } Ids;

static int append(const Loaded *l, Ids *to, const char *text, bool special, bool first, Err *e) {
    int *more = NULL, *all;
    size_t n = 0;
    if (tokenizer_encode(l->tokenizer, text, strlen(text), special, first, &more, &n, e)) return -1;
    if (!(all = realloc(to->ids, (to->n + n + 1) * sizeof *all))) {
        free(more);
        return fail(e, "out of memory");
    }
    if (n) memcpy(all + to->n, more, n * sizeof *all);
    to->ids = all;
    to->n += n;
    free(more);
    return 0;
}

// A mark and the text behind it.
static int append_both(const Loaded *l, Ids *to, const char *mark, bool first, const char *text, Err *e) {
    const size_t n = strlen(mark), blank = n && mark[n - 1] == ' ';
    char *both = alloc(n + strlen(text) + 2, 1, "a turn", e);
    if (!both) return -1;
    memcpy(both, mark, n - blank);
    sprintf(both + n + 1, "%s%s", blank ? " " : "", text);
    const int result = append(l, to, both, true, first, e) || append(l, to, both + n + 1, false, false, e);
    free(both);
    return result ? -1 : 0;
}

// Ids of one user turn, with what stands before and behind it.
static int add_turn(const Loaded *l, Ids *to, const ChatFormat *f, const char *system,
                    const char *message, bool first, Err *e) {
    bool bos = l->vocab->bos >= 0 && l->vocab->add_bos && (first || f->bos_each_turn);
    bool put_system = first && system && *system;
    if (append(l, to, "", true, true, e)) return -1;                      // room for one more id
    if (bos) to->ids[to->n++] = l->vocab->bos;
    if (put_system && (append_both(l, to, f->system[0], true, system, e) ||
                       append(l, to, f->system[1], true, false, e)))
        return -1;
    const char *mark = put_system && f->system_first ? "" : f->user[0];
    return append_both(l, to, mark, bos && !put_system, message, e) ||
           append(l, to, f->user[1], true, false, e) ? -1 : 0;
}

static volatile sig_atomic_t ended;      // by a signal that is not about the reply alone

static char *ask(const char *prompt) {
    const bool asks = isatty(STDIN_FILENO);
    if (asks) fputs(prompt, stderr);
    char *line = input_line(stdin);
    if (asks && !line) fputc('\n', stderr);
    return line;
}

static int run_chat(const Loaded *l, const Options *o, const char *first_message, Err *e) {
    const ChatFormat *f = chat_format(l->vocab->chat_template);
    const char *system = o->system;
    int64_t trained = l->model->config.context, context = o->context ? o->context : 4096;
    if (!o->context && context > trained) context = trained;
    Writer w = {0};
    Timing t = {0};
    Ids ids = {0};
    int status = -1;
    bool first = true;
    char *own = NULL, *line = first_message ? strdup(first_message) : NULL;
    if (first_message && !line) { fail(e, "out of memory"); goto done; }
    if (!system && default_system(f, l->vocab->chat_template, &own, e)) goto done;
    if (own) system = own;
    if (writer_init(&w, l, o, context, o->batch, e)) goto done;
    for (; !ended && (line || (line = ask("> "))); free(line), line = NULL) {
        const bool begins = first;
        const int64_t before = position(&w);
        interrupted = 0;
        if (!*line) continue;
        ids.n = 0;
        if (!first && append(l, &ids, "", true, false, e)) goto done;      // room for one more id
        if (!first && w.pending >= 0) ids.ids[ids.n++] = w.pending;
        if (!first && append(l, &ids, f->reply_end, true, false, e)) goto done;
        if (add_turn(l, &ids, f, system, line, first, e)) goto done;
        if ((int64_t)ids.n >= context - w.s.pos) {
            fail(e, "this message has %zu tokens, and %lld of the chat's %lld positions are left", ids.n,
                 (long long)(context - w.s.pos), (long long)context);
            goto done;
        }
        first = false;
        if (take_in(&w, ids.ids, (int64_t)ids.n, &t, e)) goto done;
        for (size_t i = w.pending >= 0; i < ids.n; i++) sampler_accept(&w.sampler, ids.ids[i]);
        if (interrupted) go_back(&w, before), first = begins;              // as if it had not been asked
        Printer out = {.stop = f->stop};
        Decoder decoder = {.started = false};
        if (!interrupted && generate(&w, &out, &decoder, o->n ? o->n : context, &t, e)) goto done;
        putchar('\n');
        fflush(stdout);
    }
    report(&t, &w);
    status = ended ? fail(e, "interrupted") : 0;
done:
    free(line);
    free(own);
    free(ids.ids);
    writer_free(&w);
    return status;
}

// ---- main ----------------------------------------------------------------------------------------

static void on_interrupt(int signal_number) {
    if (interrupted) _exit(128 + signal_number);         // the second time: at once
    interrupted = 1;
    ended = signal_number != SIGINT;
}

static int act(const Options *o, const Loaded *l, Err *e) {
    SessionConfig c = {0, o->batch, o->kv_type, o->form, false};
    char *prompt = NULL;
    size_t size = 0;
    int status;
    bool reads = o->action == DO_GENERATE || o->action == DO_CHAT || o->action == DO_PERPLEXITY ||
                 o->action == DO_BENCH;
    if (reads && l->model->config.encoder)
        return fail(e, "%s is an encoder, which continues no text (--fill-mask, --embed)", o->model);
    switch (o->action) {
    case DO_INFO:       return tool_info(l, o->kv_type, e);
    case DO_EXPLAIN:
        c.context = o->context;
        return tool_explain(l, o->layer, o->prompt, c, e);
    case DO_FILL_MASK:  return tool_fill_mask(l, o->tool_file, o->top, c, e);
    case DO_EMBED:      return tool_embed(l, o->tool_file, o->pool, c, e);
    case DO_EMBED_FILE: return tool_embed_file(l, o->tool_file, o->pool, c, e);
    case DO_TOKENIZE:   return tool_tokenize(l, o->tool_file, e);
    case DO_DETOKENIZE: return tool_detokenize(l, o->tool_file, e);
    case DO_BENCH:
        c.context = o->context;
        return tool_bench(l, c, &o->bench, e);
    case DO_PERPLEXITY: {
        int64_t window = o->context ? o->context : 512, trained = l->model->config.context;
        if (!o->context && window > trained) window = trained;
        return tool_perplexity(l, o->tool_file, window, o->windows, c, e);
    }
    case DO_EVAL:
        return tool_tasks(l, o->against ? 2 : 1, &(TaskOptions){o->tool_file, o->eval_out, o->limit, o->n},
                          c, e);
    case DO_CHAT:       return run_chat(l, o, o->prompt, e);
    default:            break;
    }
    if (o->prompt) return run_prompt(l, o, o->prompt, strlen(o->prompt), e);
    if (!o->prompt_file && isatty(STDIN_FILENO))
        return fail(e, "no prompt: give -p TEXT, -f FILE, text on standard input, or -i to chat");
    if (read_text(o->prompt_file ? o->prompt_file : "-", &prompt, &size, e)) return -1;
    status = run_prompt(l, o, prompt, size, e);
    free(prompt);
    return status;
}

// A file and what is made of it.
typedef struct { Gguf file; Vocab vocab; Model model; } Opened;

typedef enum { NO_MODEL, MODEL_IF_ANY, MODEL } Needs;      // IF_ANY: a vocabulary alone will do

static int load(Opened *f, Loaded *l, const char *path, Needs needs, Err *e) {
    *l = (Loaded){.path = path, .file = &f->file, .vocab = &f->vocab};
    if (path_kind(path) == PATH_FOLDER)
        return fail(e, "%s: is a folder, not a model file (export/export makes one of a Hugging Face folder)",
                    path);
    if (gguf_open(&f->file, path, e) || vocab_from_gguf(&f->vocab, &f->file, e)) return -1;
    if (needs == MODEL || (needs == MODEL_IF_ANY && f->file.n_tensors)) {
        if (model_bind(&f->model, &f->file, e)) return -1;
        l->model = &f->model;
        if (f->vocab.n > f->model.config.vocab)
            return fail(e, "%s: a vocabulary of %d pieces, an embedding of %lld rows", path, f->vocab.n,
                        (long long)f->model.config.vocab);
    }
    return (l->tokenizer = tokenizer_new(&f->vocab, e)) ? 0 : -1;
}

static void unload(Opened *f, Loaded *l) {
    tokenizer_free(l->tokenizer);
    model_free(&f->model);
    vocab_free(&f->vocab);
    gguf_free(&f->file);
}

int main(int argc, char **argv) {
    keep_standard_files();
    utf8_arguments(&argc, &argv);
    Options o = read_options(argc, argv);
    Err e = {""};
    Opened file[2] = {0};
    Loaded l[2] = {{0}};
    catch_signals("run", on_interrupt, NULL);
    if (o.threads) threads_set((int)o.threads);

    Needs needs = o.action == DO_TOKENIZE || o.action == DO_DETOKENIZE ? NO_MODEL :
                  o.action == DO_INFO ? MODEL_IF_ANY : MODEL;
    int status = load(&file[0], &l[0], o.model, needs, &e);
    if (status == 0 && o.against) status = load(&file[1], &l[1], o.against, MODEL, &e);
    if (status == 0 && o.draft) status = load(&file[1], &l[1], o.draft, MODEL, &e) ||
                                         draft_fits(&l[0], &l[1], &e) ? -1 : 0;
    if (status == 0) status = act(&o, l, &e);
    for (int i = 0; i < 2; i++) unload(&file[i], &l[i]);
    if (status) die(e.msg);
    leave();
    return 0;
}
