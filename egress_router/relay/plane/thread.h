/* The thread's state, and what its files do for each other.
 *
 * Everything in here belongs to the thread, except where a comment says "Python": what the interpreter's thread may
 * touch.
 */
#ifndef THREAD_H
#define THREAD_H

#include <pthread.h>

#include "plane.h"

struct wheel {
    nanoseconds tick;
    int64_t at, first; /* numbers of ticks: all up to `at` have expired; no timer is set before `first` */
    struct timer *slots[512];
};

struct pipe {
    struct pipe *next;
    int read_end, write_end;
    size_t holds;
};

/* A connection that was made to something near. The timestamp of its first packet is `stamp` or up to `width` more.
 * `turns`: how often its client's connection had come back, as far as was known then. `client`: the timestamp of the
 * client's first packet (0: none), for what becomes known later. */
struct own {
    _Atomic uint32_t stamp, width, turns, client;
    _Atomic nanoseconds made;
};

/* What all workers have made and accepted, in memory that they share. Nothing is locked: an entry that is read while it
 * is written matches nothing, or is missed. */
struct made {
    _Atomic nanoseconds latest; /* when the last one was made; 0: none was */
    struct own own[MAX_OWN], accepted[MAX_OWN];
};

struct listener {
    uint8_t kind;
    int fd;
    struct line *line;
    struct listener *next;
};

struct client {
    struct client *next;
    struct in6_addr address;
    int open;
};

struct plane {
    int epoll, bell, python_bell;
    pthread_t thread;
    struct queue commands, news;
    atomic_bool asleep, rung;
    bool stopping;
    nanoseconds now, quiet, first_news;
    unsigned unrung;
    bool urgent;
    uint64_t batch;
    struct wheel fine, coarse;
    struct pair *pairs, *repeats, *dead; /* dead: ended ones that Python does not hear of */
    struct dial *garbage;
    struct pipe *free_pipes;
    atomic_int lent; /* pipes in use; Python reads it */
    int pipes;
    struct listener *listeners, *ended;
    uint64_t accepted;
    int unread;
    nanoseconds resume; /* 0: accepting does not pause */
    bool shortage;
    /* Python reads these. */
    atomic_int open, paused, shortage_error;
    _Atomic uint64_t pauses, relayed[2], overflows;
    _Atomic int64_t held; /* bytes that all connections hold; Python changes it, too */
    int64_t most_held;    /* from here on, what a sink does not take stays in the source's queue */
    /* Admission. */
    int32_t *worker_counts; /* how many connections each worker has admitted: shared memory */
    int slots, slot, maximum, possible, max_of_client;
    struct client *clients[4096];
    uint64_t secret;
    struct made *made;
    struct known *known[MAX_KNOWN];
    nanoseconds known_until; /* from then on no head is known */
    uint32_t generation;     /* of known heads: counts how often all were forgotten */
    struct bounds connects, lives; /* bounds of the histograms of all lines */
    /* Python waits until so many commands are done. */
    pthread_mutex_t lock;
    pthread_cond_t settled;
    uint64_t obeyed;
    char chunk[CHUNK];
};

/* timers.c */
void timers_start(struct plane *plane);
void timer_set(struct plane *plane, struct timer *timer, nanoseconds due);
void timer_cancel(struct timer *timer);
void timers_expire(struct plane *plane);
nanoseconds timers_next(struct plane *plane);

/* pipes.c */
struct pipe *pipe_take(struct plane *plane);
void pipe_give_back(struct plane *plane, struct pipe *pipe);
void pipes_close(struct plane *plane);

/* flow.c */
enum step { WAIT, AGAIN, ENDED, SOURCE_LOST, SINK_LOST, TOO_MUCH };
enum step flow_start(struct plane *plane, struct pair *pair, int direction);
enum step flow_pump(struct plane *plane, struct pair *pair, int direction, uint32_t events);
bool flow_blocked(const struct flow *flow);
bool flow_hold(struct plane *plane, struct flow *flow, const char *bytes, size_t count);
bool flow_overflows(const struct plane *plane);
void flow_release(struct plane *plane, struct flow *flow);

/* sums.c */
void sum_connected(struct plane *plane, struct pair *pair);
void sum_connect(struct plane *plane, struct pair *pair);
void sum_ended(struct plane *plane, struct pair *pair);

/* pair.c */
void pair_open(struct plane *plane, struct pair *pair);
void pair_relay(struct plane *plane, struct pair *pair);
void pair_ready(struct plane *plane, struct pair *pair, int side, uint32_t events);
void pair_repeat(struct plane *plane, struct pair *pair);
void pair_timeout(struct plane *plane, struct pair *pair);
void pair_end(struct plane *plane, struct pair *pair, enum reason reason);
void pair_free(struct plane *plane, struct pair *pair);
void close_peer(struct peer *peer, bool orderly);
bool watch_given(struct plane *plane, struct peer *peer);
int watch(struct plane *plane, int operation, int fd, uint32_t events, void *what);

/* dial.c */
void dial_begin(struct plane *plane, struct pair *pair, nanoseconds ends, nanoseconds stagger, unsigned turn);
void dial_ready(struct plane *plane, struct pair *pair, struct attempt *attempt, uint32_t events);
void dial_timeout(struct plane *plane, struct pair *pair);
void dial_stop(struct plane *plane, struct pair *pair);

/* accept.c */
void listener_ready(struct plane *plane, struct listener *listener);
void listener_add(struct plane *plane, struct listener *listener);
void listener_end(struct plane *plane, int fd);
void accepting_resume(struct plane *plane);
void first_bytes_ready(struct plane *plane, struct pair *pair);
void first_bytes_late(struct plane *plane, struct pair *pair);
void line_changed(struct plane *plane, struct line *line);
void line_release(struct plane *plane, struct line *line);
void targets_release(struct plane *plane, struct targets *targets);

/* admission.c */
enum reason admission_enter(struct plane *plane, struct pair *pair);
void admission_leave(struct plane *plane, struct pair *pair);

/* known.c */
void known_add(struct plane *plane, struct known *known, struct line *acceptor);
void known_forget(struct plane *plane);
bool known_await(struct plane *plane, struct pair *pair);
bool known_take(struct plane *plane, struct pair *pair);
void known_failed(struct plane *plane, struct pair *pair);
void known_connected(struct plane *plane, struct pair *pair, uint32_t events);
void known_spoke(struct plane *plane, struct pair *pair, uint32_t events);
void known_silent(struct plane *plane, struct pair *pair);
bool is_known(const struct pair *pair);

/* hello.c */
bool is_tls(const char *data, size_t size);
bool hello_fits(const char *data, size_t size, const char *host);
size_t hello_name(const char *data, size_t size, char name[MAX_NAME]);

/* own.c */
bool own_note(struct plane *plane, const struct pair *pair, int fd, nanoseconds begun);
void own_look(struct plane *plane, struct pair *pair, int fd);
void own_accepted(struct plane *plane, struct pair *pair, int fd);

/* thread.c */
void *plane_run(void *plane);
nanoseconds monotonic(void);
void report(struct plane *plane, struct node *node, unsigned news, bool urgent);

#endif
