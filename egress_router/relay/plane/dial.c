/* Connects to the first of several addresses that answers.
 *
 * The attempts are staggered as RFC 8305 5 describes: the next address is tried at once after a failure, otherwise
 * after a short silence, while earlier attempts go on.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "thread.h"

static enum reason reason_of(int error) {
    switch (error) {
    case ECONNREFUSED:
    case ECONNRESET:
    case EPIPE: /* accepted, ended and reset before this thread looked (tcp_reset in the kernel) */
        return REFUSED;
    case ETIMEDOUT:
        return TIMEOUT;
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
    case ENOSPC: /* epoll_ctl(2): no more watches */
        return NO_DESCRIPTOR;
    case EADDRNOTAVAIL: /* bind(2): not our address; connect(2): no port of it is free towards this target */
        return SOURCE_NOT_HELD;
    default:
        return UNREACHABLE;
    }
}

/* Health counts failures and successes in their order, so Python is told each failure, and the successes after it. */
static void note(struct pair *pair, int target, enum reason reason) {
    pair->dial->failures[pair->dial->failed++] = (struct failure){target, reason};
    pair->targets->list[target].troubled = TROUBLED;
    pair->told = true;
}

/* Addresses that are up come first, beginning with the next in turn. Those that are down come last: they cost nothing
 * while another one answers. When all are down, one may be up again before a check has noticed. */
static int in_turn(const struct targets *targets, unsigned turn, int place) {
    int span = targets->good ? targets->good : targets->count;
    return place < span ? (int)((turn + (unsigned)place) % (unsigned)span) : place;
}

typedef int address_call(int fd, const struct sockaddr *address, socklen_t length);

/* Calls bind(2) or connect(2). */
static int with_address(address_call *call, int fd, const struct in6_addr *ip, in_port_t port) {
    if (!IN6_IS_ADDR_V4MAPPED(ip)) {
        struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = port, .sin6_addr = *ip};
        return call(fd, (struct sockaddr *)&six, sizeof six);
    }
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = port};
    memcpy(&four.sin_addr, &ip->s6_addr[12], sizeof four.sin_addr);
    return call(fd, (struct sockaddr *)&four, sizeof four);
}

/* connect(2) chooses the port: it has to be free towards one destination only (ip(7), IP_BIND_ADDRESS_NO_PORT). bind(2)
 * would look for one that no socket of this address has. */
static int bind_to(int fd, const struct in6_addr *source) {
    if (IN6_IS_ADDR_UNSPECIFIED(source))
        return 0;
    if (setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &(int){1}, sizeof(int)) < 0)
        return -1;
    return with_address(bind, fd, source, 0);
}

/* Begins one attempt. Returns FINISHED, or why it failed at once. */
static enum reason attempt(struct plane *plane, struct pair *pair, struct attempt *attempt, int target) {
    const struct address *address = &pair->targets->list[target];
    int family = IN6_IS_ADDR_V4MAPPED(&address->ip) ? AF_INET : AF_INET6;
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return reason_of(errno);
    if (bind_to(fd, &address->source) < 0) {
        enum reason reason = reason_of(errno);
        close(fd);
        return reason;
    }
    bool first = attempt == pair->dial->attempts;
    /* Without a client, Python gets the socket after its first event; no further event may lead here then. */
    uint32_t events = pair->peers[CLIENT].fd < 0 ? EPOLLOUT | EPOLLONESHOT : EPOLLOUT;
    nanoseconds begun = address->near ? monotonic() : 0;
    if ((with_address(connect, fd, &address->ip, address->port) < 0 && errno != EINPROGRESS) ||
        watch(plane, EPOLL_CTL_ADD, fd, events, first ? (void *)&pair->peers[UPSTREAM] : attempt) < 0) {
        enum reason reason = reason_of(errno);
        close(fd);
        return reason;
    }
    if (address->near) {
        if (pair->line)
            own_look(plane, pair, pair->peers[CLIENT].fd);
        bool came_back = own_note(plane, pair, fd, begun);
        if (came_back && pair->line && !is_known(pair) && pair->turns + 1 >= LOOP_TURNS) {
            close(fd);
            return LOOP;
        }
    }
    *attempt = (struct attempt){ATTEMPT, fd, target, (unsigned)pair->dial->begun, pair};
    pair->dial->open++;
    return FINISHED;
}

static void attempt_close(struct dial *dial, struct attempt *attempt) {
    close(attempt->fd);
    attempt->fd = -1;
    dial->open--;
}

/* If attempts failed for different reasons, the first of these is that of the whole dial: our own fault first, then
 * the one that says most about the server. A source that is not held, or has no free port, says nothing about it. */
static enum reason heaviest(const struct dial *dial) {
    static const enum reason weight[] = {NO_DESCRIPTOR, TIMEOUT, REFUSED, UNREACHABLE, SOURCE_NOT_HELD};
    for (size_t i = 0; i < sizeof weight / sizeof *weight; i++)
        for (int j = 0; j < dial->failed; j++)
            if (dial->failures[j].reason == weight[i])
                return weight[i];
    return UNREACHABLE;
}

static void fail(struct plane *plane, struct pair *pair) {
    if (is_known(pair))
        known_failed(plane, pair);
    else
        pair_end(plane, pair, heaviest(pair->dial));
}

