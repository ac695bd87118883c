/* Time-outs on two wheels: never early, late by at most half a second, short ones by at most a 32nd of a second.
 *
 * A time-out hardly ever fires: it is cancelled, or put off with every byte. So putting off only writes a number, which
 * is looked at when the wheel reaches the slot.
 */
#include "thread.h"

enum { SLOTS = sizeof((struct wheel *)0)->slots / sizeof(struct timer *) };
#define SHORT (5 * SECOND)

static void start(struct wheel *wheel, nanoseconds tick, nanoseconds now) {
    wheel->tick = tick;
    wheel->at = now / tick;
    wheel->first = INT64_MAX;
}

void timers_start(struct plane *plane) {
    start(&plane->fine, SECOND / 32, plane->now);
    start(&plane->coarse, SECOND / 2, plane->now);
}

void timer_cancel(struct timer *timer) {
    if (!timer->link)
        return;
    *timer->link = timer->next;
    if (timer->next)
        timer->next->link = timer->link;
    timer->link = NULL;
}

void timer_set(struct plane *plane, struct timer *timer, nanoseconds due) {
    struct wheel *wheel = due - plane->now < SHORT ? &plane->fine : &plane->coarse;
    int64_t number = (due + wheel->tick - 1) / wheel->tick;
    timer_cancel(timer);
    timer->due = due;
    if (number <= wheel->at)
        number = wheel->at + 1;
    if (number >= wheel->at + SLOTS) /* looked at again after one round of the wheel */
        number = wheel->at + SLOTS - 1;
    if (number < wheel->first)
        wheel->first = number;
    struct timer **slot = &wheel->slots[number % SLOTS];
    timer->next = *slot;
    timer->link = slot;
    if (*slot)
        (*slot)->link = &timer->next;
    *slot = timer;
}

static void expire(struct plane *plane, struct wheel *wheel) {
    int64_t until = plane->now / wheel->tick;
    if (wheel->first > until) {
        wheel->at = until;
        return;
    }
    struct timer *timer;
    struct timer *due = NULL;
    for (int turns = 0; wheel->at < until && turns < SLOTS; turns++) {
        struct timer **slot = &wheel->slots[++wheel->at % SLOTS];
        while ((timer = *slot)) {
            timer_cancel(timer);
            timer->next = due;
            timer->link = &due;
            if (due)
                due->link = &timer->next;
            due = timer;
        }
    }
    wheel->at = until;
    wheel->first = INT64_MAX;
    for (int64_t number = until + 1; number < until + SLOTS && wheel->first == INT64_MAX; number++)
        if (wheel->slots[number % SLOTS])
            wheel->first = number;
    /* A timer that fires may cancel others that are due, too. */
    while ((timer = due)) {
        timer_cancel(timer);
        if (timer->due > plane->now)
            timer_set(plane, timer, timer->due);
        else
            pair_timeout(plane, OWNER_OF(timer, struct pair, timer));
    }
}

void timers_expire(struct plane *plane) {
    expire(plane, &plane->fine);
    expire(plane, &plane->coarse);
}

nanoseconds timers_next(struct plane *plane) {
    nanoseconds fine = plane->fine.first == INT64_MAX ? INT64_MAX : plane->fine.first * plane->fine.tick;
    nanoseconds coarse = plane->coarse.first == INT64_MAX ? INT64_MAX : plane->coarse.first * plane->coarse.tick;
    return fine < coarse ? fine : coarse;
}
