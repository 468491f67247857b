// report: the page about an export. Numbers come as they are; here they only become text and
// drawings. Charts are inline SVG in small panels that keep their size and flow into columns, so
// that nothing has to shrink on a phone; colours are CSS variables, so that one page is light and
// dark. No script, no font, nothing from outside. Written to memory first, then to its file.
#include "report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../core/unicode.h"

static const char *const matrix_name[R_MATRICES] = {"Q", "K", "V", "O", "gate", "up", "down"};

typedef struct {
    FILE *f;
    const Report *r;
    int charts;                        // drawn so far: their titles are numbered
    bool shown[R_MATRICES];            // the attention, and what else is factored somewhere
    bool factored[R_MATRICES];         // in some layer
} Page;

// Two colours of text, two of the ground, and one a matrix: at least 3 : 1 against the page, and
// told apart by those to whom red and green, or blue and yellow, look alike (simulated: at least
// 0.07 apart in OKLab); lines have markers of different shapes besides.
static const char style[] =
    ":root{color-scheme:light dark;--page:#fcfbf8;--ink:#1d1d1b;--soft:#62605a;--rule:#e3e0d7;"
    "--c0:#2f6fc4;--c1:#dd7a12;--c2:#0f9d7a;--c3:#8c2463;--c4:#8f80d4;--c5:#7a5a2c;--c6:#30343c}\n"
    "@media screen and (prefers-color-scheme:dark){:root{--page:#15161a;--ink:#e9e6df;--soft:#a5a29a;"
    "--rule:#33353b;--c0:#5f9cf0;--c1:#f2a24a;--c2:#3ec7a0;--c3:#d4508f;--c4:#c9b6f5;--c5:#9a7a4e;"
    "--c6:#e6e6e6}}\n"
    "*{box-sizing:border-box}\n"
    "html{-webkit-text-size-adjust:100%;text-size-adjust:100%}\n"
    "body{margin:0 auto;max-width:71rem;padding:2.5rem 1rem 4rem;background:var(--page);"
    "color:var(--ink);font:1.0625rem/1.55 Charter,'Bitstream Charter','Iowan Old Style',"
    "'Palatino Linotype',Palatino,Georgia,serif}\n"
    "h1,h2,h3{line-height:1.2;font-weight:600;text-wrap:balance;overflow-wrap:anywhere}\n"
    "h1{font-size:clamp(1.6rem,1.1rem + 2vw,2.4rem);margin:0 0 1rem;letter-spacing:-.01em}\n"
    "h2{font-size:1.35rem;margin:3.25rem 0 .5rem}\n"
    "p{max-width:42rem;margin:.5rem 0;text-wrap:pretty}\n"
    ".lede{font-size:clamp(1.1rem,1rem + .5vw,1.3rem);line-height:1.5;max-width:46rem;"
    "margin-bottom:1.75rem}\n"
    ".soft,figcaption span,caption span{color:var(--soft)}\n"
    "dl,table,figcaption,.key,svg{font-family:system-ui,-apple-system,'Segoe UI',Roboto,"
    "'Helvetica Neue',Arial,sans-serif;font-variant-numeric:tabular-nums}\n"
    "dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.3rem 1.25rem;margin:0;"
    "font-size:.875rem;line-height:1.5;max-width:58rem}\n"
    "dt{color:var(--soft)}\n"
    "dd{margin:0;overflow-wrap:anywhere}\n"
    "code i{font-style:normal;display:inline-block;max-width:100%}\n"
    "@media(max-width:34rem){dl{display:block}dd{margin-bottom:.5rem}}\n"
    "code{font:.8125rem/1.5 ui-monospace,'SF Mono',Menlo,Consolas,monospace}\n"
    ".panels{display:grid;gap:2rem 2.25rem;align-items:start;margin-top:1.25rem;"
    "grid-template-columns:repeat(auto-fill,minmax(min(100%,19.5rem),1fr))}\n"
    ".small{gap:1rem 1.25rem;grid-template-columns:repeat(auto-fill,minmax(9.25rem,1fr))}\n"
    "figure{margin:0;max-width:27rem;min-width:0}\n"
    "figcaption,caption{font-size:.875rem;line-height:1.4;text-align:left;margin-bottom:.4rem}\n"
    "caption{padding-bottom:.4rem;margin:0}\n"
    "figcaption b,caption b{font-weight:600}\n"
    "svg{display:block;width:100%;height:auto}\n"
    "svg text{fill:var(--soft);font-size:11px}\n"
    ".small svg text{font-size:10px}\n"
    "svg .end{text-anchor:end}svg .mid{text-anchor:middle}svg .ink{fill:var(--ink)}\n"
    ".grid{stroke:var(--rule);fill:none}\n"
    ".axis{stroke:var(--soft);fill:none;opacity:.6}\n"
    ".line{fill:none;stroke:currentColor;stroke-width:1.4;stroke-linejoin:round}\n"
    ".thin{stroke-width:1;opacity:.5}.dash{stroke-dasharray:4 3}.dots{stroke-dasharray:1 3;"
    "stroke-linecap:round;stroke-width:2}\n"
    ".dot{fill:currentColor;stroke:currentColor}.hole{fill:var(--page);stroke:currentColor;"
    "stroke-width:1.4}.ring{fill:none;stroke:var(--ink)}\n"
    ".mark{stroke:var(--page);stroke-width:1;fill:currentColor}\n"
    ".bar{fill:currentColor}.was{fill:currentColor;opacity:.2}\n"
    ".bar:hover,.was:hover,.dot:hover{stroke:var(--ink)}\n"
    ".c0{color:var(--c0)}.c1{color:var(--c1)}.c2{color:var(--c2)}.c3{color:var(--c3)}"
    ".c4{color:var(--c4)}.c5{color:var(--c5)}.c6{color:var(--c6)}.cink{color:var(--ink)}"
    ".csoft{color:var(--soft)}\n"
    ".key{display:flex;flex-wrap:wrap;gap:.2rem 1.25rem;margin:.75rem 0 0;font-size:.875rem}\n"
    ".key span{display:inline-flex;align-items:center;gap:.4rem}\n"
    ".key svg{width:1.1rem;height:.75rem;flex:none}\n"
    "table{border-collapse:collapse;font-size:.8125rem;line-height:1.35;width:100%}\n"
    "th,td{padding:.3rem 0 .3rem .75rem;text-align:right;font-weight:400;white-space:nowrap;"
    "border-bottom:1px solid var(--rule)}\n"
    ".name{padding-left:0;text-align:left}\n"
    ".scheme{text-align:left}\n"
    "thead th{color:var(--soft);vertical-align:bottom}\n"
    "td.pm{padding-left:.35rem;text-align:left;color:var(--soft)}\n"
    ".scroll{overflow-x:auto;margin-top:1rem;-webkit-overflow-scrolling:touch}\n"
    ".scroll .name{position:sticky;left:0;background:var(--page);padding-right:.5rem}\n"
    ".scroll .first{padding-left:1.75rem}\n"
    ".scroll thead th[colspan]{text-align:center}\n"
    ".scroll tbody tr:hover :is(th,td){background:color-mix(in srgb,var(--rule) 45%,var(--page))}\n"
    "footer{margin-top:3rem;padding-top:.75rem;border-top:1px solid var(--rule);font-size:.875rem;"
    "color:var(--soft)}\n"
    ".words dt{color:inherit;font-weight:600}\n"
    "@media print{:root{--page:#fff}body{padding:0;font-size:.9rem}figure,tr{break-inside:avoid}"
    "h2,section p{break-after:avoid;break-inside:avoid}.scroll{overflow:visible}"
    ".scroll table{font-size:.625rem}.scroll :is(th,td){padding-left:.35rem}.scroll .first{padding-left:.8em}"
    ".scroll .name{position:static;padding-left:0}.panels{gap:1rem 1.5rem}"
    ".panels:not(.small){grid-template-columns:1fr 1fr}.small{grid-template-columns:repeat(5,1fr)}}\n";

