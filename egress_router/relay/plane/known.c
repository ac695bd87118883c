/* Repeats what Python has decided before: a CONNECT whose head is known, byte for byte, is connected and answered
 * without the interpreter. TLS to a transparent port is connected if its name is known.
 * docs/decisions/known-connects.md says what a decision depends on.
 *
 * Python names the heads, each with the line of its destination and a time at which it ends. When anything changes,
 * Python takes all of them back at once. Whatever does not go as expected is handed over to Python: as a new client if
 * nothing was answered yet, otherwise together with the upstream connection.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "thread.h"

#define STAGGER (SECOND / 4)
#define SILENCE (SECOND / 20) /* then the server may be the first to send: http_proxy/connect.py goes on */

static const char ESTABLISHED[] = "HTTP/1.1 200 Connection established\r\n\r\n";

/* What a decision is found by: the whole head, or the first byte and the name of a ClientHello: no two are alike. */
struct key {
    const char *bytes;
    size_t length;
    char name[1 + MAX_NAME];
};

static bool key_of(const struct pair *pair, struct key *key) {
    const struct flow *early = &pair->flows[CLIENT];
    if (!early->held)
        return false;
    if (!is_tls(early->held, early->held_to)) {
        key->bytes = early->held;
        key->length = early->held_to;
        return true;
    }
    key->name[0] = early->held[0];
    key->bytes = key->name;
    key->length = 1 + hello_name(early->held, early->held_to, key->name + 1);
    return key->length > 1;
}

/* The secret keeps clients from choosing heads that share a slot. */
static struct known **slot_of(struct plane *plane, const char *head, size_t length) {
    uint64_t hash = plane->secret;
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (uint8_t)head[i]) * UINT64_C(0x100000001B3);
    return &plane->known[(hash ^ hash >> 32) % MAX_KNOWN];
}

static void drop(struct plane *plane, struct known **slot) {
    if (*slot)
        line_release(plane, (*slot)->line);
    free(*slot);
    *slot = NULL;
}

/* If two heads share a slot, the later one replaces the earlier. */
void known_add(struct plane *plane, struct known *known, struct line *acceptor) {
    struct known **slot = slot_of(plane, known->head, known->length);
    known->line->refs++;
    if (!known->line->acceptor) {
        known->line->acceptor = acceptor;
        acceptor->refs++;
    }
    known->renewed = plane->now + known->ends / 2;
    known->ends += plane->now;
    if (known->ends > plane->known_until)
        plane->known_until = known->ends;
    drop(plane, slot);
    *slot = known;
}

void known_forget(struct plane *plane) {
    plane->generation++;
    plane->known_until = 0;
    for (int i = 0; i < MAX_KNOWN; i++)
        drop(plane, &plane->known[i]);
}

bool is_known(const struct pair *pair) { return pair->line && pair->line->acceptor && !pair->handed_over; }

/* Takes a client whose first bytes are a known head or ClientHello, and nothing else; false: it goes to Python. */
bool known_take(struct plane *plane, struct pair *pair) {
    struct key key;
    if (!key_of(pair, &key) || key.length > MAX_KNOWN_HEAD)
        return false;
    struct known *known = *slot_of(plane, key.bytes, key.length);
    if (!known || known->length != key.length || memcmp(known->head, key.bytes, key.length) != 0 ||
        known->line->acceptor != pair->line || plane->now >= known->ends)
        return false;
    own_look(plane, pair, pair->peers[CLIENT].fd);
    if (pair->turns >= LOOP_TURNS)
        return false;
    if (plane->now >= known->renewed) { /* one client only: otherwise all that come when it ends would go there */
        known->renewed = known->ends;
        return false;
    }
    struct line *acceptor = pair->line;
    pair->line = known->line;
    pair->line->refs++;
    line_release(plane, acceptor);
    pair->told = false;
    pair->idle = pair->line->idle;
    pair->generation = plane->generation;
    pair->targets = pair->line->targets;
    pair->targets->refs++;
    atomic_fetch_add(&pair->line->open, 1);
    dial_begin(plane, pair, plane->now + pair->line->connect, STAGGER, 0);
    return true;
}

