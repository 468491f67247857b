// lanes: a decoder over many benchmark items at once, each on a timeline of its own.
#ifndef LANES_H
#define LANES_H

#include "coded.h"

// What becomes of each item goes to o (items->n, zero before), in any order; done(ctx, i) is told. The items
// have been seen to fit c.context. new_tokens: to generate for one that does not say. What comes of an
// item depends neither on c.batch nor on the items beside it.
int lanes_run(const Loaded *l, SessionConfig c, int64_t new_tokens, const Items *items, Outcome *o,
              void (*done)(void *ctx, int64_t i), void *ctx, Err *e);

#endif
