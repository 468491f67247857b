// page: a grid of signs that is filled in any order and printed line by line.
#include "page.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../core/unicode.h"

enum { COVERED = 0xFFFFFFFF };     // the second column of a wide sign

static const char *environment(const char *name) {
    const char *v = getenv(name);
    return v && *v ? v : NULL;
}

void page_init(Page *p) {
    memset(p, 0, sizeof *p);
    const char *locale = environment("LC_ALL");
    if (!locale) locale = environment("LC_CTYPE");
    if (!locale) locale = environment("LANG");
    static const char *const utf8[] = {".UTF-8", ".utf-8", ".UTF8", ".utf8"};
    for (int i = 0; i < 4; i++) p->utf8 |= locale && strstr(locale, utf8[i]);
    const char *term = environment("TERM");
    p->colour = isatty(STDOUT_FILENO) && !environment("NO_COLOR") && term && strcmp(term, "dumb") != 0;
    p->palette = (term && strstr(term, "256color")) || environment("COLORTERM");
}

static void set(Page *p, int x, int y, Ink ink, uint32_t sign) {
    if (x < 0 || x >= PAGE_WIDTH || y < 0 || y >= PAGE_LINES) return;
    p->sign[y][x] = sign;
    p->ink[y][x] = (uint8_t)ink;
    if (y >= p->lines) p->lines = y + 1;
}

// Columns that a sign takes; what is doubtful counts as two, for a line may be short but not too long.
static int width_of(uint32_t cp) {
    static const uint32_t wide[][2] = {{0x1100, 0x115F}, {0x231A, 0x231B}, {0x23E9, 0x23F3}, {0x2600, 0x27BF},
        {0x2B1B, 0x2B55}, {0x2E80, 0xA4CF}, {0xA960, 0xA97C}, {0xAC00, 0xD7A3}, {0xF900, 0xFAFF},
        {0xFE10, 0xFE6F}, {0xFF00, 0xFF60}, {0xFFE0, 0xFFE6}, {0x16FE0, 0x3FFFD}};
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++)
        if (cp >= wide[i][0] && cp <= wide[i][1]) return 2;
    return unicode_kind(cp) == UK_MARK ? 0 : 1;
}

// The next sign of a text as this page shows it. Marks, which have no column, are left out.
static size_t next_sign(const Page *p, const char *text, uint32_t *cp) {
    const size_t n = utf8_next(text, strlen(text), cp), taken = n ? n : strlen(text);
    const bool shown = n && *cp != UTF8_BAD && *cp >= 32 && unicode_kind(*cp) != UK_CONTROL;
    if (!shown || (!p->utf8 && *cp > 126)) *cp = '?';
    return taken;
}

static uint32_t ellipsis(const Page *p) { return p->utf8 ? 0x2026 : '~'; }

static int put_text(Page *p, int x, int y, int end, Ink ink, const char *text, bool *whole) {
    uint32_t cp;
    *whole = true;
    for (; *text && *whole; ) {
        text += next_sign(p, text, &cp);
        const int width = width_of(cp);
        if (x + width > end) *whole = false;
        else if (width) set(p, x, y, ink, cp);
        if (*whole && width == 2) set(p, x + 1, y, ink, COVERED);
        if (*whole) x += width;
    }
    return x;
}

int page_put(Page *p, int x, int y, Ink ink, const char *fmt, ...) {
    char text[256];
    bool whole;
    va_list args;
    va_start(args, fmt);
    const int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    x = put_text(p, x, y, PAGE_WIDTH, ink, text, &whole);
    if (!whole || n >= (int)sizeof text) set(p, PAGE_WIDTH - 1, y, FAINT, ellipsis(p));
    return x;
}

