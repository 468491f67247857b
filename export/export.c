// export: the exporter's command line. Takes published weights, decomposes their attention layer by
// layer and writes one .tbin; or converts to a dense GGUF. This file and run.c are the only ones
// that print errors and exit.
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "refit.h"
#include "summary.h"

static const char usage[] =
"usage: export/export SOURCE -o OUT [options]\n"
"SOURCE   a Hugging Face folder (config.json, *.safetensors, a tokenizer),\n"
"         a GGUF, or a llama2.c .bin\n"
"         --tokenizer FILE  instead of the one beside the weights (not of a GGUF)\n"
"budget   --keep F          the part of what may be factored that stays (0.5)\n"
"         --size BYTES      instead: the size of the file, such as 90M\n"
"         --loss NATS       instead: the rise of the loss, such as 0.02\n"
"         --rank E[,H[,K]]  instead: ranks of U_embd, U_head, U_kind everywhere\n"
"what     --layers L        all (default), or 7,8,20-25; others stay dense\n"
"         --scheme S        groups that share a factor: qkvo (the paper's),\n"
"                           qkv+o, q+k+o, ...; what is left out stays dense;\n"
"                           none. Without it the budget chooses\n"
"         --ffn F           LASER: auto, or gate:27:0.01,up:20-25:0.5\n"
"         --trawl T         TRAWL: ffn:20-25/2:cp:0.5,attn:29:tucker:0.5\n"
"how      --method M        by data: fisher (default), kl, input; plain, by the\n"
"                           weights alone: hooi, hosvd\n"
"         --calib C         its text: self (default; the model writes it), FILE,\n"
"                           or self,FILE\n"
"         --calib-tokens N (24576)  --calib-window N (256)  --seed N (1)\n"
"         --refit           fit W_down to what attention became\n"
"         --no-pivot        store identity blocks, too\n"
"         --sweeps N        of hooi (10)\n"
"         --type T          of matrices: f32 f16 bf16 q8_0 q4_0 q4_1 (as they\n"
"                           are; factors of 4-bit matrices by data: q8_0)\n"
"then     --verify FILE     compare with the dense model on a text,\n"
"         --windows K       in K windows of 512 tokens (16)\n"
"         --report FILE     draw what was done: an HTML page\n"
"         --sweep 1.33,2,4  in it, the loss at these ratios\n"
"instead  --dense           no factors: an ordinary GGUF\n"
"         --rebuild         a .tbin's factors multiplied back: an ordinary GGUF\n"
"other    -t N  threads     -q  print errors only     --version     -h\n";

// What the command line asks beside the export itself.
typedef struct {
    Options o;
    bool quiet;
    const char *verify, *report;
    int64_t windows;
    double sweep[16];
    int n_sweep;
    char *command;                 // as it was typed
} Job;

static void die(const char *message) {
    fflush(stdout);
    fprintf(stderr, "export: %s\n", message);
    exit(1);
}

static volatile sig_atomic_t unread;         // who read the output has gone; the file is made all the same

static void leave(void) {                      // what was printed has arrived, or it is an error
    if (!fflush(stdout) && !ferror(stdout)) exit(0);
    if (!unread) die("cannot write to standard output");
    end_unread();
}

static void on_signal(int signal_number) {
    (void)signal_number;
    interrupted = 1;
}

static void on_pipe(int signal_number) {
    (void)signal_number;
    unread = 1;
}

// ---- the command line ---------------------------------------------------------------------------

static void bad_value(const char *flag, const char *value, const char *expected) {
    char message[256];
    snprintf(message, sizeof message, "%s %.60s: expected %s", flag, value, expected);
    die(message);
}

static long whole(const char *flag, const char *text, long min, long max) {
    char *end, expected[80];
    long v = strtol(text, &end, 10);
    snprintf(expected, sizeof expected, "a whole number from %ld to %ld", min, max);
    if (end == text || *end || v < min || v > max) bad_value(flag, text, expected);
    return v;
}

static void read_rank(const char *text, int64_t rank[3]) {
    const char *at = text;
    for (int i = 0; i < 3; i++) {
        char *end;
        rank[i] = strtol(at, &end, 10);
        bool last = *end == 0;
        if (end == at || rank[i] < 1 || rank[i] > 1 << 24 || (!last && (*end != ',' || i == 2)))
            bad_value("--rank", text, "one to three ranks from 1, such as 128,64");
        if (last) return;
        at = end + 1;
    }
}