// ---- text ---------------------------------------------------------------------------------------

typedef struct { char s[64]; } Text;

// s (n bytes) as HTML text: whatever it holds, what comes out is valid and inert.
static void escaped_part(FILE *f, const char *s, size_t n) {
    for (size_t step; n; s += step, n -= step) {
        uint32_t c;
        step = utf8_next(s, n, &c);
        if (step == 0) { c = UTF8_BAD; step = n; }
        if (c == '&') fputs("&amp;", f);
        else if (c == '<') fputs("&lt;", f);
        else if (c == '>') fputs("&gt;", f);
        else if (c == '"') fputs("&quot;", f);
        else if (c == '\'') fputs("&#39;", f);
        else if (c < ' ' || (c >= 0x7F && c < 0xA0)) fputc(' ', f);
        else if (c == UTF8_BAD) fputs("\xEF\xBF\xBD", f);
        else fwrite(s, 1, step, f);
    }
}

static void escaped(FILE *f, const char *s) { escaped_part(f, s, strlen(s)); }

// 1,234,567
static Text commas(double v) {
    Text t = {""};
    char digits[40], *at = t.s;
    int n = snprintf(digits, sizeof digits, "%.0f", fmin(fabs(v), 1e18));
    if (v < 0 && strcmp(digits, "0")) at += sprintf(at, "−");
    for (int i = 0; i < n; i++) {
        if (i && (n - i) % 3 == 0) *at++ = ',';
        *at++ = digits[i];
    }
    return t;
}

// m × 10^e, with the exponent in raised digits; m = 0: the power alone.
static Text power(double m, int e) {
    static const char *const raised[] = {"⁰", "¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸", "⁹"};
    Text t = {""};
    char digits[16], *at = t.s;
    if (m > 0) at += sprintf(at, "%.3g × ", m);
    at += sprintf(at, "10%s", e < 0 ? "⁻" : "");
    snprintf(digits, sizeof digits, "%d", abs(e));
    for (char *d = digits; *d; d++) at += sprintf(at, "%s", raised[*d - '0']);
    return t;
}

// A number at three digits: 0.0123, 1.23, 123, 12,345, 1.2 × 10⁻⁵. Nothing that is not finite.
static Text number(double v) {
    Text t = {"–"};
    if (!isfinite(v)) return t;
    double size = fabs(v);
    int e = size > 0 ? (int)floor(log10(size) + 1e-9) : 0;
    if (size >= 1000) return commas(v);
    if (size > 0 && e < -3) {
        Text p = power(size / pow(10, e), e);
        snprintf(t.s, sizeof t.s, "%s%.58s", v < 0 ? "−" : "", p.s);
    } else snprintf(t.s, sizeof t.s, "%s%.*f", v < 0 ? "−" : "", size > 0 ? 2 - e : 0, size);
    return t;
}

static Text percent(double part, double whole) {
    Text t = {"–"};
    double v = 100 * part / whole;
    if (whole > 0 && isfinite(v)) snprintf(t.s, sizeof t.s, "%.1f %%", v);
    return t;
}

static Text bytes_text(double v) {
    static const char *const unit[] = {"bytes", "kB", "MB", "GB", "TB"};
    Text t;
    int u = 0;
    for (; v >= 1000 && u < 4; u++) v /= 1000;
    snprintf(t.s, sizeof t.s, u ? "%.1f %s" : "%.0f %s", v, unit[u]);
    return t;
}

// ---- axes ---------------------------------------------------------------------------------------

typedef struct { double lo, hi, step, from, to; bool log; } Axis;   // lo .. hi lie at from .. to
typedef struct { double left, top, right, bottom; } Box;
enum { WIDE = 360, HIGH = 216, MOST_TICKS = 12 };
static const Box panel = {56, 16, 354, 182};

static double place(const Axis *a, double v) {
    double t = a->log ? (log(v) - log(a->lo)) / (log(a->hi) - log(a->lo))
                      : (v - a->lo) / (a->hi - a->lo);
    return a->from + t * (a->to - a->from);
}

// Steps of 1, 2 or 5 times a power of ten, about five of them, no smaller than `least`.
static double step_of(double range, double least) {
    double size = pow(10, floor(log10(range / 5))), s = range / 5 / size;
    double step = size * (s <= 1 ? 1 : s <= 2 ? 2 : s <= 5 ? 5 : 10);
    return fmax(step, least);
}

// 0 .. hi, hi rounded up to a step.
static Axis from_zero(double hi, double from, double to) {
    if (!(hi > 0)) hi = 1;
    double step = step_of(hi, 0);
    return (Axis){0, step * ceil(hi / step - 1e-9), step, from, to, false};
}

static Axis of_layers(int64_t n) {
    return (Axis){-0.5, (double)n - 0.5, step_of((double)n, 1), panel.left, panel.right, false};
}

static Axis logarithmic(double lo, double hi, double from, double to) {
    return (Axis){lo / 1.2, hi * 1.2, 0, from, to, true};
}

// Positions of ticks, ascending; at most MOST_TICKS.
static int ticks(const Axis *a, double t[MOST_TICKS]) {
    static const double fine[] = {1, 1.5, 2, 3, 4, 6, 8}, coarse[] = {1, 2, 5}, decade[] = {1};
    int n = 0;
    if (!a->log) {
        for (double v = ceil(a->lo / a->step) * a->step; v <= a->hi * (1 + 1e-9) && n < MOST_TICKS;
             v += a->step)
            t[n++] = fabs(v) < a->step / 2 ? 0 : v;
        return n;
    }
    double decades = log10(a->hi) - log10(a->lo);
    const double *m = decades < 1.2 ? fine : decades < 2.5 ? coarse : decade;
    int count = m == fine ? 7 : m == coarse ? 3 : 1;
    int every = decades > 6 ? (int)(decades / 5) + 1 : 1;
    for (int e = (int)floor(log10(a->lo)); e <= (int)ceil(log10(a->hi)); e++)
        for (int i = 0; i < count && n < MOST_TICKS; i++) {
            double v = m[i] * pow(10, e);
            if (v >= a->lo && v <= a->hi && e % every == 0) t[n++] = v;
        }
    return n;
}

