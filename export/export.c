// export: the exporter's command line. Takes published weights, decomposes their attention layer by
// layer and writes one .tbin; or converts to a dense GGUF. This file and run.c are the only ones
// that print errors and exit.
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "plan.h"

static const char usage[] =
"usage: export/export SOURCE -o OUT [options]\n"
"SOURCE   a Hugging Face folder (config.json, *.safetensors), a GGUF, or a llama2.c .bin\n"
"         --tokenizer FILE  instead of the one beside the weights\n"
"what     --scheme S        groups that share factors: qkvo (the paper's; default), qkv+o,\n"
"                           qk+v+o, q+k+v+o, ...; projections left out stay dense\n"
"         --layers L        all (default), or 7,8,20-25; the others stay dense\n"
"         --keep F          part of the attention parameters kept (0.5); 1: full rank, exact\n"
"         --rank E,H[,K]    instead: ranks of U_embd, U_head and U_kind (K: full)\n"
"how      --method M        hooi (default) or hosvd; --sweeps N of hooi (10)\n"
"         --type T          of stored matrices: f32 f16 bf16 q8_0 q4_0 q4_1. Without it dense\n"
"                           ones keep theirs and factors take that of what they replace\n"
"instead  --dense           no factors: an ordinary GGUF\n"
"         --rebuild         SOURCE is a .tbin: multiply its factors back, into an ordinary GGUF\n"
"other    -t N  threads     -q  print errors only     --version     -h\n";

static void die(const char *message) {
    fflush(stdout);
    fprintf(stderr, "export: %s\n", message);
    exit(1);
}

static void on_signal(int signal_number) {
    (void)signal_number;
    interrupted = 1;
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
        bool last = *end == 0 && i > 0;
        if (end == at || rank[i] < 1 || rank[i] > 1 << 24 || (!last && (*end != ',' || i == 2)))
            bad_value("--rank", text, "two or three ranks from 1, such as 128,64");
        if (last) return;
        at = end + 1;
    }
}

static double read_keep(const char *text) {
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end || !(v > 0 && v <= 1))
        bad_value("--keep", text, "a number above 0, up to 1");
    return v;
}

static Options read_options(int argc, char **argv, bool *quiet) {
    Options o = {.scheme = NULL, .type = -1, .sweeps = -1};
    const char *method = NULL;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : NULL;
        #define IS(flag) (strcmp(a, flag) == 0)
        if (IS("-h") || IS("--help")) { fputs(usage, stdout); exit(0); }
        if (IS("--version")) { printf("tensorllm.c export, %s kernels\n", kernels_isa()); exit(0); }
        if (IS("--dense")) { o.dense = true; continue; }
        if (IS("--rebuild")) { o.rebuild = true; continue; }
        if (IS("-q")) { *quiet = true; continue; }
        if (*a != '-') {
            if (o.source) die("more than one SOURCE");
            o.source = a;
            continue;
        }
        bool known = IS("-o") || IS("--tokenizer") || IS("--scheme") || IS("--layers") ||
                     IS("--keep") || IS("--rank") || IS("--method") || IS("--sweeps") ||
                     IS("--type") || IS("-t");
        if (!known || !v) {
            char message[256];
            snprintf(message, sizeof message, known ? "%.100s needs a value (-h shows all flags)"
                                                    : "unknown flag %.100s (-h shows all)", a);
            die(message);
        }
        i++;
        if (IS("-o")) o.out = v;
        else if (IS("--tokenizer")) o.tokenizer = v;
        else if (IS("--scheme")) o.scheme = v;
        else if (IS("--layers")) o.layers = v;
        else if (IS("--keep")) o.keep = read_keep(v);
        else if (IS("--rank")) read_rank(v, o.rank);
        else if (IS("--method")) method = v;
        else if (IS("--sweeps")) o.sweeps = (int)whole(a, v, 1, 1000);
        else if (IS("-t")) threads_set((int)whole(a, v, 1, 256));
        else {
            o.type = type_by_name(v);
            if (o.type < 0 || !type_info(o.type)->native)
                bad_value(a, v, "f32, f16, bf16, q8_0, q4_0 or q4_1");
        }
        #undef IS
    }
    if (!o.source) die("no SOURCE (-h shows how to call)");
    if (!o.out) die("no output: -o OUT is needed");
    if (o.dense && o.rebuild) die("--dense or --rebuild, not both");
    bool factors = o.scheme || o.layers || o.keep > 0 || o.rank[0] || method || o.sweeps > 0;
    if ((o.dense || o.rebuild) && factors)
        die("--dense and --rebuild make no factors: no scheme, layers, ranks or method with them");
    if (o.keep > 0 && o.rank[0]) die("--keep or --rank, not both");
    if (method && strcmp(method, "hooi") && strcmp(method, "hosvd"))
        bad_value("--method", method, "hooi or hosvd");
    if (method && strcmp(method, "hosvd") == 0) {
        if (o.sweeps > 0) die("--sweeps is for --method hooi");
        o.sweeps = 0;
    }
    if (o.sweeps < 0) o.sweeps = 10;
    if (!o.scheme) o.scheme = "qkvo";
    if (!o.layers) o.layers = "all";
    if (o.keep <= 0) o.keep = 0.5;
    return o;
}