static double read_number(const char *flag, const char *text, double most, const char *expected) {
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end || !(v > 0 && v <= most)) bad_value(flag, text, expected);
    return v;
}

// 90M, 1.5G, 700k, 123456
static double read_size(const char *text) {
    char *end;
    double v = strtod(text, &end);
    if (*end == 'k' || *end == 'K') v *= 1e3, end++;
    else if (*end == 'M') v *= 1e6, end++;
    else if (*end == 'G') v *= 1e9, end++;
    if (end == text || *end || !(v >= 1 && v < 1e15))
        bad_value("--size", text, "bytes, such as 90M");
    return v;
}

static void read_sweep(const char *text, Job *j) {
    const char *at = text;
    for (j->n_sweep = 0;; at++) {
        char *end;
        double v = strtod(at, &end);
        if (end == at || !(v >= 1 && v <= 1000) || (*end && *end != ',') || j->n_sweep == 16)
            bad_value("--sweep", text, "up to 16 ratios from 1, such as 1.33,2,4");
        j->sweep[j->n_sweep++] = v;
        if (!*end) return;
        at = end;
    }
}

static Method read_method(const char *text) {
    for (Method m = METHOD_HOSVD; m <= METHOD_FISHER; m++)
        if (strcmp(text, method_name(m)) == 0) return m;
    bad_value("--method", text, "fisher, kl, input, hooi or hosvd");
    return METHOD_HOOI;
}

static bool weighted(const Options *o) { return o->method >= METHOD_INPUT; }

// The file of a calibration, NULL where the model alone writes the text.
static const char *calibration_file(const Options *o) {
    const char *c = o->calibration;
    if (strcmp(c, "self") == 0) return NULL;
    return strncmp(c, "self,", 5) == 0 ? c + 5 : c;
}

// What only plain Tucker has, so that it is meant where no --method is given: O tied to others, ranks
// of U_head and U_kind, sweeps.
static bool names_plain(const Options *o) {
    const char *with_o = o->scheme ? strchr(o->scheme, 'o') : NULL;
    const bool tied = with_o && ((with_o > o->scheme && with_o[-1] != '+') ||
                                 (with_o[1] && with_o[1] != '+'));
    return (tied && strcmp(o->scheme, "none")) || o->rank[HEAD] || o->sweeps >= 0;
}