static Text tick_text(const Axis *a, double v) {
    Text t;
    int e = v > 0 ? (int)floor(log10(v) + 1e-9) : 0;
    double m = v / pow(10, e);
    if (a->log && (e < -3 || e > 4)) return power(m > 1.01 ? m : 0, e);
    if (v >= 1000) return commas(v);
    if (a->log) {
        snprintf(t.s, sizeof t.s, "%g", v);
        return t;
    }
    int decimals = (int)fmax(0, -floor(log10(a->step) + 1e-9));
    if (decimals > 4 && v > 0) return power(m > 1.01 ? m : 0, e);
    snprintf(t.s, sizeof t.s, "%.*f", v > 0 ? decimals : 0, v);
    return t;
}

// ---- charts -------------------------------------------------------------------------------------

// caption = NULL: none above it. title and desc are for those who cannot see the drawing.
static void chart_begin(Page *p, const char *caption, const char *unit, const char *title,
                        const char *desc, int width, int height) {
    fputs("<figure>", p->f);
    if (caption) fprintf(p->f, "<figcaption><b>%s</b> <span>%s</span></figcaption>", caption, unit);
    int id = ++p->charts;
    fprintf(p->f, "\n<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-labelledby=\"t%d d%d\">"
            "<title id=\"t%d\">%s</title><desc id=\"d%d\">%s</desc>\n", width, height, id, id, id,
            title, id, desc);
}

static void chart_end(Page *p) { fputs("</svg></figure>\n", p->f); }

// class: "end" or "mid", where x is; "ink", dark
static void label(Page *p, const char *class, double x, double y, const char *text) {
    fprintf(p->f, "<text class=\"%s\" x=\"%.1f\" y=\"%.1f\">%s</text>\n", class, x, y, text);
}

// left, top, right, bottom of b; what is left open takes a title
static void rect(Page *p, const char *class, Box b) {
    fprintf(p->f, "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\">", class,
            b.left, b.top, fmax(0, b.right - b.left), fmax(0, b.bottom - b.top));
}

// Numbers below the axis, and what they count.
static void x_labels(Page *p, const Axis *x, const char *name) {
    double t[MOST_TICKS];
    int n = ticks(x, t);
    for (int i = 0; i < n; i++)
        label(p, "mid", place(x, t[i]), panel.bottom + 15, tick_text(x, t[i]).s);
    label(p, "end", panel.right, panel.bottom + 30, name);
}

static void frame(Page *p, const Axis *x, const Axis *y, const char *x_name) {
    double t[MOST_TICKS];
    int n = ticks(y, t);
    fputs("<path class=\"grid\" d=\"", p->f);
    for (int i = 0; i < n; i++)
        fprintf(p->f, "M%.1f %.1fH%.1f", panel.left, place(y, t[i]), panel.right);
    fputs("\"/>", p->f);
    for (int i = 0; i < n; i++)
        label(p, "end", panel.left - 6, place(y, t[i]) + 4, tick_text(y, t[i]).s);
    fprintf(p->f, "<path class=\"axis\" d=\"M%.1f %.1fH%.1f\"/>\n", panel.left, panel.bottom,
            panel.right);
    x_labels(p, x, x_name);
}

// The path of matrix m's own marker, of radius r, around x, y.
static void marker(FILE *f, int m, double x, double y, double r) {
    double e = 1.25 * r, w = 2 * r, h = 1.8 * r;
    if (m == R_Q)
        fprintf(f, "M%.1f %.1fa%.1f %.1f 0 1 0 %.1f 0a%.1f %.1f 0 1 0 -%.1f 0z", x - r, y,
                r, r, w, r, r, w);
    else if (m == R_K) fprintf(f, "M%.1f %.1fh%.1fv%.1fh-%.1fz", x - r, y - r, w, w, w);
    else if (m == R_V) fprintf(f, "M%.1f %.1fl%.1f %.1fh-%.1fz", x, y - r, r, h, w);
    else if (m == R_O)
        fprintf(f, "M%.1f %.1fl%.1f %.1fl-%.1f %.1fl-%.1f -%.1fz", x, y - e, e, e, e, e, e, e);
    else if (m == R_GATE) fprintf(f, "M%.1f %.1fl%.1f -%.1fh-%.1fz", x, y + r, r, h, w);
    else if (m == R_UP) fprintf(f, "M%.1f %.1fh%.1fM%.1f %.1fv%.1f", x - r, y, w, x, y - r, w);
    else fprintf(f, "M%.1f %.1fl%.1f %.1fm0 -%.1fl-%.1f %.1f", x - r, y - r, w, w, w, w, w);
}

// Which colour and marker are whose.
static void key(Page *p, const bool of[R_MATRICES]) {
    fputs("<p class=\"key\">", p->f);
    for (int m = 0; m < R_MATRICES; m++) {
        if (!of[m]) continue;
        fprintf(p->f, "<span><svg viewBox=\"0 0 18 12\" class=\"c%d\" aria-hidden=\"true\">"
                "<path class=\"line thin\" d=\"M0 6H18\"/><path class=\"dot\" d=\"", m);
        marker(p->f, m, 9, 6, 3.4);
        fprintf(p->f, "\"/></svg>%s</span>", matrix_name[m]);
    }
    fputs("</p>\n", p->f);
}

typedef double Value(const ReportMatrix *m);       // NAN: there is none
static double rank_of(const ReportMatrix *m) { return m->factored ? (double)m->rank : NAN; }
static double error_of(const ReportMatrix *m) { return m->factored ? m->error : NAN; }
static double tolerated_of(const ReportMatrix *m) { return m->tolerated > 0 ? m->tolerated : NAN; }
static double predicted_of(const ReportMatrix *m) { return m->predicted >= 0 ? m->predicted : NAN; }

// Smallest and largest of the values that are finite; false when there are none.
static bool extent(const Page *p, Value *value, double *lo, double *hi) {
    *lo = INFINITY;
    *hi = -INFINITY;
    for (int64_t l = 0; l < p->r->n_layers; l++)
        for (int m = 0; m < R_MATRICES; m++) {
            double v = value(&p->r->layer[l].matrix[m]);
            if (!isfinite(v)) continue;
            *lo = fmin(*lo, v);
            *hi = fmax(*hi, v);
        }
    return *lo <= *hi;
}