/* While any head is known, a client that has sent nothing yet when it is accepted gets a moment to send. */
bool known_await(struct plane *plane, struct pair *pair) {
    if (pair->flows[CLIENT].held || plane->now >= plane->known_until ||
        watch(plane, EPOLL_CTL_ADD, pair->peers[CLIENT].fd, EPOLLONESHOT, &pair->peers[CLIENT]) < 0)
        return false;
    pair->state = AWAITED;
    timer_set(plane, &pair->timer, plane->now + SILENCE);
    return true;
}

/* The pair keeps its line: it tells Python where the upstream connection leads, if there is one. */
static void hand_over(struct plane *plane, struct pair *pair) {
    timer_cancel(&pair->timer);
    for (int side = CLIENT; side <= UPSTREAM; side++)
        if (pair->peers[side].fd >= 0)
            epoll_ctl(plane->epoll, EPOLL_CTL_DEL, pair->peers[side].fd, NULL);
    pair->given = pair->peers[CLIENT].fd;
    pair->given_upstream = pair->peers[UPSTREAM].fd;
    pair->peers[CLIENT].fd = pair->peers[UPSTREAM].fd = -1;
    pair->state = HANDED_OVER;
    pair->handed_over = pair->told = true;
    report(plane, &pair->node, NEWS_ACCEPTED, true);
}

/* No connection in time: Python tries by itself, and reports the result; so it does for the next clients. */
void known_failed(struct plane *plane, struct pair *pair) {
    struct key key;
    struct known **slot = key_of(pair, &key) ? slot_of(plane, key.bytes, key.length) : NULL;
    if (slot && *slot && (*slot)->line == pair->line)
        drop(plane, slot);
    pair->dial->failed = 0;
    dial_stop(plane, pair);
    hand_over(plane, pair);
}

static void begin(struct plane *plane, struct pair *pair, uint32_t client_events) {
    uint32_t upstream_events = pair->missed;
    pair->connected = plane->now;
    sum_connect(plane, pair);
    pair_relay(plane, pair);
    if (client_events && pair->state == RELAYING)
        pair_ready(plane, pair, CLIENT, client_events);
    if (upstream_events && pair->state == RELAYING)
        pair_ready(plane, pair, UPSTREAM, upstream_events);
}

static bool answer(struct plane *plane, struct pair *pair) {
    flow_release(plane, &pair->flows[CLIENT]); /* the head is not passed on; a ClientHello is */
    return send(pair->peers[CLIENT].fd, ESTABLISHED, sizeof ESTABLISHED - 1, MSG_NOSIGNAL) == sizeof ESTABLISHED - 1;
}

/* The upstream is connected. */
void known_connected(struct plane *plane, struct pair *pair, uint32_t events) {
    pair->connected = 0; /* for the record of its end: no tunnel has begun yet */
    pair->dialled = plane->now;
    if (pair->generation != plane->generation) { /* Python's decision may be another one now */
        close_peer(&pair->peers[UPSTREAM], true);
        hand_over(plane, pair);
        return;
    }
    pair->missed = events & ~(uint32_t)EPOLLOUT;
    bool is_hello = is_tls(pair->flows[CLIENT].held, pair->flows[CLIENT].held_to);
    if (!(is_hello || answer(plane, pair)) || !watch_given(plane, &pair->peers[CLIENT])) {
        pair_end(plane, pair, CLIENT_RESET);
    } else if (is_hello || !pair->line->host) {
        begin(plane, pair, 0);
    } else {
        pair->state = GREETED;
        timer_set(plane, &pair->timer, plane->now + SILENCE);
    }
}

/* The first bytes of the tunnel have come. If they are TLS, they have to name its host; in doubt Python decides. */
void known_spoke(struct plane *plane, struct pair *pair, uint32_t events) {
    struct flow *flow = &pair->flows[CLIENT];
    if (flow_overflows(plane)) {
        hand_over(plane, pair);
        return;
    }
    ssize_t got = recv(pair->peers[CLIENT].fd, plane->chunk, CHUNK, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got > 0 && !flow_hold(plane, flow, plane->chunk, (size_t)got)) {
        pair_end(plane, pair, NO_DESCRIPTOR);
        return;
    }
    if (got <= 0 || !hello_fits(plane->chunk, (size_t)got, pair->line->host))
        hand_over(plane, pair);
    else
        begin(plane, pair, got == CHUNK ? events : events & ~(uint32_t)EPOLLIN);
}

/* Neither side has sent anything. */
void known_silent(struct plane *plane, struct pair *pair) { hand_over(plane, pair); }
