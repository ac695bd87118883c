/* One direction of a connection: moves bytes from a source to a sink, and holds at most one chunk or pipe of them. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "thread.h"

enum {
    BULK = 1 << 19,  /* bytes without a pause that make a direction bulk: from here on splice(2) is cheaper */
    PAUSE = 1 << 12, /* a wake-up that moves fewer bytes is a pause: small messages are cheaper to copy */
    TURN = 1 << 21,  /* bytes that one wake-up may move before others have their turn */
};

bool flow_blocked(const struct flow *flow) { return flow->held || flow->pipe || flow->left; }

/* Whether all connections together hold as much as they may. */
bool flow_overflows(const struct plane *plane) {
    return atomic_load_explicit(&plane->held, memory_order_relaxed) >= plane->most_held;
}

static void count_overflow(struct plane *plane) {
    atomic_fetch_add_explicit(&plane->overflows, 1, memory_order_relaxed);
}

/* Keeps a copy until the sink takes it; false if there is no memory. */
bool flow_hold(struct plane *plane, struct flow *flow, const char *bytes, size_t count) {
    if (!count)
        return true;
    if (!(flow->held = malloc(count)))
        return false;
    memcpy(flow->held, bytes, count);
    flow->held_from = 0;
    flow->held_to = (uint32_t)count;
    atomic_fetch_add_explicit(&plane->held, (int64_t)count, memory_order_relaxed);
    return true;
}

static void drop_held(struct plane *plane, struct flow *flow) {
    if (!flow->held)
        return;
    atomic_fetch_sub_explicit(&plane->held, flow->held_to, memory_order_relaxed);
    free(flow->held);
    flow->held = NULL;
}

void flow_release(struct plane *plane, struct flow *flow) {
    drop_held(plane, flow);
    if (flow->pipe) {
        pipe_give_back(plane, flow->pipe);
        flow->pipe = NULL;
    }
}

static uint64_t moved(const struct flow *flow) {
    return atomic_load_explicit(&flow->moved, memory_order_relaxed);
}

static void count(struct flow *flow, size_t bytes) {
    atomic_store_explicit(&flow->moved, moved(flow) + bytes, memory_order_relaxed);
}

/* Subscribes EPOLLOUT for the rest of the socket's life. */
static void watch_room(struct plane *plane, struct peer *peer) {
    if (peer->room_watched)
        return;
    peer->room_watched = true;
    watch(plane, EPOLL_CTL_MOD, peer->fd, EPOLLOUT, peer);
}