// What flags do not go together, and what stands in for those that were not given.
static void settle(Job *j, bool method) {
    Options *o = &j->o;
    if (!o->source) die("no SOURCE (-h shows how to call)");
    if (!o->out) die("no output: -o OUT is needed");
    if (o->dense && o->rebuild) die("--dense or --rebuild, not both");
    const int budgets = (o->keep > 0) + (o->size > 0) + (o->loss > 0) + (o->rank[EMBD] > 0);
    const bool calibration = o->calibration || o->calib_tokens || o->calib_window || o->seed;
    const bool factors = o->scheme || o->layers || budgets || method || o->sweeps >= 0 || o->ffn ||
                         o->trawl || calibration || o->refit || o->no_pivot;
    if ((o->dense || o->rebuild) && factors)
        die("--dense and --rebuild make no factors: no scheme, layers, ranks or method with them");
    if ((o->dense || o->rebuild) && (j->report || j->n_sweep))
        die("--report and --sweep are about factors: not with --dense or --rebuild");
    if (o->trawl && !o->scheme) o->scheme = "none";
    const bool none = o->scheme && strcmp(o->scheme, "none") == 0;
    if (none && (budgets || o->layers) && !ffn_open(o))
        die("--scheme none leaves nothing that a budget or --layers is about (but --ffn auto)");
    if (none && !method && !o->ffn)
        o->method = METHOD_HOOI, method = true;
    if (budgets > 1) die("--keep, --size, --loss or --rank: one of them");
    if (!method) o->method = o->dense || o->rebuild || names_plain(o) ? METHOD_HOOI : METHOD_FISHER;
    const bool plain = !weighted(o);
    if (weighted(o) && o->sweeps >= 0) die("--sweeps is for --method hooi");
    if (o->method == METHOD_HOSVD && o->sweeps >= 0) die("--sweeps is for --method hooi");
    if (plain && (o->size > 0 || o->loss > 0))
        die("--size and --loss need losses to compare: --method fisher");
    if (o->method != METHOD_FISHER && o->loss > 0) die("--loss needs --method fisher");
    if (o->method != METHOD_FISHER && ffn_open(o))
        die("--ffn auto needs losses to compare: --method fisher");
    if (plain && calibration) die("--calib is for the weighted methods");
    if (o->seed && o->calibration && calibration_file(o) == o->calibration)
        die("--seed is for --calib self");
    if (plain && o->refit) die("--refit needs a calibration text: a weighted method");
    if (o->refit && o->trawl) die("--refit or --trawl, not both");
    if (plain && o->no_pivot) die("--no-pivot is for the weighted methods");
    if (j->n_sweep && o->method != METHOD_FISHER) die("--sweep needs --method fisher");
    if (j->n_sweep && !j->report) die("--sweep is drawn in a page: --report FILE");
    if (j->windows && !j->verify) die("--windows is for --verify FILE");
    if (weighted(o) && !o->dense && !o->rebuild && (o->rank[HEAD] || o->rank[KIND]))
        die("weighted factors have one rank: --rank E (or --method hooi)");
    if (plain && o->rank[EMBD] && !o->rank[HEAD])
        die("--rank: two or three ranks such as 128,64 with a plain method");
    if (o->sweeps < 0) o->sweeps = o->method == METHOD_HOOI ? 10 : 0;
    if (!o->layers) o->layers = "all";
    if (o->keep <= 0) o->keep = 0.5;
    if (!o->calibration) o->calibration = "self";
    if (!o->calib_tokens) o->calib_tokens = 24576;
    if (!o->calib_window) o->calib_window = 256;
    if (!o->seed) o->seed = 1;
    if (!j->windows) j->windows = 16;
}

static Job read_options(int argc, char **argv) {
    static const char *const plain[] = {"-h", "--help", "--version", "--dense", "--rebuild", "--refit",
                                        "--no-pivot", "-q", NULL};
    static const char *const valued[] = {
        "-o", "--tokenizer", "--scheme", "--layers", "--keep", "--size", "--loss", "--rank",
        "--ffn", "--trawl", "--method", "--calib", "--calib-tokens", "--calib-window", "--seed",
        "--sweeps", "--type", "--verify", "--windows", "--report", "--sweep", "-t", NULL};
    const Flags flags = {plain, valued};
    Err wrong;
    Job j = {.o = {.type = -1, .sweeps = -1}};
    Options *o = &j.o;
    bool method = false;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : NULL;
        #define IS(flag) (strcmp(a, flag) == 0)
        if (IS("-h") || IS("--help")) { fputs(usage, stdout); leave(); }
        if (IS("--version")) { printf("tensorllm.c export, %s kernels\n", kernels_isa()); leave(); }
        if (IS("--dense")) { o->dense = true; continue; }
        if (IS("--rebuild")) { o->rebuild = true; continue; }
        if (IS("--refit")) { o->refit = true; continue; }
        if (IS("--no-pivot")) { o->no_pivot = true; continue; }
        if (IS("-q")) { j.quiet = true; continue; }
        if (*a != '-') {
            if (o->source) die("more than one SOURCE");
            o->source = a;
            continue;
        }
        if (check_flag(&flags, a, v, &wrong)) die(wrong.msg);
        i++;
        if (IS("-o")) o->out = v;
        else if (IS("--tokenizer")) o->tokenizer = v;
        else if (IS("--scheme")) o->scheme = v;
        else if (IS("--layers")) o->layers = v;
        else if (IS("--keep")) o->keep = read_number(a, v, 1, "a number above 0, up to 1");
        else if (IS("--loss")) o->loss = read_number(a, v, 100, "nats above 0, such as 0.02");
        else if (IS("--size")) o->size = read_size(v);
        else if (IS("--rank")) read_rank(v, o->rank);
        else if (IS("--ffn")) o->ffn = v;
        else if (IS("--trawl")) o->trawl = v;
        else if (IS("--method")) o->method = read_method(v), method = true;
        else if (IS("--calib")) o->calibration = v;
        else if (IS("--calib-tokens")) o->calib_tokens = whole(a, v, 256, 1L << 30);
        else if (IS("--calib-window")) o->calib_window = whole(a, v, 16, 65536);
        else if (IS("--seed")) o->seed = (uint64_t)whole(a, v, 1, 1L << 30);
        else if (IS("--sweeps")) o->sweeps = (int)whole(a, v, 0, 1000);
        else if (IS("--verify")) j.verify = v;
        else if (IS("--windows")) j.windows = whole(a, v, 1, 1L << 30);
        else if (IS("--report")) j.report = v;
        else if (IS("--sweep")) read_sweep(v, &j);
        else if (IS("-t")) threads_set((int)whole(a, v, 1, 256));
        else {
            o->type = type_by_name(v);
            if (o->type < 0 || !type_info(o->type)->native)
                bad_value(a, v, "f32, f16, bf16, q8_0, q4_0 or q4_1");
        }
        #undef IS
    }
    settle(&j, method);
    return j;
}