// A line a matrix over the layers, a marker a layer.
static void lines_chart(Page *p, Value *value, bool log, const char *name, const char *unit,
                        const char *desc) {
    double lo, hi;
    if (!extent(p, value, &lo, &hi)) return;
    int64_t n = p->r->n_layers;
    Axis x = of_layers(n), y = log ? logarithmic(lo, hi, panel.bottom, panel.top)
                                   : from_zero(hi, panel.bottom, panel.top);
    double r = fmax(1, fmin(2.6, 0.3 * (panel.right - panel.left) / (double)n));
    chart_begin(p, name, unit, name, desc, WIDE, HIGH);
    frame(p, &x, &y, "layer");
    for (int m = 0; m < R_MATRICES; m++) {
        bool pen = false;
        fprintf(p->f, "<g class=\"c%d\"><path class=\"line thin\" d=\"", m);
        for (int64_t l = 0; l < n; l++) {
            double v = value(&p->r->layer[l].matrix[m]);
            if (isfinite(v))
                fprintf(p->f, "%c%.1f %.1f", pen ? 'L' : 'M', place(&x, (double)l), place(&y, v));
            pen = isfinite(v);
        }
        fputs("\"/>", p->f);
        for (int64_t l = 0; l < n; l++) {
            double v = value(&p->r->layer[l].matrix[m]);
            if (!isfinite(v)) continue;
            fputs("<path class=\"dot\" d=\"", p->f);
            marker(p->f, m, place(&x, (double)l), place(&y, v), r);
            fprintf(p->f, "\"><title>layer %lld, %s: %s</title></path>", (long long)l,
                    matrix_name[m], number(v).s);
        }
        fputs("</g>\n", p->f);
    }
    chart_end(p);
}

// All layers together, one bar a matrix: what stays of what was.
static void totals_chart(Page *p) {
    double sum[R_MATRICES][2] = {{0}}, most = 0;
    int rows = 0;
    for (int m = 0; m < R_MATRICES; m++) {
        for (int64_t l = 0; l < p->r->n_layers; l++)
            for (int k = 0; k < 2; k++) sum[m][k] += p->r->layer[l].matrix[m].params[k];
        if (!p->shown[m]) continue;
        rows++;
        most = fmax(most, fmax(sum[m][0], sum[m][1]));
    }
    const char *unit = most >= 2e6 ? "million parameters" : "thousand parameters";
    double scale = most >= 2e6 ? 1e6 : 1e3, t[MOST_TICKS], y = panel.top, right = panel.right - 50;
    double row = (panel.bottom - panel.top) / rows, thick = fmin(22, 0.62 * row);
    Axis x = from_zero(most / scale, panel.left, right);
    x.hi = most / scale;
    int n = ticks(&x, t);
    chart_begin(p, "All layers", "what stays of each matrix", "Parameters that stay, by matrix",
                "A bar for each kind of matrix: its parameters in all layers, and the part that "
                "stays.", WIDE, HIGH);
    fputs("<path class=\"grid\" d=\"", p->f);
    for (int i = 0; i < n; i++)
        fprintf(p->f, "M%.1f %.1fV%.1f", place(&x, t[i]), panel.top, panel.bottom);
    fputs("\"/>", p->f);
    x_labels(p, &x, unit);
    for (int m = 0; m < R_MATRICES; m++) {
        if (!p->shown[m]) continue;
        double at = y + (row - thick) / 2;
        label(p, "end ink", panel.left - 6, y + row / 2 + 4, matrix_name[m]);
        label(p, "end ink", panel.right, y + row / 2 + 4, percent(sum[m][1], sum[m][0]).s);
        fprintf(p->f, "<g class=\"c%d\">", m);
        for (int k = 0; k < 2; k++) {
            rect(p, k ? "bar" : "was",
                 (Box){panel.left, at, place(&x, sum[m][k] / scale), at + thick});
            fprintf(p->f, "<title>%s: %s parameters %s</title></rect>", matrix_name[m],
                    commas(sum[m][k]).s, k ? "after" : "before");
        }
        fputs("</g>\n", p->f);
        y += row;
    }
    chart_end(p);
}

static double params_of(const ReportMatrix *m) { return m->params[1]; }
static double larger_params_of(const ReportMatrix *m) { return fmax(m->params[0], m->params[1]); }

// A column a layer, in it a slot a matrix, one upon the other, each filled from its bottom; as high
// as the two values say. NAN: no slot. unit = NULL: parameters.
static void slots_chart(Page *p, Value *slot, Value *fill, const bool of[R_MATRICES],
                        const char *name, const char *unit, const char *desc) {
    int64_t n = p->r->n_layers;
    double most = 0, high[R_MATRICES + 1] = {0};       // high: the slots' bottoms, in one layer
    for (int64_t l = 0; l < n; l++) {
        double sum = 0;
        for (int m = 0; m < R_MATRICES; m++) {
            double v = slot(&p->r->layer[l].matrix[m]);
            if (of[m] && isfinite(v)) sum += v;
        }
        most = fmax(most, sum);
    }
    double scale = unit ? 1 : most >= 2e6 ? 1e6 : 1e3;
    Axis x = of_layers(n), y = from_zero(most / scale, panel.bottom, panel.top);
    double width = fmin(24, 0.74 * (panel.right - panel.left) / (double)n);
    if (!unit) unit = most >= 2e6 ? "million parameters" : "thousand parameters";
    chart_begin(p, name, unit, name, desc, WIDE, HIGH);
    frame(p, &x, &y, "layer");
    for (int64_t l = 0; l < n; l++)
        for (int m = 0; m < R_MATRICES; m++) {
            const ReportMatrix *a = &p->r->layer[l].matrix[m];
            double v[2] = {fill(a), slot(a)}, left = place(&x, (double)l) - width / 2;
            bool there = of[m] && isfinite(v[1]) && v[1] > 0;
            high[m + 1] = high[m] + (there ? v[1] / scale : 0);
            for (int k = 0; k < 2 && there; k++) {
                double from = high[m] + (k ? v[0] / scale : 0), to = high[m] + v[k] / scale;
                if (from >= to) continue;
                fprintf(p->f, "<g class=\"c%d\">", m);
                rect(p, k ? "was" : "bar", (Box){left, place(&y, to), left + width, place(&y, from)});
                fprintf(p->f, "<title>layer %lld, %s: %s", (long long)l, matrix_name[m],
                        number(v[0]).s);
                if (v[0] != v[1]) fprintf(p->f, " of %s", number(v[1]).s);
                fputs("</title></rect></g>\n", p->f);
            }
        }
    chart_end(p);
}

// ---- spectra ------------------------------------------------------------------------------------

enum { SMALL_WIDE = 180, SMALL_HIGH = 138, CURVE_POINTS = 96 };
static const Box small = {30, 18, 176, 118};

// Lowers *least to the power of ten below value / value[0], 1e-8 at most, but not for the last
// twentieth of the values: of a deficient matrix they are rounding.
static void deepen(double *least, const double *value, int64_t n) {
    double last = value[n - 1 - n / 20] / value[0];
    if (last > 0 && isfinite(last)) *least = fmax(1e-8, fmin(*least, pow(10, floor(log10(last)))));
}

