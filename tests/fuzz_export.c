// Fuzz target: a GGUF as the exporter takes it: opened, split, planned, decomposed with what its weights
// happen to be (infinities and no numbers too), written, read back and run.
#include "fuzz.h"
#include "../export/compress.h"

enum { WINDOW = 8, WINDOWS = 2 };

static int write_file(Plan *p, Err *e) {
    FileOut out = {0};
    int status = out_open(&out, fuzz_path("out.tbin"), e) || plan_write(p, &out, NULL, NULL, e) ||
                 out_commit(&out, e) ? -1 : 0;
    out_abort(&out);
    HOLDS(access(fuzz_path("out.tbin.part"), F_OK), "a part file stays");
    return status;
}

// What was written is as good a file as any.
static void read_back(unsigned salt) {
    Gguf g;
    Model m;
    Err e = {""};
    HOLDS(!gguf_open(&g, fuzz_path("out.tbin"), &e) && !model_bind(&m, &g, &e), "%s", e.msg);
    fuzz_run(&m, salt);
    model_free(&m);
    gguf_free(&g);
}

static void export_as(const Options *o, const Source *s, const Model *m, unsigned salt) {
    int ids[WINDOW * WINDOWS];
    CalibText text = {ids, WINDOWS, WINDOW, ""};
    Moments moments = {0};
    Compression c = {0};
    Plan p = {0};
    Err e = {""};
    const int want = o->dense || o->rebuild ? 0 : moments_wanted(o);
    for (int i = 0; i < WINDOW * WINDOWS; i++) ids[i] = (int)((salt + 5u * (unsigned)i) % (uint64_t)m->config.vocab);
    if (m->config.context < WINDOW && want) return;
    int status = plan_check(o, s, m, &e) || (want && moments_collect(&moments, m, &text, want, NULL, NULL, &e)) ||
                 (want && compression_init(&c, o, m, &moments, &text, NULL, NULL, &e)) ||
                 plan_make(&p, o, s, m, want ? &c : NULL, &e) || write_file(&p, &e) ? -1 : 0;
    fuzz_said(status, &e);
    if (!status) read_back(salt);
    plan_free(&p);
    compression_free(&c);
    moments_free(&moments);
    remove(fuzz_path("out.tbin"));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const schemes[] = {"qkvo", "qk+o", "q+k+v+o", NULL};
    static const Method methods[] = {METHOD_HOOI, METHOD_HOSVD, METHOD_FISHER, METHOD_KL, METHOD_INPUT};
    const unsigned salt = size ? (unsigned)(data[size - 1] + 3 * size) : 0;
    Options o = {.source = "in.gguf", .layers = "all", .keep = 0.8, .type = salt & 1 ? -1 : T_F32, .sweeps = 2,
                 .scheme = schemes[salt / 2 % 4], .method = methods[salt / 8 % 5]};
    if (o.method >= METHOD_FISHER - 2 && o.method != METHOD_HOOI && o.scheme) o.scheme = "qk+v+o";
    if (o.method <= METHOD_HOOI && !o.scheme) o.scheme = "qkv+o";
    Source s;
    Model m = {0};
    Err e = {""};
    fuzz_put("in.gguf", data, size);
    int status = source_open(&s, fuzz_path("in.gguf"), NULL, &e) || model_bind(&m, &s.g, &e) ? -1 : 0;
    Parts p = {0};
    if (!status) p = model_params(&m);
    bool small = p.attention + p.ffn + p.embedding + p.output < 60000 && m.config.n_layers <= 4;
    if (!status && small && m.config.tucker) {
        o.rebuild = true;
        export_as(&o, &s, &m, salt);
    } else if (!status && small) {
        o.dense = salt / 40 % 8 == 0;
        if (!o.dense) {
            status = source_split(&s, &m, &e);
            model_free(&m);
            HOLDS(!status && !model_bind(&m, &s.g, &e), "%s", e.msg);
        }
        export_as(&o, &s, &m, salt);
    }
    model_free(&m);
    source_close(&s);
    remove(fuzz_path("in.gguf"));
    return 0;
}
