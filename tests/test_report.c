// report: the page is well-formed and closed in itself whatever it is given, and says what it was given.
#include "../export/report.h"
#include "test.h"

#include <ctype.h>
#include <unistd.h>

enum { LAYERS = 32, LONGEST = 576 };
static Err err;
static char path[256], *html;              // the page written last
static size_t size;

static ReportLayer layer[LAYERS];
static double values[LAYERS][R_MATRICES][LONGEST], modes[LAYERS][3][LONGEST];
static Comparison comparison = {.tokens = 16352, .loss = {2.8912, 2.9865}, .error = {0.0191, 0.0197},
    .difference = 0.0953, .difference_error = 0.0038, .kl = 0.1042, .kl_error = 0.0019, .kl_max = 6.8123,
    .kl_median = 0.0391, .same_top = 0.8471};
static const SweepPoint sweep[] = {{4, 0.31, 0.58}, {1.33, 0.0048, 0.0051}, {2, 0.0612, NAN}};

// Everything there is: seven factored matrices a layer with their spectra, modes, sweep, comparison.
static Report full(int layers) {
    static const int64_t rows[] = {576, 192, 192, 576, 1536, 1536, 576}, cols[] = {576, 576, 576, 576, 576, 576, 1536};
    memset(layer, 0, sizeof layer);
    for (int l = 0; l < layers; l++) {
        strcpy(layer[l].scheme, "q+k+o");
        for (int m = 0; m < R_MATRICES; m++) {
            int64_t n = rows[m] < LONGEST ? rows[m] : LONGEST;
            for (int64_t i = 0; i < n; i++) values[l][m][i] = 900 * exp(-9 * sqrt((double)i / (double)n) - l % 3);
            layer[l].matrix[m] = (ReportMatrix){true, rows[m], cols[m], n / 3, {1e6 * (m + 1), 4e5 * (m + 1)},
                {6e5, 2.4e5}, 0.3 + 0.01 * l, 0.001 * (m + 1), 0.004 * (m + 1), values[l][m], n};
        }
        for (int k = 0; k < 3; k++) {
            int64_t n = (int64_t[]){LONGEST, 64, 8}[k];
            for (int64_t i = 0; i < n; i++) modes[l][k][i] = 50 * exp(-4 * (double)i / (double)n);
            layer[l].mode[k].value = modes[l][k];
            layer[l].mode[k].n = n;
        }
    }
    return (Report){"Small-135M", "from.gguf", "to.tbin", "export --keep 0.5 from.gguf", "weighted", "itself",
        layers, layer, {134515008, 121243968}, {98874368, 90579968}, {26542080, 13271040},
        {16588800, 8294400}, 0.0612, 0.0953, &comparison, "wiki.txt", sweep, COUNT(sweep), 412.3};
}

static int write_page(const Report *r) {
    free(html);
    html = NULL;
    return report_write(path, r, &err) || read_file(path, 1 << 24, &html, &size, &err) ? -1 : 0;
}

static bool has(const char *text) { return strstr(html, text) != NULL; }

// Where a word stands in the text, whatever its case, with no letter around it but a path's command.
static const char *word(const char *w) {
    size_t n = strlen(w);
    for (const char *p = html; *p; p++) {
        size_t i = 0;
        while (i < n && tolower((unsigned char)p[i]) == w[i]) i++;
        if (i == n && (p == html || !islower((unsigned char)p[-1])) && !isalpha((unsigned char)p[n]))
            return p;
    }
    return NULL;
}