// value / value[0] from x = place(1) on; what lies below the axis is left out.
static void curve(Page *p, const char *class, const Axis *x, const Axis *y, const double *value,
                  int64_t n) {
    int64_t points = n < CURVE_POINTS ? n : CURVE_POINTS;
    fprintf(p->f, "<path class=\"%s\" d=\"", class);
    for (int64_t i = 0; i < points; i++) {
        int64_t at = points > 1 ? (i * (n - 1) + (points - 1) / 2) / (points - 1) : 0;
        double v = value[at] / value[0];
        if (!(v >= y->lo)) break;
        fprintf(p->f, "%c%.1f %.1f", i ? 'L' : 'M', place(x, (double)at), place(y, v));
    }
    fputs("\"/>", p->f);
}

static void small_frame(Page *p, int64_t layer, const Axis *y, const char *first,
                        const char *last) {
    double middle = sqrt(y->lo);
    fprintf(p->f, "<path class=\"grid\" d=\"M%.1f %.1fH%.1fM%.1f %.1fH%.1f\"/><path class=\"axis\" "
            "d=\"M%.1f %.1fH%.1f\"/>", small.left, small.top, small.right, small.left,
            place(y, middle), small.right, small.left, small.bottom, small.right);
    char name[32];
    snprintf(name, sizeof name, "layer %lld", (long long)layer);
    label(p, "end", small.left - 4, small.top + 4, "1");
    label(p, "end", small.left - 4, small.bottom + 3, power(0, (int)round(log10(y->lo))).s);
    label(p, "", small.left, small.bottom + 14, first);
    label(p, "end", small.right, small.bottom + 14, last);
    label(p, "end ink", small.right, small.top - 6, name);
}

static bool has_spectrum(const ReportMatrix *m) {
    return m->spectrum && m->n_spectrum > 0 && m->spectrum[0] > 0 && isfinite(m->spectrum[0]);
}

static void spectra(Page *p) {
    const Report *r = p->r;
    bool of[R_MATRICES] = {false}, any = false, shared = false;
    double least = 1e-2;
    int64_t longest = 2;
    for (int64_t l = 0; l < r->n_layers; l++)
        for (int m = 0; m < R_MATRICES; m++) {
            const ReportMatrix *a = &r->layer[l].matrix[m];
            if (!has_spectrum(a)) continue;
            of[m] = any = true;
            deepen(&least, a->spectrum, a->n_spectrum);
            if (a->n_spectrum > longest) longest = a->n_spectrum;
            for (int k = 0; k < m; k++) shared |= r->layer[l].matrix[k].spectrum == a->spectrum;
        }
    if (!any) return;
    fprintf(p->f, "<section><h2>Spectra</h2>\n<p>Eigenvalues of what was decomposed, from the first, "
            "the largest, to the last, each divided by the first, on a logarithmic axis. The mark is the "
            "rank that was kept: what lies to its right was given up.%s</p>\n",
            shared ? " Matrices that share a factor have one curve." : "");
    key(p, of);
    fputs("<div class=\"panels small\">\n", p->f);
    Axis x = {0, (double)longest - 1, 1, small.left, small.right, false};
    Axis y = {least, 1, 0, small.bottom, small.top, true};
    for (int64_t l = 0; l < r->n_layers; l++) {
        const ReportMatrix *a = r->layer[l].matrix;
        char title[64], last[32];
        any = false;
        for (int m = 0; m < R_MATRICES; m++) any |= has_spectrum(&a[m]);
        if (!any) continue;
        snprintf(title, sizeof title, "Spectra of layer %lld", (long long)l);
        snprintf(last, sizeof last, "%lld", (long long)longest);
        chart_begin(p, NULL, "", title, "Normalised eigenvalues over their number, log scale; the "
                    "rank that was kept is marked.", SMALL_WIDE, SMALL_HIGH);
        small_frame(p, l, &y, "1", last);
        for (int pass = 0; pass < 2; pass++)       // marks stand over all curves
            for (int m = 0; m < R_MATRICES; m++) {
                bool again = false;
                for (int k = 0; k < m; k++) again |= a[k].spectrum == a[m].spectrum;
                if (!has_spectrum(&a[m]) || again) continue;
                fprintf(p->f, "<g class=\"c%d\">", m);
                if (pass == 0) curve(p, "line", &x, &y, a[m].spectrum, a[m].n_spectrum);
                else if (a[m].factored && a[m].rank > 0 && a[m].rank <= a[m].n_spectrum) {
                    double v = fmax(a[m].spectrum[a[m].rank - 1] / a[m].spectrum[0], least);
                    fprintf(p->f, "<path class=\"%s\" d=\"", m < R_UP ? "mark" : "line");
                    marker(p->f, m, place(&x, (double)a[m].rank - 1), place(&y, v), 3.6);
                    fprintf(p->f, "\"><title>%s: rank %lld</title></path>", matrix_name[m],
                            (long long)a[m].rank);
                }
                fputs("</g>\n", p->f);
            }
        chart_end(p);
    }
    fputs("</div></section>\n", p->f);
}

static bool has_mode(const ReportLayer *l, int k) {
    return l->mode[k].n > 0 && l->mode[k].value && l->mode[k].value[0] > 0 &&
           isfinite(l->mode[k].value[0]);
}

// Plain Tucker: the singular values of the three unfoldings.
static void modes(Page *p) {
    static const char *const name[3] = {"embedding", "head", "kind"};
    static const char *const class[3] = {"line", "line dash", "line dots"};
    const Report *r = p->r;
    double least = 1e-1;
    bool any = false;
    for (int64_t l = 0; l < r->n_layers; l++)
        for (int k = 0; k < 3; k++)
            if (has_mode(&r->layer[l], k)) {
                any = true;
                deepen(&least, r->layer[l].mode[k].value, r->layer[l].mode[k].n);
            }
    if (!any) return;
    fputs("<section><h2>Singular values of the three modes</h2>\n<p>Of the attention tensor of "
          "each layer, unfolded along its embedding, head and kind mode, each divided by the "
          "largest, on a logarithmic axis, from the first to the last.</p>\n<p class=\"key\">",
          p->f);
    for (int k = 0; k < 3; k++)
        fprintf(p->f, "<span class=\"cink\"><svg viewBox=\"0 0 18 12\" aria-hidden=\"true\"><path "
                "class=\"%s\" d=\"M0 6H18\"/></svg>%s</span>", class[k], name[k]);
    fputs("</p>\n<div class=\"panels small\">\n", p->f);
    Axis y = {least, 1, 0, small.bottom, small.top, true};
    for (int64_t l = 0; l < r->n_layers; l++) {
        const ReportLayer *a = &r->layer[l];
        char title[64];
        any = false;
        for (int k = 0; k < 3; k++) any |= has_mode(a, k);
        if (!any) continue;
        snprintf(title, sizeof title, "Singular values of layer %lld", (long long)l);
        chart_begin(p, NULL, "", title, "Normalised singular values of the embedding, head and "
                    "kind mode, log scale.", SMALL_WIDE, SMALL_HIGH);
        small_frame(p, l, &y, "first", "last");
        fputs("<g class=\"cink\">", p->f);
        for (int k = 0; k < 3; k++) {
            int64_t n = a->mode[k].n;
            Axis x = {0, n > 1 ? (double)n - 1 : 1, 1, small.left, small.right, false};
            if (has_mode(a, k)) curve(p, class[k], &x, &y, a->mode[k].value, n);
        }
        fputs("</g>\n", p->f);
        chart_end(p);
    }
    fputs("</div></section>\n", p->f);
}

