// Fuzz target: benchmark items, and the texts that are compared with answers.
#include "fuzz.h"
#include "../tools/tasks.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Items items;
    Err e = {""};
    fuzz_put("items.jsonl", data, size);
    fuzz_begin();
    int status = items_read(&items, fuzz_path("items.jsonl"), 0, &e);
    fuzz_said(status, &e);
    // A line is a document of its own, whose first block of nodes is 100 kB.
    size_t lines = 1;
    for (size_t i = 0; i < size; i++) lines += data[i] == '\n';
    fuzz_small(size + 1100 * lines, 100, "items");
    for (int64_t i = 0; !status && i < items.n; i++) {
        const Item *it = &items.item[i];
        HOLDS(it->prompt && it->text && it->n > 0 && it->gold >= 0 && it->gold < it->n, "item %lld", (long long)i);
        for (int k = 0; k < it->n; k++) {
            char *all = text_join(it->prompt, it->text[k], &e);
            HOLDS(all && text_length(all) >= text_length(it->prompt), "joined");
            HOLDS(text_holds(all, it->text[k], &e) >= 0, "%s", e.msg);
            HOLDS(text_same(it->text[0], it->text[k], &e) >= 0, "%s", e.msg);
            HOLDS(text_same(it->text[k], it->text[k], &e) == 1, "a text is not the same as itself");
            free(all);
        }
    }
    items_free(&items);
    remove(fuzz_path("items.jsonl"));
    return 0;
}
