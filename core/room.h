// room: memory for work that is kept for the next caller, since fresh pages cost as much as a small
// product. Not zeroed, 64 bytes aligned. A room has one caller at a time.
#ifndef ROOM_H
#define ROOM_H

#include <stdlib.h>

#include "util.h"

typedef struct { int busy; size_t size; void *at; } Room;

// Memory of one of `rooms`, *from, or, where all are in use, of its own: *from = NULL. NULL: there is none.
static inline void *room_take(Room *rooms, int n, size_t size, Room **from) {
    for (int i = 0; i < n; i++) {
        Room *r = &rooms[i];
        if (__atomic_exchange_n(&r->busy, 1, __ATOMIC_ACQUIRE)) continue;
        if (r->size < size) {
            free(r->at);
            r->at = aligned_memory(size);
            r->size = r->at ? size : 0;
        }
        *from = r;
        if (!r->at) __atomic_store_n(&r->busy, 0, __ATOMIC_RELEASE);
        return r->at;
    }
    *from = NULL;
    return aligned_memory(size);
}

// Gives back what room_take returned; up to `most` bytes are kept.
static inline void room_leave(Room *from, void *at, size_t most) {
    if (!from) {
        free(at);
        return;
    }
    if (from->size > most) {
        free(from->at);
        from->at = NULL, from->size = 0;
    }
    __atomic_store_n(&from->busy, 0, __ATOMIC_RELEASE);
}

#endif