// ---- size and loss ------------------------------------------------------------------------------

static int by_ratio(const void *a, const void *b) {
    double x = ((const SweepPoint *)a)->ratio, y = ((const SweepPoint *)b)->ratio;
    return (x > y) - (x < y);
}

static bool drawn(double ratio, double rise) {
    return isfinite(ratio) && ratio > 0 && isfinite(rise) && rise > 0;
}

static double rise_of(const SweepPoint *s, int measured) {
    return measured ? s->measured : s->predicted;
}

// Loss against ratio, both on logarithmic axes. s: sorted by ratio.
static void sweep_chart(Page *p, const SweepPoint *s, int n) {
    const Report *r = p->r;
    double x_range[2] = {INFINITY, 0}, y_range[2] = {INFINITY, 0};
    int last[2] = {-1, -1};            // points with a value
    bool fell = false;                 // of some the logarithm does not exist
    double name_at[2] = {0};
    for (int i = 0; i < n; i++)
        for (int k = 0; k < 2; k++) {
            double v = rise_of(&s[i], k);
            if (!drawn(s[i].ratio, v)) continue;
            x_range[0] = fmin(x_range[0], s[i].ratio);
            x_range[1] = fmax(x_range[1], s[i].ratio);
            y_range[0] = fmin(y_range[0], v);
            y_range[1] = fmax(y_range[1], v);
            last[k] = i;
        }
    if (last[0] < 0 && last[1] < 0) return;
    for (int i = 0; i < n; i++) fell |= rise_of(&s[i], 0) <= 0 || rise_of(&s[i], 1) <= 0;
    double own = r->attention_params[1] > 0 ? r->attention_params[0] / r->attention_params[1] : NAN;
    if (drawn(own, r->measured)) {
        x_range[0] = fmin(x_range[0], own);
        x_range[1] = fmax(x_range[1], own);
        y_range[0] = fmin(y_range[0], r->measured);
        y_range[1] = fmax(y_range[1], r->measured);
    }
    Axis x = logarithmic(x_range[0], x_range[1], panel.left, panel.right - 50);
    Axis y = logarithmic(y_range[0], y_range[1], panel.bottom, panel.top);
    chart_begin(p, "Loss by ratio", fell ? "rise in nats a token; where it did not rise there is no point"
                : "rise in nats a token",
                "Rise of the loss against the attention ratio",
                "Two curves, predicted and measured, both axes logarithmic.", WIDE, HIGH);
    frame(p, &x, &y, "attention parameters, before / after");
    for (int k = 0; k < 2; k++) {
        if (last[k] < 0) continue;
        bool pen = false;
        fprintf(p->f, "<g class=\"c%d\"><path class=\"line%s\" d=\"", k ? 0 : 1, k ? "" : " dash");
        for (int i = 0; i < n; i++) {
            if (!drawn(s[i].ratio, rise_of(&s[i], k))) continue;
            fprintf(p->f, "%c%.1f %.1f", pen ? 'L' : 'M', place(&x, s[i].ratio),
                    place(&y, rise_of(&s[i], k)));
            pen = true;
        }
        fputs("\"/>", p->f);
        for (int i = 0; i < n; i++)
            if (drawn(s[i].ratio, rise_of(&s[i], k)))
                fprintf(p->f, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"2.8\"><title>%s at "
                        "%.2f: %s</title></circle>", k ? "dot" : "hole", place(&x, s[i].ratio),
                        place(&y, rise_of(&s[i], k)), k ? "measured" : "predicted", s[i].ratio,
                        number(rise_of(&s[i], k)).s);
        fputs("</g>\n", p->f);
        name_at[k] = place(&y, rise_of(&s[last[k]], k)) + 4;
    }
    double apart = last[0] < 0 || last[1] < 0 ? 0 : fmax(0, 13 - fabs(name_at[0] - name_at[1])) / 2;
    for (int k = 0; k < 2; k++) {              // names stand behind the curves' ends, a line apart
        bool upper = k ? name_at[1] <= name_at[0] : name_at[0] < name_at[1];
        if (last[k] >= 0)
            label(p, "ink", place(&x, s[last[k]].ratio) + 7, name_at[k] + (upper ? -apart : apart),
                  k ? "measured" : "predicted");
    }
    if (drawn(own, r->measured)) {
        fprintf(p->f, "<circle class=\"ring\" cx=\"%.1f\" cy=\"%.1f\" r=\"6\"/>", place(&x, own),
                place(&y, r->measured));
        label(p, "end ink", place(&x, own) - 7, fmax(place(&y, r->measured) - 6, 10), "this file");
    }
    chart_end(p);
}

static void size_row(Page *p, const char *name, const double v[2]) {
    if (v[0] > 0)
        fprintf(p->f, "<tr><th scope=\"row\" class=\"name\">%s</th><td>%s</td><td>%s</td>"
                "<td>%s</td></tr>\n", name, commas(v[0]).s, commas(v[1]).s, percent(v[1], v[0]).s);
}

static void size_table(Page *p) {
    const Report *r = p->r;
    if (!(r->attention_params[0] > 0 || r->attention_bytes[0] > 0 || r->params[0] > 0 ||
          r->bytes[0] > 0))
        return;
    fputs("<table><caption><b>Size</b></caption>\n<thead><tr><th></th><th scope=\"col\">before</th>"
          "<th scope=\"col\">after</th><th scope=\"col\">stays</th></tr></thead>\n<tbody>\n", p->f);
    size_row(p, "Attention<br><span class=\"soft\">parameters</span>", r->attention_params);
    size_row(p, "Attention<br><span class=\"soft\">bytes</span>", r->attention_bytes);
    size_row(p, "All tensors<br><span class=\"soft\">parameters</span>", r->params);
    size_row(p, "All tensors<br><span class=\"soft\">bytes</span>", r->bytes);
    fputs("</tbody></table>\n", p->f);
}

static void verify_row(Page *p, const char *name, double value, double error, const char *unit) {
    int digits = *unit ? 2 : 4;
    if (!isfinite(value)) return;
    fprintf(p->f, "<tr><th scope=\"row\" class=\"name\">%s</th><td>%s%.*f%s</td><td class=\"pm\">",
            name, value < 0 ? "−" : "", digits, fabs(value), unit);
    if (isfinite(error)) fprintf(p->f, "± %.*f", digits, error);
    fputs("</td></tr>\n", p->f);
}

