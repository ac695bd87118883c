/* The thread's loop: waits for events, carries out Python's commands, acts on the events, and tells Python the news. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "thread.h"
#include "commands.h"

enum { BATCH = 256, MAX_UNRUNG = 256 };
#define LONGEST_UNRUNG (SECOND / 50) /* news that nobody waits for are told in batches */

nanoseconds monotonic(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * SECOND + now.tv_nsec;
}

void report(struct plane *plane, struct node *node, unsigned news, bool urgent) {
    if (queue_tell(&plane->news, node, news) && !plane->unrung++)
        plane->first_news = plane->now;
    plane->urgent |= urgent;
}

static void ring(struct plane *plane) {
    if (!plane->unrung && !plane->urgent)
        return;
    if (!plane->urgent && plane->unrung < MAX_UNRUNG && plane->now - plane->first_news < LONGEST_UNRUNG)
        return;
    plane->unrung = 0;
    plane->urgent = false;
    if (!atomic_exchange(&plane->rung, true))
        (void)!write(plane->python_bell, &(uint64_t){1}, sizeof(uint64_t));
}

static void relay(struct plane *plane, struct pair *pair, struct pair *admission) {
    pair_open(plane, pair);
    if (admission && admission->state == HANDED_OVER) {
        pair->partner = admission;
        admission->partner = pair;
    }
    pair->connected = plane->now;
    for (int side = CLIENT; side <= UPSTREAM; side++)
        if (!watch_given(plane, &pair->peers[side])) {
            pair->state = RELAYING;
            pair_end(plane, pair, CUT);
            return;
        }
    pair_relay(plane, pair);
}

static void aim(struct plane *plane, struct line *line, struct targets *targets, enum reason refuses) {
    struct targets *before = line->targets;
    line->targets = targets;
    line->refuses = refuses;
    if (before)
        targets_release(plane, before);
    line_changed(plane, line);
}

static void end_of_line(struct plane *plane, struct line *line) {
    for (struct pair *pair = plane->pairs, *following; pair; pair = following) {
        following = pair->next;
        if (pair->line == line && !(line->acceptor && pair->handed_over))
            pair_end(plane, pair, CUT);
    }
}

static void obey(struct plane *plane, struct command *command) {
    switch (command->what) {
    case COMMAND_RELAY:
        relay(plane, command->with, command->also);
        break;
    case COMMAND_DIAL: {
        struct pair *pair = command->with;
        pair_open(plane, pair);
        dial_begin(plane, pair, plane->now + pair->idle, command->number, 0);
        break;
    }
    case COMMAND_CUT:
        pair_end(plane, command->with, CUT);
        break;
    case COMMAND_LISTEN:
        listener_add(plane, command->with);
        break;
    case COMMAND_STOP_LISTENING:
        listener_end(plane, (int)command->number);
        break;
    case COMMAND_AIM:
        aim(plane, command->with, command->also, (enum reason)command->number);
        break;
    case COMMAND_END_LINE:
        end_of_line(plane, command->with);
        break;
    case COMMAND_KNOW:
        known_add(plane, command->with, command->also);
        break;
    case COMMAND_FORGET:
        known_forget(plane);
        break;
    case COMMAND_RELEASE_LINE:
        line_release(plane, command->with);
        break;
    case COMMAND_NOTHING:
        break;
    case COMMAND_STOP:
        plane->stopping = true;
        break;
    }
    plane->obeyed++;
}

static void bury(struct plane *plane) {
    struct pair *pair = plane->dead, *following;
    plane->dead = NULL;
    for (; pair; pair = following) {
        following = pair->next;
        if (pair->repeats[CLIENT] || pair->repeats[UPSTREAM]) { /* still listed there, and found closed then */
            pair->next = plane->dead;
            plane->dead = pair;
        } else {
            pair_free(plane, pair);
        }
    }
}

/* Carries out Python's commands in their order, and frees what Python has read. Called between fetching a batch of
 * events and acting on it. So commands that were given before a client came decide on that client. And no event of the
 * batch leads to what is freed here: that was closed before the batch was fetched. */