// Every element is closed, in order; no attribute is left open; every title number is used once.
// Returns where it goes wrong.
static const char *unbalanced(void) {
    static const char *const empty[] = {"meta", "br", "!doctype"};
    static char stack[64][16];
    int depth = 0;
    for (const char *p = html; *p; p++) {
        if (*p == '>') return p;
        if (*p != '<') continue;
        const char *at = p++;
        bool closing = *p == '/';
        char name[16];
        int n = 0;
        if (closing) p++;
        while ((isalnum((unsigned char)*p) || *p == '!') && n < 15) name[n++] = *p++;
        name[n] = 0;
        if (!n) return at;
        for (bool quoted = false; quoted || *p != '>'; p++) {
            if (!*p || *p == '<') return at;
            if (*p == '"') quoted = !quoted;
        }
        bool none = p[-1] == '/';
        for (int i = 0; i < COUNT(empty); i++) none |= strcmp(name, empty[i]) == 0;
        if (closing) {
            if (!depth || strcmp(stack[--depth], name)) return at;
        } else if (!none) {
            if (depth == COUNT(stack)) return at;
            strcpy(stack[depth++], name);
        }
    }
    return depth ? stack[depth - 1] : NULL;
}

// What holds of any page.
static int sound(const char *what) {
    const char *wrong = unbalanced();
    CHECK(!wrong, "%s: tags do not balance at %.60s", what, wrong);
    static const char *const never[] = {"http", "<script", "<link", "@import", "url(", "javascript"};
    for (int i = 0; i < COUNT(never); i++) CHECK(!has(never[i]), "%s: %s", what, never[i]);
    CHECK(!word("nan") && !word("inf") && !word("infinity"), "%s: a number that is none", what);
    CHECK(strlen(html) == size, "%s: a zero byte", what);
    for (size_t i = 0; i < size; i++)
        CHECK((unsigned char)html[i] >= ' ' || html[i] == '\n', "%s: byte %d", what, html[i]);
    return PASS;
}

static int count_of(const char *text) {
    int n = 0;
    for (const char *p = html; (p = strstr(p, text)); p++) n++;
    return n;
}

static int says_everything(void) {
    Report r = full(LAYERS);
    CHECK(write_page(&r) == 0, "%s", err.msg);
    CHECK(sound("full") == PASS, "full");
    static const char *const wanted[] = {"<h1>Small-135M</h1>", "from 26,542,080 to <b>13,271,040 parameters</b> (50.0 %",
        "98.9 MB", "90.6 MB", "rose by <b>0.0953 nats</b>", "× 1.100", "0.0612 had been predicted", "98,874,368",
        "<i>--keep</i> <i>0.5</i>", "weighted", "itself", "to.tbin", "16,352 tokens of wiki.txt", "18.0149", "± 0.3441",
        "84.71 %", "<h2>Where the", "<h2>What it costs", "<b>Sensitivity</b>", "<b>Predicted cost</b>", "<b>Rank</b>",
        "<b>Error</b>", "<h2>Spectra", "<h2>Singular values", "<h2>Every layer", "<b>Loss by ratio</b>", "this file",
        "layer 31, down: 0.0280", "Q: rank 192", "in 412 s"};
    for (int i = 0; i < COUNT(wanted); i++) CHECK(has(wanted[i]), "no \"%s\"", wanted[i]);
    CHECK(has("28,000,000") && has("11,200,000") && has("40.0 %"), "no sums of a layer");
    int svg = count_of("<svg viewBox"), charts = count_of("role=\"img\"");
    CHECK(charts == 7 + 2 * LAYERS, "%d charts", charts);
    CHECK(svg > charts && count_of("<desc id") == charts && count_of("aria-labelledby=\"t") == charts,
          "%d descriptions", count_of("<desc id"));
    CHECK(size < 1000000, "%zu bytes", size);
    return PASS;
}