static void bad_file(const char *path, const char *what, const char *flag) {
    char message[512];
    snprintf(message, sizeof message, "%.300s: %s (choose another %s)", path, what, flag);
    die(message);
}

// Whether writing `out` meets `path`: by its own name, or by those it has before it is whole.
static bool meets(const char *out, const char *path) {
    char sweep[4200];
    snprintf(sweep, sizeof sweep, "%.4000s.sweep", out);
    return out_meets(out, path) || out_meets(sweep, path);
}

// The tokenizer.bin beside a llama2.c checkpoint, which is read where none is named.
static bool meets_beside(const char *out, const char *source) {
    char name[4200];
    snprintf(name, sizeof name, "%.*stokenizer.bin", (int)(path_name(source) - source), source);
    return path_kind(source) == PATH_FILE && strlen(source) < 4000 && meets(out, name);
}

// What is written must not take the place of what is read. Within a source folder only what an earlier
// export has left is replaced: what begins like it.
static void check_output(const Job *j, const char *flag, const char *out, const char *like) {
    const Options *o = &j->o;
    const char *const source = "is the source, or a part of it", *text = calibration_file(o);
    if (meets(out, o->source) || (o->tokenizer ? meets(out, o->tokenizer) : meets_beside(out, o->source)))
        bad_file(out, source, flag);
    if ((text && meets(out, text)) || (j->verify && meets(out, j->verify)))
        bad_file(out, "is a text that is read, or becomes one on the way", flag);
    char dir[4096], begin[16];
    const int n = (int)(path_name(out) - out);
    snprintf(dir, sizeof dir, "%.*s", n ? n : 1, n ? out : ".");
    if (path_kind(out) != PATH_FILE ||
        ((path_kind(o->source) != PATH_FOLDER || !same_file(dir, o->source)) &&
         (!o->tokenizer || path_kind(o->tokenizer) != PATH_FOLDER || !same_file(dir, o->tokenizer))))
        return;
    FILE *f = open_file(out, "rb");
    const size_t size = strlen(like);
    const bool ours = f && fread(begin, 1, size, f) == size && memcmp(begin, like, size) == 0;
    if (f) fclose(f);
    if (!ours) bad_file(out, source, flag);
}

// A text that will be read after minutes of work is looked for at once. Pipes are not opened twice.
static void check_text(const char *path) {
    char message[512];
    const PathKind kind = path ? path_kind(path) : PATH_FILE;
    if (kind != PATH_NONE && kind != PATH_FOLDER) return;
    snprintf(message, sizeof message, "%.300s: %s", path, kind == PATH_NONE ? "there is no such file"
             : "is a folder, not a text");
    die(message);
}

static void check_files(const Job *j) {
    check_output(j, "-o", j->o.out, "GGUF");
    if (j->report) {
        check_output(j, "--report", j->report, "<!doctype");
        if (meets(j->o.out, j->report) || meets(j->report, j->o.out))
            bad_file(j->report, "is the output of -o, or becomes it on the way", "--report");
    }
    if (weighted(&j->o)) check_text(calibration_file(&j->o));
    check_text(j->verify);
}

// ---- the work -----------------------------------------------------------------------------------

