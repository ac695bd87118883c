/* Counts open connections, in all workers and for each client, and decides who is admitted. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "thread.h"

static struct client **client_of(struct plane *plane, const struct in6_addr *address) {
    uint64_t high, low;
    memcpy(&high, address, 8);
    memcpy(&low, (const char *)address + 8, 8);
    /* The secret keeps clients from choosing addresses that share a slot. */
    uint64_t hash = (high ^ plane->secret) * UINT64_C(0x9E3779B97F4A7C15);
    hash = (hash ^ (hash >> 32) ^ low) * UINT64_C(0xD6E8FEB86659FD93);
    /* The highest bits: only they depend on all bits of the address (its last byte is the highest of `low`). */
    struct client **found = &plane->clients[(hash >> 52) % (sizeof plane->clients / sizeof *plane->clients)];
    while (*found && memcmp(&(*found)->address, address, sizeof *address) != 0)
        found = &(*found)->next;
    return found;
}

static void client_leave(struct plane *plane, const struct in6_addr *address) {
    struct client **found = client_of(plane, address), *client = *found;
    if (--client->open)
        return;
    *found = client->next;
    free(client);
}

static bool client_enter(struct plane *plane, const struct in6_addr *address) {
    struct client **found = client_of(plane, address);
    if (!*found) {
        if (!(*found = calloc(1, sizeof **found)))
            return false;
        (*found)->address = *address;
    } else if ((*found)->open >= plane->max_of_client) {
        return false;
    }
    (*found)->open++;
    return true;
}

/* Changes this worker's number and returns how many connections all workers have admitted. Each worker writes its own
 * number only. */
static int admitted(struct plane *plane, int change) {
    int sum = 0;
    __atomic_fetch_add(&plane->worker_counts[plane->slot], change, __ATOMIC_SEQ_CST);
    for (int i = 0; i < plane->slots; i++)
        sum += __atomic_load_n(&plane->worker_counts[i], __ATOMIC_SEQ_CST);
    return sum;
}

/* Returns 0, or the limit that the connection meets. */
enum reason admission_enter(struct plane *plane, struct pair *pair) {
    if (plane->worker_counts[plane->slot] >= plane->possible)
        return FULL;
    if (plane->max_of_client && !client_enter(plane, &pair->client))
        return CLIENT_FULL;
    pair->admitted = true;
    if (admitted(plane, 1) <= plane->maximum)
        return 0;
    /* Added first and compared then: if two workers take the last place in the same microsecond, at worst both give
     * way, but the limit is never exceeded. */
    admission_leave(plane, pair);
    return FULL;
}

void admission_leave(struct plane *plane, struct pair *pair) {
    if (!pair->admitted)
        return;
    pair->admitted = false;
    admitted(plane, -1);
    if (plane->max_of_client)
        client_leave(plane, &pair->client);
}