// The ends of every drawn number lie within its drawing.
static int drawings_stay_inside(void) {
    Report r = full(LAYERS);
    CHECK(write_page(&r) == 0, "%s", err.msg);
    double wide = 0, high = 0;
    for (const char *p = html; (p = strchr(p, '<')); p++) {
        double x, y, w, h;
        if (sscanf(p, "<svg viewBox=\"0 0 %lf %lf\"", &w, &h) == 2) { wide = w; high = h; }
        const char *at = strncmp(p, "<text", 5) == 0 ? strstr(p, " x=") : NULL;
        if (at && sscanf(at, " x=\"%lf\" y=\"%lf\"", &x, &y) == 2)
            CHECK(x >= 0 && x <= wide && y >= 4 && y <= high, "%.80s", p);
        at = strncmp(p, "<rect", 5) == 0 ? strstr(p, " x=") : NULL;
        if (at && sscanf(at, " x=\"%lf\" y=\"%lf\" width=\"%lf\" height=\"%lf\"", &x, &y, &w, &h) == 4)
            CHECK(x >= 0 && y >= 0 && w >= 0 && h >= 0 && x + w <= wide && y + h <= high, "%.80s", p);
        at = strncmp(p, "<path", 5) == 0 ? strstr(p, " d=\"") : NULL;
        if (at && sscanf(at, " d=\"M%lf %lf", &x, &y) == 2)
            CHECK(x >= -1 && x <= wide + 1 && y >= -1 && y <= high + 1, "%.80s", p);
    }
    return PASS;
}

static int escapes(void) {
    Report r = full(2);
    r.model = "</title><script>alert(1)</script> & \"x\" 'y' \x01\x7f\xff\xe2\x82";
    r.command = "a\n<b>\tc";
    r.verify_text = r.method = r.calibration = r.source = r.output = "<img src=x onerror=\"1\">";
    strcpy(layer[1].scheme, "<i>&");
    CHECK(write_page(&r) == 0, "%s", err.msg);
    CHECK(sound("hostile") == PASS, "hostile");
    CHECK(has("&lt;/title&gt;&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;x&quot; &#39;y&#39;   "
              "\xEF\xBF\xBD\xEF\xBF\xBD</h1>"), "%.300s", strstr(html, "<h1>"));
    CHECK(!has("<img") && has("&lt;i&gt;&amp;"), "a tag");
    return PASS;
}

static int leaves_out_what_is_missing(void) {
    Report r = full(3), less = r;
    less.verify = NULL;
    less.n_sweep = 0;
    less.sweep = NULL;
    less.measured = NAN;
    less.method = NULL;
    less.calibration = "";
    for (int l = 0; l < 3; l++) {
        for (int m = 0; m < R_MATRICES; m++) {
            ReportMatrix *a = &layer[l].matrix[m];
            a->predicted = a->tolerated = NAN;
            a->spectrum = NULL;
            a->factored = m < 3 && l != 1;
        }
        layer[l].mode[0].n = layer[l].mode[1].n = layer[l].mode[2].n = 0;
    }
    CHECK(write_page(&less) == 0, "%s", err.msg);
    CHECK(sound("less") == PASS, "less");
    static const char *const gone[] = {"Before and after", "Loss by ratio", "this file", "Method", "Calibration",
        "rose by", "Sensitivity", "Predicted cost", "<h2>Spectra", "<h2>Singular", "predicted,<br>", "gate"};
    for (int i = 0; i < COUNT(gone); i++) CHECK(!has(gone[i]), "\"%s\" is there", gone[i]);
    CHECK(has("predicted to rise by <b>0.0612 nats") && has("<b>Error</b>") && has("<b>Rank</b>"), "too little");
    CHECK(has("<td class=\"first\">–</td>"), "no dash for the dense layer");
    less.predicted = NAN;
    for (int l = 0; l < 3; l++)
        for (int m = 0; m < R_MATRICES; m++) layer[l].matrix[m].factored = false;
    CHECK(write_page(&less) == 0 && sound("dense") == PASS, "%s", err.msg);
    CHECK(!has("predicted to rise") && !has("What it costs") && !has("<b>Rank</b>") && has("Every layer"), "dense");
    less = (Report){.predicted = NAN, .measured = NAN};
    CHECK(write_page(&less) == 0 && sound("empty") == PASS, "%s", err.msg);
    CHECK(!has("Every layer") && !has("Where the") && !has("<td"), "an empty report says something");
    return PASS;
}