/* Begins one more attempt; ends the dial if there is none to begin and none to wait for. */
static void next(struct plane *plane, struct pair *pair) {
    struct dial *dial = pair->dial;
    struct attempt *free_one = dial->attempts;
    while (free_one->fd >= 0)
        free_one++;
    while (dial->begun < pair->targets->count) {
        int target = in_turn(pair->targets, dial->turn, dial->begun++);
        enum reason reason = attempt(plane, pair, free_one, target);
        if (reason == FINISHED)
            break;
        if (reason == LOOP) {
            pair_end(plane, pair, LOOP);
            return;
        }
        note(pair, target, reason);
    }
    if (!dial->open) {
        fail(plane, pair);
        return;
    }
    nanoseconds due = plane->now + dial->stagger;
    if (dial->begun == pair->targets->count || due > dial->ends)
        due = dial->ends;
    timer_set(plane, &pair->timer, due);
}

void dial_begin(struct plane *plane, struct pair *pair, nanoseconds ends, nanoseconds stagger, unsigned turn) {
    size_t room = sizeof(struct failure) * (size_t)pair->targets->count;
    struct dial *dial = malloc(sizeof *dial + room);
    pair->state = DIALLING;
    pair->dial = dial;
    pair->started = plane->now;
    if (!dial) {
        pair_end(plane, pair, NO_DESCRIPTOR);
        return;
    }
    *dial = (struct dial){.ends = ends, .stagger = stagger, .turn = turn};
    for (int i = 0; i < MAX_ATTEMPTS; i++)
        dial->attempts[i].fd = -1;
    next(plane, pair);
}

static void connected(struct plane *plane, struct pair *pair, struct attempt *attempt, uint32_t events) {
    struct peer *upstream = &pair->peers[UPSTREAM];
    upstream->fd = attempt->fd;
    upstream->room_watched = true;
    pair->target = attempt->target;
    pair->connected = plane->now;
    if (pair->line && pair->line->tells)
        getsockname(upstream->fd, (struct sockaddr *)&pair->source, &(socklen_t){sizeof pair->source});
    bool first = attempt == pair->dial->attempts;
    attempt->fd = -1;
    dial_stop(plane, pair);
    if (pair->peers[CLIENT].fd < 0) { /* Python wants the socket */
        setsockopt(upstream->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        pair->given = upstream->fd;
        upstream->fd = -1;
        pair_end(plane, pair, CONNECTED);
        return;
    }
    if (is_known(pair)) {
        known_connected(plane, pair, events);
        return;
    }
    if (!first) { /* events that this batch has for the upstream belong to another attempt */
        upstream->batch = plane->batch;
        events = 0;
        watch(plane, EPOLL_CTL_MOD, upstream->fd, EPOLLOUT, upstream);
    }
    uint16_t *troubled = &pair->targets->list[pair->target].troubled;
    if (*troubled) {
        --*troubled;
        pair->told = true;
    }
    if (pair->told)
        report(plane, &pair->node, NEWS_CONNECTED, false);
    else
        sum_connected(plane, pair);
    if (watch(plane, EPOLL_CTL_ADD, pair->peers[CLIENT].fd, 0, &pair->peers[CLIENT]) < 0) {
        pair->state = RELAYING; /* Python is told that it was connected, so it ends like a tunnel */
        pair_end(plane, pair, CUT);
        return;
    }
    pair_relay(plane, pair);
    if (pair->state == RELAYING && events & ~(uint32_t)EPOLLOUT)
        pair_ready(plane, pair, UPSTREAM, events);
}

void dial_ready(struct plane *plane, struct pair *pair, struct attempt *attempt, uint32_t events) {
    if (attempt->fd < 0) /* closed in this batch */
        return;
    if (events & (EPOLLERR | EPOLLHUP)) {
        int error = 0;
        getsockopt(attempt->fd, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){sizeof error});
        note(pair, attempt->target, reason_of(error));
        attempt_close(pair->dial, attempt);
        if (pair->dial->begun < pair->targets->count || !pair->dial->open)
            next(plane, pair);
    } else if (events & EPOLLOUT) {
        connected(plane, pair, attempt, events);
    }
}

/* Nobody has answered: begins another attempt. If all places are taken, the oldest attempt ends, which has had time for
 * a lost first packet (RFC 6298: it is sent again after a second). */
void dial_timeout(struct plane *plane, struct pair *pair) {
    struct dial *dial = pair->dial;
    if (dial->begun == pair->targets->count || plane->now >= dial->ends) {
        for (int i = 0; i < MAX_ATTEMPTS; i++)
            if (dial->attempts[i].fd >= 0)
                note(pair, dial->attempts[i].target, TIMEOUT);
        fail(plane, pair);
        return;
    }
    if (dial->open == MAX_ATTEMPTS) {
        struct attempt *oldest = dial->attempts;
        for (int i = 1; i < MAX_ATTEMPTS; i++)
            if (dial->attempts[i].order < oldest->order)
                oldest = &dial->attempts[i];
        note(pair, oldest->target, TIMEOUT);
        attempt_close(dial, oldest);
    }
    next(plane, pair);
}

/* Ends all attempts; the list of failures stays until Python has read it. */
void dial_stop(struct plane *plane, struct pair *pair) {
    struct dial *dial = pair->dial;
    timer_cancel(&pair->timer);
    if (!dial)
        return;
    for (int i = 0; i < MAX_ATTEMPTS; i++)
        if (dial->attempts[i].fd >= 0)
            attempt_close(dial, &dial->attempts[i]);
    if (!dial->failed) {
        dial->garbage = plane->garbage; /* freed later: events of this batch may lead here */
        plane->garbage = dial;
        pair->dial = NULL;
    }
}