// The output must not take the place of what it is made from. Within a source folder only a GGUF,
// that is an earlier output, is replaced.
static void check_output(const Options *o) {
    struct stat out, in = {0}, folder;
    char dir[4096], message[512], magic[4] = {0};
    if (stat(o->out, &out)) return;                            // nothing is there yet
    bool same = (stat(o->source, &in) == 0 && in.st_dev == out.st_dev && in.st_ino == out.st_ino) ||
                (o->tokenizer && stat(o->tokenizer, &folder) == 0 && folder.st_dev == out.st_dev &&
                 folder.st_ino == out.st_ino);
    const char *slash = strrchr(o->out, '/');
    snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash + 1 - o->out) : 1, slash ? o->out : ".");
    if (!same && S_ISDIR(in.st_mode) && S_ISREG(out.st_mode) && stat(dir, &folder) == 0 &&
        folder.st_dev == in.st_dev && folder.st_ino == in.st_ino) {
        FILE *f = fopen(o->out, "rb");
        same = !f || fread(magic, 1, 4, f) != 4 || memcmp(magic, "GGUF", 4) != 0;
        if (f) fclose(f);
    }
    if (!same) return;
    snprintf(message, sizeof message, "%.300s: is the source, or a part of it (choose another -o)",
             o->out);
    die(message);
}

// ---- the work -----------------------------------------------------------------------------------

// A line that redraws itself on a terminal; elsewhere one line every ten seconds.
static void progress(int done, int total) {
    static double start, last;
    double now = seconds();
    bool tty = isatty(STDERR_FILENO);
    if (start == 0) start = last = now;
    if (!tty && now - last < 10) return;
    last = now;
    fprintf(stderr, tty ? "\rlayer %d/%d" : "layer %d/%d", done, total);
    if (done) fprintf(stderr, ", %.0f s left", (now - start) / done * (total - done));
    fprintf(stderr, tty ? "   " : "\n");
    if (tty && done == total) fprintf(stderr, "\r%*s\r", 40, "");
    fflush(stderr);
}

static int export_model(const Options *o, bool quiet, Err *e) {
    Source source = {0};
    Model model = {0};
    Plan plan = {0};
    FileOut out = {0};
    double start = seconds();
    int result = -1;
    if (source_open(&source, o->source, o->tokenizer, e) || model_bind(&model, &source.g, e) ||
        plan_make(&plan, o, &source, &model, e) || out_open(&out, o->out, e)) goto done;
    if (!quiet) fputs(plan.notes, stderr);
    if (plan_write(&plan, &out, quiet ? NULL : progress, e) || out_commit(&out, e)) goto done;
    if (!quiet) report(&plan, seconds() - start);
    result = 0;
done:
    out_abort(&out);
    plan_free(&plan);
    model_free(&model);
    source_close(&source);
    return result;
}

int main(int argc, char **argv) {
    bool quiet = false;
    Options o = read_options(argc, argv, &quiet);
    struct sigaction stop = {.sa_handler = on_signal}, ignore = {.sa_handler = SIG_IGN};
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGXFSZ, &ignore, NULL);       // a file-size limit is a failed write like any other
    check_output(&o);
    Err e = {""};
    if (export_model(&o, quiet, &e)) die(interrupted ? "interrupted, nothing was written" : e.msg);
    if (fflush(stdout) || ferror(stdout)) die("cannot write to standard output");
    return 0;
}
