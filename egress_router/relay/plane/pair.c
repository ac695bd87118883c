/* A connection: two flows in opposite directions, time-outs, and one closing record. */
#define _GNU_SOURCE
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "thread.h"

/* Seconds. A peer that has vanished is noticed after 30 + 4 * 15. Firewalls on the way forget a quiet connection after
 * about five minutes, and the probes come more often. */
enum { PROBE_AFTER = 30, PROBE_EVERY = 15, PROBES = 4 };

enum {
    EDGES = EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLET,
    READABLE = EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLHUP | EPOLLERR,
    WRITABLE = EPOLLOUT | EPOLLHUP | EPOLLERR,
};

/* Edge-triggered, and closing takes a socket out of the set: so each costs one call in its life, unless it blocks. */
int watch(struct plane *plane, int operation, int fd, uint32_t events, void *what) {
    struct epoll_event event = {.events = EDGES | events, .data.ptr = what};
    return epoll_ctl(plane->epoll, operation, fd, &event);
}

/* Watches a tunnel's socket, which may be in the set already. An upstream mostly is: it was connected here, and is
 * silent since its one event (EPOLLONESHOT). A client seldom is: only if its first bytes were waited for. */
bool watch_given(struct plane *plane, struct peer *peer) {
    bool upstream = peer->kind == PEER_UPSTREAM;
    return watch(plane, upstream ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, peer->fd, 0, peer) == 0 ||
           watch(plane, upstream ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, peer->fd, 0, peer) == 0;
}

void pair_open(struct plane *plane, struct pair *pair) {
    pair->started = plane->now;
    pair->next = plane->pairs;
    pair->link = &plane->pairs;
    if (pair->next)
        pair->next->link = &pair->next;
    plane->pairs = pair;
    atomic_fetch_add_explicit(&plane->open, 1, memory_order_relaxed);
}

/* From its first pause on, the kernel probes both peers of a connection (tcp(7)); most connections have no pause. */
static void probe(struct peer *peer) {
    setsockopt(peer->fd, IPPROTO_TCP, TCP_KEEPIDLE, &(int){PROBE_AFTER}, sizeof(int));
    setsockopt(peer->fd, IPPROTO_TCP, TCP_KEEPINTVL, &(int){PROBE_EVERY}, sizeof(int));
    setsockopt(peer->fd, IPPROTO_TCP, TCP_KEEPCNT, &(int){PROBES}, sizeof(int));
    setsockopt(peer->fd, SOL_SOCKET, SO_KEEPALIVE, &(int){1}, sizeof(int));
}

void pair_timeout(struct plane *plane, struct pair *pair) {
    if (pair->state == WAITING) {
        pair_end(plane, pair, NO_ADDRESS);
    } else if (pair->state == DIALLING) {
        dial_timeout(plane, pair);
    } else if (pair->state == AWAITED) {
        first_bytes_late(plane, pair);
    } else if (pair->state == GREETED) {
        known_silent(plane, pair);
    } else if (pair->period < pair->idle) {
        probe(&pair->peers[CLIENT]);
        probe(&pair->peers[UPSTREAM]);
        timer_set(plane, &pair->timer, plane->now + pair->idle - pair->period);
        pair->period = pair->idle; /* after the next byte */
    } else {
        pair_end(plane, pair, IDLE);
    }
}

static void lost(struct plane *plane, struct pair *pair, int side) {
    pair_end(plane, pair, side == CLIENT ? CLIENT_RESET : UPSTREAM_RESET);
}

static void sink_lost(struct plane *plane, struct pair *pair, int direction) {
    /* A server that refuses a request half-way answers and closes: what it sent last can still be read. */
    struct flow *back = &pair->flows[!direction];
    if (!back->ended && !flow_blocked(back))
        flow_pump(plane, pair, !direction, 0);
    lost(plane, pair, !direction);
}

static void act(struct plane *plane, struct pair *pair, int direction, enum step step) {
    switch (step) {
    case WAIT:
        break;
    case AGAIN:
        if (!pair->repeats[CLIENT] && !pair->repeats[UPSTREAM]) {
            pair->again = plane->repeats;
            plane->repeats = pair;
        }
        pair->repeats[direction] = true;
        break;
    case ENDED:
        if (pair->flows[!direction].ended)
            pair_end(plane, pair, FINISHED);
        else if (shutdown(pair->peers[!direction].fd, SHUT_WR) < 0)
            sink_lost(plane, pair, direction);
        break;
    case SOURCE_LOST:
        lost(plane, pair, direction);
        break;
    case SINK_LOST:
        sink_lost(plane, pair, direction);
        break;
    case TOO_MUCH:
        pair_end(plane, pair, CUT);
        break;
    }
}

/* Begins to relay: both sockets are connected. What the connection holds already goes first. */
void pair_relay(struct plane *plane, struct pair *pair) {
    pair->state = RELAYING;
    pair->period = pair->idle > plane->quiet ? plane->quiet : pair->idle;
    timer_set(plane, &pair->timer, plane->now + pair->period);
    for (int side = CLIENT; side <= UPSTREAM; side++) {
        if (pair->state == RELAYING && pair->flows[side].held)
            act(plane, pair, side, flow_start(plane, pair, side));
    }
}

