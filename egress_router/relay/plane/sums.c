/* Connections that Python is not told of one by one are added up for their line: many of them are one record. */
#include "thread.h"

static void add(_Atomic uint64_t *number, uint64_t more) {
    if (more)
        atomic_fetch_add_explicit(number, more, memory_order_relaxed);
}

static void observe(struct histogram *histogram, const struct bounds *bounds, nanoseconds time) {
    int place = 0;
    while (place < bounds->count && time > bounds->upper[place])
        place++;
    add(&histogram->counts[place], 1);
    add(&histogram->total, (uint64_t)time);
}

void sum_connected(struct plane *plane, struct pair *pair) {
    struct line *line = pair->line;
    observe(&line->sums.connects, &plane->connects, pair->connected - pair->started);
    atomic_fetch_add_explicit(&pair->targets->list[pair->target].answered, 1, memory_order_relaxed);
    report(plane, &pair->targets->node, NEWS_ANSWERED, false);
    report(plane, &line->node, NEWS_SUMMED, false);
}

/* The same for a known CONNECT, when its tunnel begins. */
void sum_connect(struct plane *plane, struct pair *pair) {
    observe(&pair->line->sums.connects, &plane->connects, pair->dialled - pair->started);
    report(plane, &pair->line->node, NEWS_SUMMED, false);
}

void sum_ended(struct plane *plane, struct pair *pair) {
    struct sums *sums = &pair->line->sums;
    if (pair->connected) {
        add(&sums->sent, pair->flows[CLIENT].moved);
        add(&sums->received, pair->flows[UPSTREAM].moved);
        observe(&sums->lives, &plane->lives, pair->ended - (is_known(pair) ? pair->started : pair->connected));
        if (pair->first)
            observe(&sums->firsts, &plane->connects, pair->first - pair->connected);
    } else {
        add(&sums->refused[pair->reason], 1);
    }
    report(plane, &pair->line->node, NEWS_SUMMED, false);
}
