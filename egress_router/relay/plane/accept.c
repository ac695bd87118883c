/* Accepts clients, and sends each where its line leads. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "thread.h"

enum {
    BATCH = 64,           /* clients that one wake-up accepts; if more are left, they wake the thread again at once */
    MAX_WAITING = 10000, /* at the end: more than an accept queue holds, yet new clients cannot delay the end */
};
#define RETRY (SECOND / 4)
#define STAGGER (SECOND / 4) /* RFC 8305 5, "Connection Attempt Delay" */

void targets_release(struct plane *plane, struct targets *targets) {
    if (!--targets->refs)
        report(plane, &targets->node, NEWS_GONE, false);
}

void line_release(struct plane *plane, struct line *line) {
    if (--line->refs)
        return;
    if (line->targets)
        targets_release(plane, line->targets);
    if (line->acceptor)
        line_release(plane, line->acceptor);
    report(plane, &line->node, NEWS_GONE, false);
}

/* Connects, or waits until Python has looked the name up again; both together within the time to connect. */
static void forward(struct plane *plane, struct pair *pair) {
    struct line *line = pair->line;
    if (line->targets) {
        pair->targets = line->targets;
        pair->targets->refs++;
        dial_begin(plane, pair, pair->started + line->connect, STAGGER, ++line->turn);
    } else if (line->refuses) {
        pair_end(plane, pair, line->refuses);
    } else if (pair->state != WAITING) {
        pair->state = WAITING;
        line->waiting++;
        timer_set(plane, &pair->timer, pair->started + line->connect);
        report(plane, &line->node, NEWS_WANTED, true);
    }
}

/* A line has new targets, or none: clients that wait for them go on, or are closed. */
void line_changed(struct plane *plane, struct line *line) {
    for (struct pair *pair = plane->pairs, *following; pair && line->waiting; pair = following) {
        following = pair->next;
        if (pair->state != WAITING || pair->line != line)
            continue;
        if (line->targets) {
            line->waiting--;
            forward(plane, pair);
        } else {
            pair_end(plane, pair, line->refuses ? line->refuses : NO_ADDRESS);
        }
    }
}

/* Clients wait in the accept queue instead of being closed, and the thread does not spin on a queue that it cannot
 * empty. */
static void pause_accepting(struct plane *plane, int error) {
    plane->shortage = true;
    if (!plane->resume)
        for (struct listener *each = plane->listeners; each; each = each->next)
            epoll_ctl(plane->epoll, EPOLL_CTL_DEL, each->fd, NULL);
    plane->resume = plane->now + RETRY;
    plane->shortage_error = error;
    if (!atomic_exchange(&plane->paused, 1)) {
        atomic_fetch_add(&plane->pauses, 1);
        plane->unrung++;
        plane->urgent = true;
    }
}

static void listen_again(struct plane *plane, struct listener *listener) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = listener};
    if (epoll_ctl(plane->epoll, EPOLL_CTL_ADD, listener->fd, &event) < 0)
        pause_accepting(plane, errno); /* ENOMEM or ENOSPC (epoll_ctl(2)): tried again later */
}

void accepting_resume(struct plane *plane) {
    plane->resume = 0;
    plane->shortage = false;
    for (struct listener *each = plane->listeners; each && !plane->resume; each = each->next)
        listen_again(plane, each);
}

/* Reads what the client has sent already and keeps it until there is a connection, which saves an event. If too much is
 * held already, nothing is read here; for a client that Python serves, Python reads it, with a limit of its own. */
static bool read_early(struct plane *plane, struct pair *pair) {
    if (flow_overflows(plane))
        return true;
    ssize_t got = recv(pair->peers[CLIENT].fd, plane->chunk, CHUNK, 0);
    return got <= 0 || flow_hold(plane, &pair->flows[CLIENT], plane->chunk, (size_t)got);
}

/* Hands a socket over to Python, with the bytes that have come already, or with the reason to refuse the client. A
 * client whose head is known stays here. */
static void hand_over(struct plane *plane, struct pair *pair, enum reason refused) {
    bool read = refused || read_early(plane, pair);
    if (read && !refused && (known_take(plane, pair) || (pair->state != AWAITED && known_await(plane, pair))))
        return;
    pair->given = pair->peers[CLIENT].fd;
    pair->peers[CLIENT].fd = -1;
    if (refused || !read) {
        pair_end(plane, pair, refused ? refused : NO_DESCRIPTOR);
        return;
    }
    pair->state = HANDED_OVER;
    pair->handed_over = true;
    report(plane, &pair->node, NEWS_ACCEPTED, true);
}

/* The first bytes of an AWAITED client have come. */
void first_bytes_ready(struct plane *plane, struct pair *pair) {
    timer_cancel(&pair->timer);
    hand_over(plane, pair, 0);
}