/* Acts on an edge of one side's socket, which is the source of one flow and the sink of the other. */
void pair_ready(struct plane *plane, struct pair *pair, int side, uint32_t events) {
    if (events & EPOLLPRI)
        pair->flows[side].urgent = true;
    if (flow_blocked(&pair->flows[!side]) && events & WRITABLE) {
        pair->timer.due = plane->now + pair->period;
        act(plane, pair, !side, flow_pump(plane, pair, !side, 0));
    }
    if (!(events & READABLE) || pair->state == CLOSED)
        return;
    if (!pair->flows[side].ended && !flow_blocked(&pair->flows[side])) {
        pair->timer.due = plane->now + pair->period;
        act(plane, pair, side, flow_pump(plane, pair, side, events));
    } else if (events & EPOLLERR) {
        /* Nothing is read from this side now, so no read reports the error. */
        int error = 0;
        getsockopt(pair->peers[side].fd, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){sizeof error});
        if (error)
            lost(plane, pair, side);
    }
}

/* The next turn of a connection that had more to move after its last one. */
void pair_repeat(struct plane *plane, struct pair *pair) {
    bool repeats[] = {pair->repeats[CLIENT], pair->repeats[UPSTREAM]};
    pair->repeats[CLIENT] = pair->repeats[UPSTREAM] = false; /* it is out of the list, and may enter it again */
    for (int side = CLIENT; side <= UPSTREAM; side++) {
        if (repeats[side] && pair->state == RELAYING && !flow_blocked(&pair->flows[side]) && !pair->flows[side].ended) {
            pair->timer.due = plane->now + pair->period;
            act(plane, pair, side, flow_pump(plane, pair, side, 0));
        }
    }
}

void close_peer(struct peer *peer, bool orderly) {
    if (peer->fd < 0)
        return;
    /* The stream was cut short: with a linger time of 0, close sends a reset (socket(7)). */
    if (!orderly)
        setsockopt(peer->fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
    close(peer->fd);
    peer->fd = -1;
}

/* The end of a tunnel also ends its admission; the end of an admission leaves its tunnel open. */
static void part(struct plane *plane, struct pair *pair) {
    struct pair *partner = pair->partner;
    if (!partner)
        return;
    pair->partner = partner->partner = NULL;
    if (partner->state == HANDED_OVER)
        pair_end(plane, partner, CUT);
}

/* Closes what is open and tells Python; may be called again. */
void pair_end(struct plane *plane, struct pair *pair, enum reason reason) {
    if (pair->state == CLOSED)
        return;
    /* Python waits for a socket that it is given, for the end of a dial, and for the end of what it cut. */
    bool urgent = pair->given >= 0 || (pair->state != RELAYING && !pair->line) || reason == CUT;
    bool ours = pair->state != HANDED_OVER; /* otherwise Python may be reading the first bytes */
    /* A client that was never connected gets an orderly end, as HAProxy does it. */
    bool relayed = pair->state == RELAYING || pair->state == GREETED;
    bool orderly = !relayed || reason == FINISHED || reason == IDLE;
    if (pair->state == DIALLING)
        dial_stop(plane, pair);
    if (pair->state == WAITING)
        pair->line->waiting--;
    pair->state = CLOSED;
    pair->reason = (uint8_t)reason;
    pair->ended = plane->now;
    timer_cancel(&pair->timer);
    for (int side = CLIENT; side <= UPSTREAM; side++)
        close_peer(&pair->peers[side], orderly && !(relayed && flow_blocked(&pair->flows[!side])));
    for (int side = CLIENT; ours && side <= UPSTREAM; side++)
        flow_release(plane, &pair->flows[side]);
    *pair->link = pair->next;
    if (pair->next)
        pair->next->link = pair->link;
    admission_leave(plane, pair);
    part(plane, pair);
    atomic_fetch_sub_explicit(&plane->open, 1, memory_order_relaxed);
    if (reason == FORBIDDEN) /* each of these has a record, even if the line tells only sums */
        pair->told = true;
    if (is_known(pair)) {
        atomic_fetch_sub(&pair->line->open, 1);
        pair->told = !pair->connected || reason == IDLE; /* these are in no sum */
    }
    if (pair->told) {
        plane->unread++;
        report(plane, &pair->node, NEWS_CLOSED, urgent && ours);
    } else {
        sum_ended(plane, pair);
        pair->next = plane->dead; /* freed later: events of this batch may lead here */
        plane->dead = pair;
    }
}

/* Python has read its news, or does not get any. */
void pair_free(struct plane *plane, struct pair *pair) {
    if (pair->told)
        plane->unread--;
    flow_release(plane, &pair->flows[CLIENT]);
    free(pair->dial);
    if (pair->line)
        line_release(plane, pair->line);
    if (pair->targets)
        targets_release(plane, pair->targets);
    free(pair);
}
