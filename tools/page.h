// page: what is drawn for a terminal: words, numbers, boxes and shades at a column x and a line y. A page
// is PAGE_WIDTH columns wide and nothing leaves it, so no line is ever wider. Knows no models.
#ifndef PAGE_H
#define PAGE_H

#include "../core/util.h"

enum { PAGE_WIDTH = 80, PAGE_LINES = 48 };
typedef enum { PLAIN, STRONG, FAINT, INK_Q, INK_K, INK_V, INK_O, INK_SHARED } Ink;

typedef struct {
    bool utf8;                     // lines and blocks; else everything is ASCII
    bool colour, palette;          // palette: of 256 colours, else of eight
    int lines;                     // used
    uint32_t sign[PAGE_LINES][PAGE_WIDTH];     // code points; 0: nothing
    uint8_t ink[PAGE_LINES][PAGE_WIDTH];
} Page;

// UTF-8 where the locale says so (LC_ALL, LC_CTYPE, LANG), colour where stdout is a terminal that has it
// and NO_COLOR is not set.
void page_init(Page *p);
// Puts text (printf form); page_right ends it before column `end`. They return the column behind it. What
// the terminal cannot show stands as "?"; where the page ends within a text, its last column says so.
int page_put(Page *p, int x, int y, Ink ink, const char *fmt, ...) PRINTF_LIKE(5, 6);
int page_right(Page *p, int end, int y, Ink ink, const char *fmt, ...) PRINTF_LIKE(5, 6);
// A line of text of its own, printed at once, with what the page holds above it.
void page_say(Page *p, Ink ink, const char *fmt, ...) PRINTF_LIKE(3, 4);
// A text of any length in `width` columns; the last one says when there is more.
void page_word(Page *p, int x, int y, int width, Ink ink, const char *text);
// A box of w x h signs (at least 1 x 1), empty inside. A dotted one is not stored.
void page_box(Page *p, int x, int y, int w, int h, Ink ink, bool dotted);
void page_rule(Page *p, int x, int y);         // a line from there to the edge
// A line down through a box whose top is at y and which is h high.
void page_split(Page *p, int x, int y, int h, Ink ink);
// w columns as dark as `weight`, 0 … 1, in the steps that page_legend puts in words.
void page_shade(Page *p, int x, int y, int w, double weight);
void page_legend(Page *p, int x, int y);
// A bar of at most `width` columns.
void page_bar(Page *p, int x, int y, int width, double part, Ink ink);
// Prints the page on stdout without the blanks behind its lines, and empties it.
void page_print(Page *p);

#endif