int page_right(Page *p, int end, int y, Ink ink, const char *fmt, ...) {
    char text[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return page_put(p, end - (int)strlen(text), y, ink, "%s", text);
}

void page_say(Page *p, Ink ink, const char *fmt, ...) {
    char text[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    page_put(p, 0, p->lines++, ink, "%s", text);
    page_print(p);
}

void page_word(Page *p, int x, int y, int width, Ink ink, const char *text) {
    bool whole;
    int end = x + width, behind = put_text(p, x, y, end, ink, text, &whole);
    if (whole) return;
    if (behind == end && p->sign[y][--behind] == COVERED) p->sign[y][behind--] = 0;
    set(p, behind, y, FAINT, ellipsis(p));
}

void page_box(Page *p, int x, int y, int w, int h, Ink ink, bool dotted) {
    // Corners from the top left, sides across and down, and what is too thin to be a box.
    static const uint32_t lines[] = {0x250C, 0x2510, 0x2514, 0x2518, 0x2500, 0x2502, 0x2550, 0x2551};
    static const uint32_t dots[] = {0x250C, 0x2510, 0x2514, 0x2518, 0x2504, 0x2506, 0x2504, 0x2506};
    static const uint32_t ascii[] = {'+', '+', '+', '+', '-', '|', '=', '|'};
    static const uint32_t ascii_dots[] = {'.', '.', ':', ':', '.', ':', '.', ':'};
    const uint32_t *s = p->utf8 ? dotted ? dots : lines : dotted ? ascii_dots : ascii;
    for (int i = 0; i < h; i++)
        for (int j = 0; j < w; j++) {
            const bool across = i == 0 || i == h - 1, down = j == 0 || j == w - 1;
            set(p, x + j, y + i, ink, h == 1 ? s[6] : w == 1 ? s[7]
                : across && down ? s[2 * (i > 0) + (j > 0)] : across ? s[4] : down ? s[5] : ' ');
        }
}

void page_rule(Page *p, int x, int y) {
    for (; x < PAGE_WIDTH; x++) set(p, x, y, FAINT, p->utf8 ? 0x2500 : '-');
}

void page_split(Page *p, int x, int y, int h, Ink ink) {
    for (int i = 0; i < h; i++) {
        const bool end = i == 0 || i == h - 1;
        set(p, x, y + i, ink, !p->utf8 ? end ? '+' : '|' : !end ? 0x2502 : i ? 0x2534 : 0x252C);
    }
}

// ---- shades --------------------------------------------------------------------------------------

static const double steps[] = {0.02, 0.1, 0.25, 0.5};
enum { STEPS = sizeof steps / sizeof *steps };

static uint32_t shade(const Page *p, int step) {
    static const uint32_t blocks[] = {0xB7, 0x2591, 0x2592, 0x2593, 0x2588};
    return p->utf8 ? blocks[step] : (uint32_t)".:+*#"[step];
}

void page_shade(Page *p, int x, int y, int w, double weight) {
    int step = 0;
    while (step < STEPS && weight >= steps[step]) step++;
    for (int i = 0; i < (step ? w : 1); i++) set(p, x + i, y, step ? PLAIN : FAINT, shade(p, step));
}

void page_legend(Page *p, int x, int y) {
    for (int i = 0; i <= STEPS; i++) {
        set(p, x, y, i ? PLAIN : FAINT, shade(p, i));
        x = 3 + (i ? page_put(p, x + 2, y, FAINT, "from %.0f %%", 100 * steps[i - 1])
                   : page_put(p, x + 2, y, FAINT, "less than %.0f %%", 100 * steps[0]));
    }
}

void page_bar(Page *p, int x, int y, int width, double part, Ink ink) {
    for (int i = 0; i < width && i < (int)(part * width + 0.5); i++)
        set(p, x + i, y, ink, p->utf8 ? 0x2588 : '=');
}

void page_print(Page *p) {
    // Of 256 colours, which no theme changes, those that stand out from black and white: 3.8 : 1 and more.
    static const char *const few[] = {"0", "1", "2", "36", "33", "32", "35", "94"};
    static const char *const many[] = {"0", "1", "2", "38;5;32", "38;5;166", "38;5;29", "38;5;163",
                                       "38;5;63"};
    const char *const *code = p->palette ? many : few;
    for (int y = 0; y < p->lines; y++) {
        int end = PAGE_WIDTH;
        while (end > 0 && (!p->sign[y][end - 1] || p->sign[y][end - 1] == ' ')) end--;
        int now = PLAIN;
        for (int x = 0; x < end; x++) {
            const uint32_t sign = p->sign[y][x] ? p->sign[y][x] : ' ';
            if (sign == COVERED) continue;
            char text[4];
            if (p->colour && p->ink[y][x] != now && sign != ' ') {
                printf(now == PLAIN ? "\033[%sm" : "\033[0;%sm", code[p->ink[y][x]]);
                now = p->ink[y][x];
            }
            fwrite(text, 1, utf8_put(sign, text), stdout);
        }
        puts(now == PLAIN ? "" : "\033[0m");
    }
    memset(p->sign, 0, sizeof p->sign);
    memset(p->ink, 0, sizeof p->ink);
    p->lines = 0;
}