// A line that redraws itself on a terminal; elsewhere one line every ten seconds. ctx: NULL: silent.
static void progress(void *ctx, const char *what, double done, double total) {
    static double start, last;
    static char before[64];
    const double now = seconds();
    const bool tty = isatty(STDERR_FILENO), begins = strcmp(before, what) != 0;
    if (!ctx) return;
    if (begins) start = now, snprintf(before, sizeof before, "%s", what);
    if (!begins && done < total && now - last < (tty ? 0.1 : 10)) return;
    last = now;
    const double part = total > 0 ? done / total : 1;
    fprintf(stderr, tty ? "\r%-24s %3.0f %%" : "%s: %.0f %%", what, 100 * part);
    if (part > 0 && part < 1 && now - start > 1)       // before that it would be a guess
        fprintf(stderr, ", %.0f s left   ", (now - start) * (1 / part - 1));
    else if (done >= total) fprintf(stderr, ", %.1f s        ", now - start);
    fputc(done >= total || !tty ? '\n' : ' ', stderr);
    fflush(stderr);
}

// All that an export holds between its steps.
typedef struct {
    const Job *job;
    void *loud;                    // progress's ctx
    Source source;
    Model model;
    Vocab vocab;
    Tokenizer *tokenizer;
    CalibText text;
    double dense_loss;             // on some windows of it; NAN: not measured yet
    Moments moments;
    Compression compression;
    float **down;                  // (n_layers) refitted W_down, or NULL
    Plan plan;
    FileOut out;                   // as planned, written beside until it is what was asked for
} Export;

static void forget_refit(Export *x) {
    for (int64_t l = 0; x->down && l < x->model.config.n_layers; l++) free(x->down[l]);
    free(x->down);
    x->down = x->compression.down = NULL;
}

static void export_free(Export *x) {
    out_abort(&x->out);
    plan_free(&x->plan);
    forget_refit(x);
    compression_free(&x->compression);
    moments_free(&x->moments);
    calib_free(&x->text);
    tokenizer_free(x->tokenizer);
    vocab_free(&x->vocab);
    model_free(&x->model);
    source_close(&x->source);
}

static int need_tokenizer(Export *x, Err *e) {
    if (x->tokenizer) return 0;
    if (vocab_from_gguf(&x->vocab, &x->source.g, e)) return -1;
    x->tokenizer = tokenizer_new(&x->vocab, e);
    return x->tokenizer ? 0 : -1;
}

// The text that the weights of a weighted method come from: "self", a file, or both, half each.
static int calibration_text(Export *x, Err *e) {
    const Options *o = &x->job->o;
    const int64_t context = x->model.config.context;
    const int64_t window = o->calib_window < context ? o->calib_window : context;
    const char *file = calibration_file(o);
    const bool self = !file || file != o->calibration;
    const int64_t tokens = self && file ? o->calib_tokens / 2 : o->calib_tokens;
    if (need_tokenizer(x, e)) return -1;
    if (self && calib_self(&x->text, &x->model, &x->vocab, tokens, window, o->seed, progress,
                           x->loud, e)) return -1;
    if (!file) return 0;
    CalibText more = {0};
    int result = calib_file(&more, file, x->tokenizer, &x->vocab, tokens, window, e);
    if (!result) result = calib_join(&x->text, &more, e);
    calib_free(&more);
    return result;
}

static int calibrate(Export *x, Err *e) {
    const Options *o = &x->job->o;
    const int want = moments_wanted(o);
    const double bytes = want ? moments_bytes(&x->model.config, want) : 0;
    const double memory = machine_memory();
    if (bytes > memory && memory > 0)
        return fail(e, "--method %s: the moments of this model take %.1f GB, this machine has %.1f "
                    "(plain methods, hooi and hosvd, need none)", method_name(o->method), bytes / 1e9,
                    memory / 1e9);
    if (want && calibration_text(x, e)) return -1;
    if (want && x->loud)
        fprintf(stderr, "%lld tokens in windows of %lld; their moments take %.0f MB\n",
                (long long)(x->text.count * x->text.window), (long long)x->text.window, bytes / 1e6);
    if (want && moments_collect(&x->moments, &x->model, &x->text, want, progress, x->loud, e))
        return -1;
    return compression_init(&x->compression, o, &x->model, want ? &x->moments : NULL,
                            want ? &x->text : NULL, progress, x->loud, e);
}