// What a reader would ask: why a file has grown, where a point is, what the words mean.
static int explains_itself(void) {
    static const char grew[] = "It grew", fell[] = "where it did not rise";
    static const char *const methods[] = {"fisher", "kl", "input", "hooi", "hosvd"};
    Report r = full(2);
    CHECK(write_page(&r) == 0 && !has(grew) && !has(fell) && has("<dd>weighted</dd>"), "%s", err.msg);
    CHECK(has("<dt>scheme</dt>") && has("<dt>KL divergence</dt>") && has("its feed-forward’s"), "words");
    const SweepPoint s[] = {{1.33, 0.01, -0.001}, {2, 0.1, 0.2}};
    r.bytes[1] = 1.1 * r.bytes[0], r.sweep = s, r.n_sweep = COUNT(s);
    CHECK(write_page(&r) == 0 && sound("grown") == PASS && has(grew) && has(fell), "%s", err.msg);
    r.verify = NULL, r.params[1] = r.params[0];            // as many parameters, of a wider type: no factors
    CHECK(write_page(&r) == 0 && !has("<dt>KL divergence</dt>") && !has(grew), "%s", err.msg);
    for (int i = 0; i < COUNT(methods); i++) {
        char line[64];
        snprintf(line, sizeof line, "<dt>Method</dt><dd>%s: ", methods[i]);
        r.method = methods[i];
        CHECK(write_page(&r) == 0 && has(line), "%s is not explained", methods[i]);
    }
    return PASS;
}

// Numbers that are out of the ordinary.
static int takes_any_numbers(void) {
    static const double odd[] = {0, -1, 1e-300, 1e300, NAN, INFINITY, -INFINITY, 1e-9, 1, 12345.678};
    Comparison c = comparison;
    for (int i = 0; i < COUNT(odd); i++)
        for (int layers = 1; layers <= 3; layers += 2) {
            Report r = full(layers);
            for (int l = 0; l < layers; l++)
                for (int m = 0; m < R_MATRICES; m++) {
                    ReportMatrix *a = &layer[l].matrix[m];
                    a->error = a->predicted = a->tolerated = odd[(i + m + l) % COUNT(odd)];
                    if (m < 2) a->n_spectrum = 1;
                    else if (m < 4) values[l][m][m - 2] = odd[i];
                    a->rank = m == 5 ? 100000 : m;
                    if (i < 3) a->params[i & 1] = odd[i] > 0 ? 3 : 0;
                }
            layer[0].mode[0].n = 1;
            modes[0][1][0] = odd[i];
            SweepPoint s[] = {{odd[i], 0.1, 0.2}, {2, odd[i], 0.1}, {2, 0.1, odd[i]}};
            r.sweep = s;
            r.n_sweep = COUNT(s);
            r.predicted = r.measured = c.difference = c.kl_max = c.loss[1] = odd[i];
            r.seconds = odd[i];
            r.verify = &c;
            CHECK(write_page(&r) == 0, "%s", err.msg);
            CHECK(sound("odd") == PASS, "value %d, %d layers", i, layers);
        }
    return PASS;
}

static int refuses(void) {
    Report r = full(1);
    CHECK(report_write("/nowhere/at/all.html", &r, &err) && strstr(err.msg, "/nowhere/at/all.html"), "%s", err.msg);
    return PASS;
}

static const Test tests[] = {
    {"says everything", says_everything},
    {"drawings stay inside", drawings_stay_inside},
    {"escapes", escapes},
    {"leaves out what is missing", leaves_out_what_is_missing},
    {"explains itself", explains_itself}, {"takes any numbers", takes_any_numbers},
    {"refuses", refuses},
};

int main(int argc, char **argv) {
    const char *folder = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/tensorllm-report-%d.html", folder ? folder : "/tmp", (int)getpid());
    int status = run_tests("report", tests, COUNT(tests), argc, argv);
    unlink(path);
    free(html);
    return status;
}