/* They have not come in time: Python serves the client. */
void first_bytes_late(struct plane *plane, struct pair *pair) {
    epoll_ctl(plane->epoll, EPOLL_CTL_DEL, pair->peers[CLIENT].fd, NULL);
    first_bytes_ready(plane, pair);
}

/* Accepts one connection; false if there is none, or no room for one. */
static bool take(struct plane *plane, struct listener *listener) {
    struct sockaddr_in6 from;
    if (plane->unread >= MAX_UNREAD) {
        pause_accepting(plane, ENOBUFS);
        return false;
    }
    int fd = accept4(listener->fd, (struct sockaddr *)&from, &(socklen_t){sizeof from},
                     SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
            pause_accepting(plane, errno);
        else if (errno != EAGAIN) /* it ended in the queue, or a firewall refused it: accept(2) says to go on */
            return true;
        return false;
    }
    struct pair *pair = calloc(1, sizeof *pair);
    if (!pair) {
        close(fd);
        pause_accepting(plane, ENOMEM);
        return false;
    }
    pair->peers[CLIENT] = (struct peer){.kind = PEER_CLIENT, .no_delay = true, .fd = fd};
    pair->peers[UPSTREAM] = (struct peer){.kind = PEER_UPSTREAM, .fd = -1};
    pair->given = pair->given_upstream = -1;
    pair->state = DIALLING;
    pair->line = listener->line;
    pair->line->refs++;
    pair->told = pair->line->tells || pair->line->hands_over;
    pair->idle = pair->line->idle;
    pair->number = ++plane->accepted;
    pair->client = from.sin6_addr;
    pair->client_port = from.sin6_port; /* at the same place in AF_INET */
    if (from.sin6_family == AF_INET) {
        memset(&pair->client, 0, 10);
        memset(&pair->client.s6_addr[10], 0xff, 2);
        memcpy(&pair->client.s6_addr[12], &((struct sockaddr_in *)&from)->sin_addr, 4);
    }
    pair_open(plane, pair);
    pair->accepted = plane->now;
    /* A client that Python serves is a loop only if it sends a CONNECT: Python asks when it has read the head. */
    if (!pair->line->hands_over)
        own_accepted(plane, pair, fd);
    enum reason refused = pair->turns >= LOOP_TURNS ? LOOP : admission_enter(plane, pair);
    if (pair->line->hands_over) {
        hand_over(plane, pair, refused);
        return true;
    }
    if (refused) {
        pair_end(plane, pair, refused);
        return true;
    }
    atomic_fetch_add_explicit(&pair->line->hits, 1, memory_order_relaxed);
    if (read_early(plane, pair))
        forward(plane, pair);
    else
        pair_end(plane, pair, NO_DESCRIPTOR);
    return true;
}

void listener_ready(struct plane *plane, struct listener *listener) {
    for (int i = 0; i < BATCH && take(plane, listener); i++)
        ;
    if (plane->paused && !plane->shortage) { /* a whole wake-up without a shortage */
        plane->paused = 0;
        plane->unrung++;
        plane->urgent = true;
    }
}

/* Begins to listen on a socket, or gives one that is listened on already to another line. */
void listener_add(struct plane *plane, struct listener *listener) {
    for (struct listener *each = plane->listeners; each; each = each->next)
        if (each->fd == listener->fd) {
            line_release(plane, each->line);
            each->line = listener->line;
            each->line->refs++;
            free(listener);
            return;
        }
    listener->line->refs++;
    listener->next = plane->listeners;
    plane->listeners = listener;
    if (!plane->resume)
        listen_again(plane, listener);
}

/* Stops listening. Clients that are in the accept queue are accepted first: the kernel has let them in. */
void listener_end(struct plane *plane, int fd) {
    struct listener **found = &plane->listeners;
    while (*found && (*found)->fd != fd)
        found = &(*found)->next;
    struct listener *listener = *found;
    if (!listener)
        return;
    for (int i = 0; i < MAX_WAITING && take(plane, listener); i++)
        ;
    for (struct pair *pair = plane->pairs, *following; pair; pair = following) {
        following = pair->next;
        if (pair->state == AWAITED)
            first_bytes_late(plane, pair);
    }
    *found = listener->next;
    /* The supervisor has the socket, too, so closing it does not take it out of the epoll set (epoll(7)). */
    epoll_ctl(plane->epoll, EPOLL_CTL_DEL, fd, NULL);
    close(fd);
    line_release(plane, listener->line);
    listener->fd = -1;
    listener->next = plane->ended; /* freed later: events of this batch may lead here */
    plane->ended = listener;
}