static int write_plan(Export *x, const char *path, Err *e) {
    out_abort(&x->out);
    return out_open(&x->out, path, e) || plan_write(&x->plan, &x->out, progress, x->loud, e) ||
           out_flush(&x->out, e) ? -1 : 0;
}

// The dense model and a file made from it, on the windows of a text.
static int compare_with(Export *x, const char *path, const CalibText *text, Comparison *c, Err *e) {
    Gguf g = {0};
    Model m = {0};
    int result = gguf_open(&g, path, e) || model_bind(&m, &g, e) ||
                 compare_models(&x->model, &m, text, c, progress, x->loud, e) ? -1 : 0;
    model_free(&m);
    gguf_free(&g);
    return result;
}

// At most 16 windows of the calibration text, spread over it.
static int some_windows(const CalibText *all, CalibText *some, Err *e) {
    *some = (CalibText){.count = all->count < 16 ? all->count : 16, .window = all->window};
    some->ids = alloc((size_t)(some->count * some->window), sizeof *some->ids, "windows", e);
    if (!some->ids) return -1;
    for (int64_t i = 0; i < some->count; i++)
        memcpy(some->ids + i * some->window, all->ids + i * all->count / some->count * all->window,
               (size_t)some->window * sizeof *some->ids);
    return 0;
}

// What was written raises the loss on some windows of the calibration text by *rise; the dense model sees
// them once. *rise stays as it is where there is no loss.
static int measure_loss(Export *x, double *rise, Err *e) {
    CalibText some;
    Comparison dense, c;
    Gguf g = {0};
    Model m = {0};
    if (x->model.config.encoder) return 0;                     // it predicts nothing that follows
    int result = some_windows(&x->text, &some, e);
    if (!result && isnan(x->dense_loss)) {
        result = compare_models(&x->model, NULL, &some, &dense, progress, x->loud, e);
        if (!result) x->dense_loss = dense.loss[0];
    }
    if (!result) result = gguf_open(&g, x->out.part, e) || model_bind(&m, &g, e) ||
                          compare_models(&m, NULL, &some, &c, progress, x->loud, e) ? -1 : 0;
    if (!result) *rise = c.loss[0] - x->dense_loss;
    model_free(&m);
    gguf_free(&g);
    calib_free(&some);
    return result;
}

static int verify(Export *x, Comparison *c, Err *e) {
    const Job *j = x->job;
    const int64_t context = x->model.config.context, window = context < 512 ? context : 512;
    CalibText text = {0};
    int result = need_tokenizer(x, e) ||
                 calib_windows(&text, j->verify, x->tokenizer, &x->vocab, j->windows, window, e) ||
                 compare_with(x, j->o.out, &text, c, e) ? -1 : 0;
    if (!result && !j->quiet) print_comparison(c, j->verify);
    calib_free(&text);
    return result;
}

// --refit: from what was written to W_down of every layer, for the plan to be made anew.
static int refit(Export *x, Err *e) {
    const RefitOptions how = {.ridge = 1, .feedback = 1, .type = x->job->o.type};
    Gguf g = {0};
    Model m = {0};
    int result = -1;
    x->down = alloc((size_t)x->model.config.n_layers, sizeof *x->down, "refitted matrices", e);
    if (x->down && !gguf_open(&g, x->out.part, e) && !model_bind(&m, &g, e) &&
        !refit_down(&x->model, &m, &x->text, how, x->down, progress, x->loud, e)) result = 0;
    model_free(&m);
    gguf_free(&g);
    x->compression.down = x->down;
    return result;
}

// One plan, written beside path; with --refit twice.
static int plan_and_write(Export *x, const Options *o, const Compression *c, const char *path, Err *e) {
    forget_refit(x);
    for (int turn = 0; turn < (o->refit ? 2 : 1); turn++) {
        plan_free(&x->plan);
        if ((turn && refit(x, e)) || plan_make(&x->plan, o, &x->source, &x->model, c, e) ||
            write_plan(x, path, e)) return -1;
    }
    return 0;
}