/* Returns how many bytes were sent, 0 if there is no room, or -1. */
static ssize_t put(struct plane *plane, struct flow *flow, struct peer *sink, const char *bytes, size_t size,
                   int flags) {
    /* Nagle's delay concerns a small write after another one: with only one write this call is saved. */
    if (!sink->no_delay && moved(flow)) {
        sink->no_delay = true;
        setsockopt(sink->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    }
    ssize_t sent = send(sink->fd, bytes, size, MSG_NOSIGNAL | flags);
    if (sent < 0 && errno != EAGAIN)
        return -1;
    if (sent < 0)
        sent = 0;
    if ((size_t)sent < size)
        watch_room(plane, sink);
    count(flow, (size_t)sent);
    return sent;
}

/* Sends what is held. Returns WAIT or SINK_LOST if some of it is left; ENDED means here that nothing is left. */
static enum step flush(struct plane *plane, struct flow *flow, struct peer *sink) {
    if (flow->held) {
        ssize_t sent = put(plane, flow, sink, flow->held + flow->held_from, flow->held_to - flow->held_from, 0);
        if (sent < 0)
            return SINK_LOST;
        flow->held_from += (uint32_t)sent;
        if (flow->held_from < flow->held_to)
            return WAIT;
        drop_held(plane, flow);
    }
    while (flow->pipe && flow->pipe->holds) {
        ssize_t sent = splice(flow->pipe->read_end, NULL, sink->fd, NULL, flow->pipe->holds,
                              SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (sent < 0 && errno == EAGAIN) {
            watch_room(plane, sink);
            return WAIT;
        }
        if (sent <= 0)
            return SINK_LOST;
        flow->pipe->holds -= (size_t)sent;
        count(flow, (size_t)sent);
    }
    return ENDED;
}

/* Reads and sends. A read of less than a chunk has drained the socket: what comes later makes a new edge (epoll(7)). If
 * the end was reported before that read, it is right behind these bytes. Neither is sure with urgent data, because a
 * read stops at its mark (tcp(7)), nor without an edge. */
static enum step copy(struct plane *plane, struct flow *flow, struct peer *source, struct peer *sink,
                      uint32_t events) {
    bool known = events && !(events & (EPOLLERR | EPOLLPRI));
    bool at_end = known && events & (EPOLLRDHUP | EPOLLHUP);
    for (ssize_t left = TURN; left > 0;) {
        bool peeks = flow_overflows(plane);
        ssize_t got = recv(source->fd, plane->chunk, CHUNK, peeks ? MSG_PEEK : 0);
        if (got < 0)
            return errno == EAGAIN ? WAIT : SOURCE_LOST;
        if (!got) {
            flow->ended = true;
            return ENDED;
        }
        bool last = known && got < CHUNK;
        /* MSG_MORE: the end, which follows at once, goes into the same packet. */
        ssize_t sent = put(plane, flow, sink, plane->chunk, (size_t)got, last && at_end ? MSG_MORE : 0);
        if (sent < 0)
            return SINK_LOST;
        if (peeks && sent && recv(source->fd, NULL, (size_t)sent, MSG_TRUNC) < 0) /* drops, copies nothing: tcp(7) */
            return SOURCE_LOST;
        if (sent < got && peeks) {
            flow->left = true;
            return WAIT;
        }
        if (sent < got)
            return flow_hold(plane, flow, plane->chunk + sent, (size_t)(got - sent)) ? WAIT : SINK_LOST;
        if (last) {
            flow->ended = at_end;
            return at_end ? ENDED : WAIT;
        }
        left -= got;
    }
    return AGAIN;
}

static enum step through_pipe(struct plane *plane, struct flow *flow, struct peer *source, struct peer *sink) {
    uint64_t before = moved(flow);
    while (moved(flow) - before < TURN) {
        ssize_t got = splice(source->fd, NULL, flow->pipe->write_end, NULL, 1 << 20,
                             SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (got < 0)
            return errno == EAGAIN ? WAIT : SOURCE_LOST;
        if (!got) /* the end, or an urgent mark with the end behind it: a read tells */
            return copy(plane, flow, source, sink, 0);
        flow->pipe->holds += (size_t)got;
        enum step step = flush(plane, flow, sink);
        if (step != ENDED)
            return step;
    }
    return AGAIN;
}

static void count_moved(struct plane *plane, struct flow *flow, int direction, uint64_t gain) {
    /* No bytes at all are no pause: this edge was for bytes that the last turn has moved already. */
    if (!gain)
        return;
    uint64_t run = gain >= PAUSE || flow_blocked(flow) ? flow->run + gain : 0;
    flow->run = run < BULK ? (uint32_t)run : BULK;
    _Atomic uint64_t *all = &plane->relayed[direction]; /* only this thread writes it */
    atomic_store_explicit(all, atomic_load_explicit(all, memory_order_relaxed) + gain, memory_order_relaxed);
}

/* Sends what is held before the first edge. It was read already, so what the sink does not take cannot be left in the
 * source's queue: if too much is held, the connection ends. */
enum step flow_start(struct plane *plane, struct pair *pair, int direction) {
    struct flow *flow = &pair->flows[direction];
    enum step step = flush(plane, flow, &pair->peers[!direction]);
    count_moved(plane, flow, direction, moved(flow));
    if (flow->held && flow_overflows(plane)) {
        count_overflow(plane);
        return TOO_MUCH;
    }
    return step == SINK_LOST ? SINK_LOST : WAIT;
}

/* Moves what can be moved now. `events`: of an edge of the source; 0 if there was none. */
enum step flow_pump(struct plane *plane, struct pair *pair, int direction, uint32_t events) {
    struct flow *flow = &pair->flows[direction];
    struct peer *source = &pair->peers[direction], *sink = &pair->peers[!direction];
    uint64_t before = moved(flow);
    bool was_left = flow->left;
    enum step step = ENDED;
    if (flow_blocked(flow)) {
        flow->left = false;
        step = flush(plane, flow, sink);
        events = 0;
    }
    if (step == ENDED) {
        bool bulk = flow->run >= BULK && !flow->urgent;
        if (bulk && !flow->pipe)
            flow->pipe = pipe_take(plane);
        step = bulk && flow->pipe ? through_pipe(plane, flow, source, sink)
                                              : copy(plane, flow, source, sink, events);
        if (flow->pipe && !flow->pipe->holds) {
            pipe_give_back(plane, flow->pipe);
            flow->pipe = NULL;
        }
    }
    if (flow->left && !was_left) /* until the sink has taken all, it is the same overflow */
        count_overflow(plane);
    if (direction == UPSTREAM && !pair->first && events && moved(flow) > before)
        pair->first = plane->now;
    count_moved(plane, flow, direction, moved(flow) - before);
    return step;
}