static void commands(struct plane *plane) {
    struct dial *dial;
    struct listener *listener;
    while ((listener = plane->ended)) {
        plane->ended = listener->next;
        free(listener);
    }
    while ((dial = plane->garbage)) {
        plane->garbage = dial->garbage;
        free(dial);
    }
    bury(plane);
    struct node *node = queue_take(&plane->commands), *following;
    uint64_t before = plane->obeyed;
    if (node)
        pthread_mutex_lock(&plane->lock);
    bool any = node;
    for (; node; node = following) {
        following = node->next;
        struct pair *read = node->kind == NODE_PAIR ? OWNER_OF(node, struct pair, node) : NULL;
        if (read && (read->repeats[CLIENT] || read->repeats[UPSTREAM])) {
            queue_put(&plane->commands, node); /* as in `bury` */
        } else if (read) {
            pair_free(plane, read);
        } else {
            obey(plane, OWNER_OF(node, struct command, node));
            free(OWNER_OF(node, struct command, node));
        }
    }
    if (plane->obeyed != before)
        pthread_cond_broadcast(&plane->settled);
    if (any)
        pthread_mutex_unlock(&plane->lock);
}

static int next_wake_up(struct plane *plane) {
    if (plane->repeats || atomic_load(&plane->commands.last))
        return 0;
    nanoseconds until = timers_next(plane);
    if (plane->unrung && plane->first_news + LONGEST_UNRUNG < until)
        until = plane->first_news + LONGEST_UNRUNG;
    if (plane->resume && plane->resume < until)
        until = plane->resume;
    if (until == INT64_MAX)
        return -1;
    nanoseconds wait = until - monotonic();
    return wait <= 0 ? 0 : (int)((wait + SECOND / 1000 - 1) / (SECOND / 1000));
}

static void dispatch(struct plane *plane, uint8_t *what, uint32_t events) {
    struct pair *pair;
    uint64_t rung;
    switch ((enum kind)*what) {
    case PEER_CLIENT:
        pair = OWNER_OF(what, struct pair, peers[CLIENT]);
        if (pair->state == RELAYING)
            pair_ready(plane, pair, CLIENT, events);
        else if (pair->state == AWAITED)
            first_bytes_ready(plane, pair);
        else if (pair->state == GREETED)
            known_spoke(plane, pair, events);
        break;
    case PEER_UPSTREAM:
        pair = OWNER_OF(what, struct pair, peers[UPSTREAM]);
        if (pair->state == DIALLING)
            dial_ready(plane, pair, &pair->dial->attempts[0], events);
        else if (pair->state == RELAYING && pair->peers[UPSTREAM].batch != plane->batch)
            pair_ready(plane, pair, UPSTREAM, events);
        else if (pair->state == GREETED)
            pair->missed |= events & ~(uint32_t)EPOLLOUT;
        break;
    case ATTEMPT: {
        struct attempt *attempt = OWNER_OF(what, struct attempt, kind);
        if (attempt->fd >= 0)
            dial_ready(plane, attempt->pair, attempt, events);
        break;
    }
    case LISTENER:
        if (!plane->resume && OWNER_OF(what, struct listener, kind)->fd >= 0)
            listener_ready(plane, OWNER_OF(what, struct listener, kind));
        break;
    case BELL:
        (void)!read(plane->bell, &rung, sizeof rung);
        break;
    }
}

static void repeats(struct plane *plane) {
    struct pair *pair = plane->repeats, *following;
    plane->repeats = NULL;
    for (; pair; pair = following) {
        following = pair->again;
        pair_repeat(plane, pair);
    }
}

static void end(struct plane *plane) {
    known_forget(plane);
    while (plane->listeners)
        listener_end(plane, plane->listeners->fd);
    while (plane->pairs)
        pair_end(plane, plane->pairs, CUT);
    plane->repeats = NULL;
    for (struct pair *dead = plane->dead; dead; dead = dead->next)
        dead->repeats[CLIENT] = dead->repeats[UPSTREAM] = false; /* the list of repeats is gone */
    commands(plane);
    pipes_close(plane);
    plane->urgent = true;
    ring(plane);
}

void *plane_run(void *given) {
    struct plane *plane = given;
    struct epoll_event events[BATCH];
    plane->now = monotonic();
    timers_start(plane);
    while (!plane->stopping) {
        atomic_store(&plane->asleep, true);
        int count = epoll_wait(plane->epoll, events, BATCH, next_wake_up(plane));
        atomic_store(&plane->asleep, false);
        plane->now = monotonic();
        plane->batch++;
        commands(plane);
        for (int i = 0; i < count; i++)
            dispatch(plane, events[i].data.ptr, events[i].events);
        if (plane->repeats)
            repeats(plane);
        timers_expire(plane);
        if (plane->resume && plane->now >= plane->resume)
            accepting_resume(plane);
        ring(plane);
    }
    end(plane);
    return NULL;
}