// Plans, writes and measures; then what was written takes its name. --loss: what was predicted for the
// measured loss is corrected and tried again, until it is kept and nearly used up.
static int make_file(Export *x, double *measured, Err *e) {
    const Options *o = &x->job->o;
    const Compression *c = moments_wanted(o) || o->ffn ? &x->compression : NULL;
    Options now = *o;
    *measured = NAN;
    for (int i = 0;; i++) {
        if (plan_and_write(x, &now, c, o->out, e)) return -1;
        if (!x->job->quiet && i == 0) fputs(x->plan.notes, stderr);
        if (!x->text.count) return out_commit(&x->out, e);
        if (measure_loss(x, measured, e)) return -1;
        const bool kept = *measured <= o->loss;
        if (o->loss <= 0 || (kept && (i >= 3 || *measured > 0.9 * o->loss))) return out_commit(&x->out, e);
        if (i >= 8) return fail(e, "--loss %g: not reached, %g after %d tries", o->loss, *measured, i + 1);
        const double ratio = o->loss / (*measured > 1e-6 ? *measured : 1e-6);
        now.loss *= 0.97 * (ratio > 4 ? 4 : ratio < 0.25 ? 0.25 : ratio);
    }
}

// What would be written at other budgets, beside the output, measured and removed.
// A ratio that is beyond the smallest ranks is said and left out. Returns how many points there are.
static int measure_sweep(Export *x, SweepPoint *point, Err *e) {
    const Job *j = x->job;
    char path[4200];
    int n = 0;
    snprintf(path, sizeof path, "%.4000s.sweep", j->o.out);
    for (int i = 0; i < j->n_sweep; i++) {
        Options o = j->o;
        o.keep = 1 / j->sweep[i], o.size = o.loss = 0, o.rank[EMBD] = 0;
        int result = plan_and_write(x, &o, &x->compression, path, e);
        if (!x->plan.b && !interrupted) {                // it could not even be planned
            if (x->loud) fprintf(stderr, "note: --sweep %g is left out: %s\n", j->sweep[i], e->msg);
            continue;
        }
        if (!result) result = measure_loss(x, &point[n].measured, e);
        out_abort(&x->out);
        if (result) return -1;
        point[n].ratio = j->sweep[i];
        point[n++].predicted = x->plan.predicted;
    }
    return n;
}

static double sum_parts(Parts p) {
    return p.attention + p.ffn + p.embedding + p.output + p.other;
}

static void add_sizes(const ReportLayer *l, int from, int to, double params[2], double bytes[2]) {
    for (int q = from; q < to; q++)
        for (int k = 0; k < 2; k++)
            params[k] += l->matrix[q].params[k], bytes[k] += l->matrix[q].bytes[k];
}

static int write_report(Export *x, const Comparison *c, double measured, double took, Err *e) {
    const Job *j = x->job;
    const Options *o = &j->o;
    const Parts bytes = model_bytes(&x->model), params = model_params(&x->model);
    Str name = {"", 0};
    char model[128], calibration[256] = "";
    SweepPoint point[16];
    ReportLayer *layer = NULL;
    int result = -1;
    if (gguf_get_str(&x->source.g, "general.name", &name, e)) return -1;
    snprintf(model, sizeof model, "%.*s", (int)(name.n < 120 ? name.n : 120), name.s);
    const char *file = calibration_file(o);
    if (x->text.count)
        snprintf(calibration, sizeof calibration, "%s%s%.150s, %lld tokens in windows of %lld",
                 file == o->calibration ? "" : "text that the model wrote", file && file != o->calibration
                 ? " and " : "", file ? file : "", (long long)(x->text.count * x->text.window),
                 (long long)x->text.window);
    Report r = {.model = *model ? model : o->source, .source = o->source, .output = o->out,
                .command = j->command, .method = method_name(o->method), .calibration = calibration,
                .n_layers = x->plan.n_layers, .predicted = NAN, .measured = measured, .verify = c,
                .verify_text = j->verify, .sweep = point, .seconds = took};
    if (o->method == METHOD_FISHER) r.predicted = x->plan.predicted;
    if (summarise(&x->plan, &layer, e)) goto done;
    r.layer = layer;
    r.params[0] = r.params[1] = sum_parts(params);
    r.bytes[0] = r.bytes[1] = sum_parts(bytes);
    for (int i = 0; i < x->plan.n_layers; i++) {
        double all[2] = {0}, all_bytes[2] = {0};
        add_sizes(&layer[i], R_Q, R_GATE, r.attention_params, r.attention_bytes);
        add_sizes(&layer[i], R_Q, R_MATRICES, all, all_bytes);
        r.params[1] += all[1] - all[0];
        r.bytes[1] += all_bytes[1] - all_bytes[0];
    }
    if (j->n_sweep && (r.n_sweep = measure_sweep(x, point, e)) < 0) goto done;
    result = report_write(j->report, &r, e);
done:
    summary_free(layer, (int)r.n_layers);
    return result;
}