static void verify_table(Page *p) {
    const Comparison *c = p->r->verify;
    if (!c || c->tokens < 1 || !isfinite(c->loss[0])) return;
    fprintf(p->f, "<table><caption><b>%s on a text</b> <span>%s tokens",
            isfinite(c->loss[1]) ? "Before and after" : "Before", commas((double)c->tokens).s);
    if (p->r->verify_text) {
        fputs(" of ", p->f);
        escaped(p->f, p->r->verify_text);
    }
    fputs("</span></caption>\n<tbody>\n", p->f);
    double ppl[2] = {exp(c->loss[0]), exp(c->loss[1])}, ratio = exp(c->difference);
    double top = c->same_top;
    verify_row(p, "Perplexity before", ppl[0], ppl[0] * c->error[0], "");
    verify_row(p, "Perplexity after", ppl[1], ppl[1] * c->error[1], "");
    verify_row(p, "After / before", ratio, ratio * c->difference_error, "");
    verify_row(p, "Log loss before, nats", c->loss[0], c->error[0], "");
    verify_row(p, "Log loss after, nats", c->loss[1], c->error[1], "");
    verify_row(p, "Difference, paired", c->difference, c->difference_error, "");
    verify_row(p, "KL divergence, mean", c->kl, c->kl_error, "");
    verify_row(p, "KL divergence, median", c->kl_median, NAN, "");
    verify_row(p, "KL divergence, largest", c->kl_max, NAN, "");
    verify_row(p, "Same likeliest token", 100 * top,
               100 * sqrt(top * (1 - top) / (double)c->tokens), " %");
    fputs("</tbody></table>\n", p->f);
}

static int size_and_loss(Page *p, Err *e) {
    const Report *r = p->r;
    int n = r->sweep && r->n_sweep > 0 ? r->n_sweep : 0;
    SweepPoint *sorted = alloc((size_t)n, sizeof *sorted, "the points of a sweep", e);
    if (!sorted) return -1;
    if (n) memcpy(sorted, r->sweep, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, by_ratio);
    fputs("<section><h2>Size and loss</h2>\n<div class=\"panels\">\n", p->f);
    size_table(p);
    verify_table(p);
    sweep_chart(p, sorted, n);
    fputs("</div></section>\n", p->f);
    free(sorted);
    return 0;
}

// ---- the page -----------------------------------------------------------------------------------

// code: a command; its words are broken over lines only where one is too long for any.
static void fact(Page *p, const char *name, const char *value, bool code) {
    if (!value || !*value) return;
    fprintf(p->f, "<dt>%s</dt><dd>%s", name, code ? "<code>" : "");
    if (!code) escaped(p->f, value);
    for (size_t n; code && *value; value += n) {
        n = strcspn(value, " ");
        fputs("<i>", p->f);
        escaped_part(p->f, value, n);
        fputs("</i> ", p->f);
        n += strspn(value + n, " ");
    }
    fprintf(p->f, "%s</dd>\n", code ? "</code>" : "");
}

// What a method goes by.
static const char *about_method(const char *name) {
    static const char *const about[] = {
        "fisher: by what every matrix sees and what its errors do to the loss",
        "kl: by what every matrix sees and what its errors do to where heads look",
        "input: by what every matrix sees", "hooi: plain Tucker, by the weights alone, improved in turns",
        "hosvd: plain Tucker, by the weights alone"};
    for (int i = 0; name && i < 5; i++) {
        const size_t n = strcspn(about[i], ":");
        if (strlen(name) == n && strncmp(about[i], name, n) == 0) return about[i];
    }
    return name;
}

static void head(Page *p) {
    const Report *r = p->r;
    const char *model = r->model && *r->model ? r->model : "A model";
    fputs("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
          "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<title>", p->f);
    escaped(p->f, model);
    fprintf(p->f, ", compressed</title>\n<style>\n%s</style></head>\n<body>\n<header><h1>", style);
    escaped(p->f, model);
    fputs("</h1>\n<p class=\"lede\">", p->f);
    if (r->attention_params[0] > 0 && r->attention_params[1] > 0)
        fprintf(p->f, "Attention went from %s to <b>%s parameters</b> (%s of them stay)",
                commas(r->attention_params[0]).s, commas(r->attention_params[1]).s,
                percent(r->attention_params[1], r->attention_params[0]).s);
    else fputs("Attention was compressed", p->f);
    if (r->bytes[0] > 0)
        fprintf(p->f, ", all tensors from %s to <b>%s</b> (%s)", bytes_text(r->bytes[0]).s,
                bytes_text(r->bytes[1]).s, percent(r->bytes[1], r->bytes[0]).s);
    fputs(". ", p->f);
    if (r->bytes[1] > r->bytes[0] && r->params[1] < r->params[0])
        fputs("It grew: a parameter of a factor takes more bytes here than one of a matrix did. ", p->f);
    if (isfinite(r->measured)) {
        fprintf(p->f, "The loss on the calibration text %s by <b>%s nats</b> a token",
                r->measured < 0 ? "fell" : "rose", number(fabs(r->measured)).s);
        if (fabs(r->measured) < 20) fprintf(p->f, ", perplexity × %.3f", exp(r->measured));
        if (isfinite(r->predicted))
            fprintf(p->f, "; %s had been predicted", number(r->predicted).s);
        fputs(".", p->f);
    } else if (isfinite(r->predicted))
        fprintf(p->f, "The loss on the calibration text is predicted to rise by <b>%s nats</b> a "
                "token.", number(r->predicted).s);
    fputs("</p>\n<dl>\n", p->f);
    fact(p, "Command", r->command, true);
    fact(p, "Method", about_method(r->method), false);
    fact(p, "Calibration", r->calibration, false);
    fact(p, "From", r->source, false);
    fact(p, "To", r->output, false);
    fputs("</dl></header>\n", p->f);
}

static void sizes(Page *p) {
    bool any = false;
    for (int m = 0; m < R_MATRICES; m++) any |= p->shown[m];
    if (!any) return;
    fputs("<section><h2>Where the parameters went</h2>\n<p>Full colour stays; the pale part was "
          "given up. A matrix that is not factored stays whole.</p>\n", p->f);
    key(p, p->shown);
    fputs("<div class=\"panels\">\n", p->f);
    totals_chart(p);
    slots_chart(p, larger_params_of, params_of, p->shown, "Layer by layer", NULL,
                "A column for each layer, in it a slot for each matrix as high as its parameters "
                "before, filled as far as they stay.");
    lines_chart(p, rank_of, false, "Rank", "in use",
                "For each factored matrix its rank, by layer.");
    fputs("</div></section>\n", p->f);
}

static void costs(Page *p) {
    double lo, hi;
    bool sensitivity = extent(p, tolerated_of, &lo, &hi);
    bool predicted = extent(p, predicted_of, &lo, &hi), error = extent(p, error_of, &lo, &hi);
    if (!sensitivity && !predicted && !error) return;
    fprintf(p->f, "<section><h2>What it costs, layer by layer</h2>\n<p>%s%s%s</p>\n",
            sensitivity ? "Sensitivity is what halving a matrix would cost. " : "",
            predicted ? "The predicted cost is that of the rank it got. " : "",
            error ? "The error is of the numbers alone, whatever they do to the loss." : "");
    bool costed[R_MATRICES] = {false};
    for (int64_t l = 0; l < p->r->n_layers; l++)
        for (int m = 0; m < R_MATRICES; m++) {
            const ReportMatrix *a = &p->r->layer[l].matrix[m];
            costed[m] |= isfinite(error_of(a)) || isfinite(tolerated_of(a)) ||
                         isfinite(predicted_of(a));
        }
    key(p, costed);
    fputs("<div class=\"panels\">\n", p->f);
    lines_chart(p, tolerated_of, true, "Sensitivity", "nats, at half of the parameters",
                "For each matrix the predicted rise of the loss at half of its parameters, by "
                "layer, log scale.");
    if (predicted)
        slots_chart(p, predicted_of, predicted_of, costed, "Predicted cost",
                    "rise of the loss, nats", "A column for each layer: the predicted rises "
                    "of the loss of its matrices, stacked.");
    lines_chart(p, error_of, false, "Error", "|W − W′| / |W|",
                "For each factored matrix its relative error, by layer.");
    fputs("</div></section>\n", p->f);
}

// A cell a factored matrix.
static void cells(Page *p, const ReportLayer *l, Value *value, int digits) {
    const char *class = " class=\"first\"";
    for (int m = 0; m < R_MATRICES; m++) {
        if (!p->factored[m]) continue;
        double v = value(&l->matrix[m]);
        if (isfinite(v)) fprintf(p->f, "<td%s>%.*f</td>", class, digits, v);
        else fprintf(p->f, "<td%s>–</td>", class);
        class = "";
    }
}

static void layers_table(Page *p) {
    const Report *r = p->r;
    int columns = 0;
    double lo, hi;
    bool predicted = extent(p, predicted_of, &lo, &hi);
    if (r->n_layers < 1) return;
    for (int m = 0; m < R_MATRICES; m++) columns += p->factored[m];
    fputs("<section><h2>Every layer</h2>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" "
          "aria-label=\"Every layer\"><table>\n<thead><tr>"
          "<th rowspan=\"2\" scope=\"col\" class=\"name\">layer</th>"
          "<th rowspan=\"2\" scope=\"col\" class=\"scheme\">scheme</th>"
          "<th colspan=\"3\" scope=\"colgroup\" class=\"first\">parameters</th>", p->f);
    for (int k = 0; k < 2 && columns; k++)
        fprintf(p->f, "<th colspan=\"%d\" scope=\"colgroup\" class=\"first\">%s</th>", columns,
                k ? "error" : "rank");
    if (predicted)
        fputs("<th rowspan=\"2\" scope=\"col\" class=\"first\">predicted,<br>nats</th>", p->f);
    fputs("</tr>\n<tr><th scope=\"col\" class=\"first\">before</th><th scope=\"col\">after</th>"
          "<th scope=\"col\">stays</th>", p->f);
    for (int k = 0; k < 2; k++)
        for (int m = 0, seen = 0; m < R_MATRICES; m++)
            if (p->factored[m])
                fprintf(p->f, "<th scope=\"col\"%s>%s</th>", seen++ ? "" : " class=\"first\"",
                        matrix_name[m]);
    fputs("</tr></thead>\n<tbody>\n", p->f);
    for (int64_t l = 0; l < r->n_layers; l++) {
        const ReportLayer *a = &r->layer[l];
        double sum[2] = {0}, cost = NAN;
        for (int m = 0; m < R_MATRICES; m++) {
            double v = predicted_of(&a->matrix[m]);
            if (p->shown[m]) for (int k = 0; k < 2; k++) sum[k] += a->matrix[m].params[k];
            if (isfinite(v)) cost = isfinite(cost) ? cost + v : v;
        }
        fprintf(p->f, "<tr><th scope=\"row\" class=\"name\">%lld</th><td class=\"scheme\">",
                (long long)l);
        escaped(p->f, a->scheme[0] ? a->scheme : "dense");
        fprintf(p->f, "</td><td class=\"first\">%s</td><td>%s</td><td>%s</td>", commas(sum[0]).s,
                commas(sum[1]).s, percent(sum[1], sum[0]).s);
        cells(p, a, rank_of, 0);
        cells(p, a, error_of, 3);
        if (isfinite(cost)) fprintf(p->f, "<td class=\"first\">%.5f</td>", cost);
        else if (predicted) fputs("<td class=\"first\">–</td>", p->f);
        fputs("</tr>\n", p->f);
    }
    fputs("</tbody></table></div></section>\n", p->f);
}

static void words(const Page *p) {
    bool ffn = false;
    for (int m = R_GATE; m < R_MATRICES; m++) ffn |= p->shown[m];
    fprintf(p->f, "<section><h2>Words</h2>\n<dl class=\"words\">\n"
            "<dt>Q, K, V, O</dt><dd>A layer’s attention matrices. Q, K and V turn its input into queries, "
            "keys and values; O turns what the heads gather into its output.%s</dd>\n"
            "<dt>rank</dt><dd>How many numbers pass between the two thin matrices of a factored one.</dd>\n"
            "<dt>scheme</dt><dd>Letters that stand together share a factor; what has no letter is dense, "
            "one matrix as before.</dd>\n"
            "<dt>loss, nats</dt><dd>−ln of the probability that the model gave to the token that came, on "
            "average. Perplexity is e to the loss: 0.01 nats more are 1 %% more perplexity.</dd>\n%s"
            "</dl></section>\n", ffn ? " gate, up, down: its feed-forward’s." : "", !p->r->verify ? "" :
            "<dt>KL divergence</dt><dd>How far the probabilities of the next token moved, in nats.</dd>\n");
}

static int page(Page *p, Err *e) {
    const Report *r = p->r;
    for (int64_t l = 0; l < r->n_layers; l++)
        for (int m = 0; m < R_MATRICES; m++) {
            const ReportMatrix *a = &r->layer[l].matrix[m];
            p->factored[m] |= a->factored;
            p->shown[m] |= a->factored || (m <= R_O && a->params[0] > 0);
        }
    head(p);
    fputs("<main>\n", p->f);
    if (size_and_loss(p, e)) return -1;
    sizes(p);
    costs(p);
    spectra(p);
    modes(p);
    layers_table(p);
    if (r->n_layers > 0) words(p);
    fputs("</main>\n<footer>Made by the exporter of tensorllm.c", p->f);
    if (isfinite(r->seconds) && r->seconds > 0) fprintf(p->f, " in %s s", number(r->seconds).s);
    fputs(".</footer>\n</body></html>\n", p->f);
    return 0;
}

int report_write(const char *path, const Report *r, Err *e) {
    TextFile text;
    FileOut out = {0};
    if (text_open(&text)) return fail(e, "%s: out of memory for the report", path);
    Page p = {.f = text.f, .r = r};
    int status = page(&p, e);
    if (!text_close(&text)) status = fail(e, "%s: out of memory for the report", path);
    if (status == 0)
        status = out_open(&out, path, e) || out_write(&out, text.s, text.n, e) || out_commit(&out, e)
               ? -1 : 0;
    out_abort(&out);
    free(text.s);
    return status;
}