// The command as it can be typed again.
static char *command_of(int argc, char **argv) {
    size_t n = 1;
    for (int i = 0; i < argc; i++) n += 4 * strlen(argv[i]) + 3;
    char *text = alloc(n, 1, "command", NULL), *at = text;
    for (int i = 0; i < argc && text; i++) {
        const bool quoted = !*argv[i] || strpbrk(argv[i], " \t\n\"'$&|;<>()*?`\\#~");
        at += sprintf(at, "%s%s", i ? " " : "", quoted ? "'" : "");
        for (const char *c = argv[i]; *c; c++)
            if (*c == '\'') at += sprintf(at, "'\\''");
            else *at++ = *c;
        at += sprintf(at, "%s", quoted ? "'" : "");
    }
    return text;
}

static int can_verify(const Model *m, Err *e) {
    return !m->config.encoder ? 0 : fail(e, "--verify: an encoder does not predict what follows");
}

static int take_apart(Export *x, Err *e) {
    if (source_split(&x->source, &x->model, e)) return -1;
    model_free(&x->model);
    return model_bind(&x->model, &x->source.g, e);
}

// What cannot be written is said before the work begins; both at once, for two names may be of one file.
static int can_write(const char *path, const char *report, Err *e) {
    FileOut probe = {0}, page = {0};
    int result = out_open(&probe, path, e);
    bool one = !result && report && meets(report, probe.part);
    if (!result && report && !one) {
        result = out_open(&page, report, e);
        one = !result && (meets(path, page.part) || meets(path, report));
    }
    if (one) result = fail(e, "--report %s: is the output of -o, or becomes it on the way", report);
    out_abort(&page);
    out_abort(&probe);
    return result;
}

static int takes_tokenizer(const Export *x, Err *e) {
    return !x->job->o.tokenizer || x->source.built ? 0
         : fail(e, "--tokenizer: %s is a GGUF, which brings its own", x->job->o.source);
}

// made: the file stands there; what went wrong came after it.
static int export_model(const Job *j, bool *made, Err *e) {
    const Options *o = &j->o;
    Export x = {.job = j, .loud = j->quiet ? NULL : stderr, .dense_loss = NAN};
    const double start = seconds();
    double measured = NAN;
    Comparison c;
    int result = -1;
    if (can_write(o->out, j->report, e) ||
        source_open(&x.source, o->source, o->tokenizer, e) || takes_tokenizer(&x, e) ||
        model_bind(&x.model, &x.source.g, e) || (j->verify && can_verify(&x.model, e)) ||
        (!o->dense && !o->rebuild && take_apart(&x, e)) || plan_check(o, &x.source, &x.model, e) ||
        (!o->dense && !o->rebuild && calibrate(&x, e)) || make_file(&x, &measured, e)) goto done;
    *made = true;
    if (!j->quiet) table(&x.plan, measured, seconds() - start);
    if (j->verify && verify(&x, &c, e)) goto done;
    if (j->report && write_report(&x, j->verify ? &c : NULL, measured, seconds() - start, e)) goto done;
    result = 0;
done:
    export_free(&x);
    return result;
}

int main(int argc, char **argv) {
    keep_standard_files();
    utf8_arguments(&argc, &argv);
    Job j = read_options(argc, argv);
    catch_signals("export", on_signal, on_pipe);
    check_files(&j);
    Err e = {""};
    j.command = command_of(argc, argv);
    bool made = false;
    if (export_model(&j, &made, &e))
        die(!interrupted ? e.msg : made ? "interrupted: the file is written, what should follow is not"
                                        : "interrupted, nothing was written");
    free(j.command);
    leave();
    return 0;
}
