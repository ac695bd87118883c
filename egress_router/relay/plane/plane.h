/* The data plane: one thread that accepts, connects and relays, and never needs the interpreter.
 *
 * Everything in here belongs to that thread, except where a comment says "Python": what the interpreter's
 * thread may touch. The two talk by two queues (queue.h). docs/decisions/data-plane.md has the whole picture.
 */
#ifndef PLANE_H
#define PLANE_H

#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "queue.h"

#define SECOND INT64_C(1000000000)
#define OWNER_OF(pointer, type, member) ((type *)(void *)((char *)(pointer) - offsetof(type, member)))

typedef int64_t nanoseconds; /* of CLOCK_MONOTONIC */

enum { CLIENT, UPSTREAM };

enum {
    CHUNK = 1 << 16,       /* what a connection holds at most for each side that does not read */
    MAX_ATTEMPTS = 6,      /* connects of one connection at a time: each holds a descriptor */
    MAX_PIPES = 32,        /* each is two descriptors and up to 1 MiB of kernel memory */
    MAX_UNREAD = 1 << 16,  /* closing records that Python has not read; with more, accepting pauses */
    MAX_BOUNDS = 15,       /* of a histogram */
    MAX_OWN = 4096,        /* a power of two: connections that may come back to us, mostly the latest */
    LOOP_TURNS = 2,        /* a connection that came back so often is a loop */
    MAX_KNOWN = 1024,      /* heads of CONNECTs that Python has decided on */
    MAX_KNOWN_HEAD = 512,  /* bytes of one */
    MAX_NAME = 253,        /* characters of a host name (RFC 1035 2.3.4) */
    TROUBLED = 3,          /* so many successes after a failure are told one by one */
};

/* Why a connection ended, or was never made. The numbers are those of relay/dial.py and relay/tunnel.py. */
enum reason {
    FINISHED,
    CLIENT_RESET,
    UPSTREAM_RESET,
    IDLE,
    CUT, /* Python wanted it */
    CONNECTED,
    REFUSED,
    UNREACHABLE,
    TIMEOUT,
    NO_DESCRIPTOR,
    NO_ADDRESS,
    FORBIDDEN,
    FULL,
    CLIENT_FULL,
    SOURCE_NOT_HELD,
    LOOP,
    REASONS,
};

struct timer {
    struct timer *next, **link; /* link is null while it is not set */
    nanoseconds due;            /* may be put off while it is set */
};

struct wheel {
    nanoseconds tick;
    int64_t at, first; /* numbers of ticks: expired up to here; none is set before */
    struct timer *slots[512];
};

struct pipe {
    struct pipe *next;
    int read_end, write_end;
    size_t holds;
};

/* What an epoll event points to begins with its kind. */
enum kind { PEER_CLIENT, PEER_UPSTREAM, ATTEMPT, LISTENER, BELL };

struct peer {
    uint8_t kind;
    bool room_watched; /* EPOLLOUT is subscribed */
    bool no_delay;     /* TCP_NODELAY is set */
    int fd;
    uint64_t batch; /* events of this batch are another socket's; 64 bits: the number must not come round */
};

struct flow {
    _Atomic uint64_t moved; /* Python reads it */
    struct pipe *pipe;
    char *held;
    uint32_t held_from, held_to;
    uint32_t run; /* moved without a pause */
    bool ended;   /* the source sent its end, and everything before it is on its way */
    bool urgent;  /* the source sends urgent data: splice(2) does not get past its mark, a read does */
    bool left;    /* what the sink did not take is still with the source, because too much is held in all */
};

struct address {
    struct in6_addr ip; /* IPv4 as ::ffff:a.b.c.d */
    in_port_t port;         /* network order */
    uint16_t troubled;      /* it failed, and has to answer so many times before it is like the others */
    struct in6_addr source; /* in the form of `ip`, and of its family; all zero: the kernel chooses */
    atomic_uint answered;   /* connections that Python was not told of one by one; it takes them away */
    uint8_t near;           /* in the cluster, from where a connection may come back */
};

/* A connection to something near: the timestamp of its first packet (`stamp` or up to `width` more), and how often its
   client's had come back, as far as was known then; with that one's timestamp (0: none), for what is known later. */
struct own {
    _Atomic uint32_t stamp, width, turns, client;
    _Atomic nanoseconds made;
};

/* Those of all workers, in memory that they share. Nothing is locked: one that is seen in the midst of being written
   agrees with nothing, or is missed. */
struct made {
    _Atomic nanoseconds latest; /* 0: none was */
    struct own own[MAX_OWN], accepted[MAX_OWN];
};

/* Where connections go: `good` of them first, in turn. Immutable; read by both sides, freed by Python. */
struct targets {
    struct node node;
    void *values; /* Python's: a tuple, one value each */
    void *owner;  /* Python's: the line, or null */
    int refs, count, good;
    struct address list[];
};

struct bounds {
    int count;
    nanoseconds upper[MAX_BOUNDS];
};

/* Times by upper bound; the last count is for what is above every bound. */
struct histogram {
    _Atomic uint64_t counts[MAX_BOUNDS + 1], total;
};

/* What Python hears of connections that it is not told of one by one. The thread adds, Python takes away. */
struct sums {
    _Atomic uint64_t sent, received; /* by connections that have ended */
    _Atomic uint64_t refused[REASONS];
    struct histogram connects, lives, firsts;
};

/* A listening port's line; freed by Python. */
struct line {
    struct node node;
    void *object; /* Python's */
    int refs, waiting;
    unsigned turn;
    enum reason refuses; /* without targets: at once with this reason; 0: ask Python */
    struct targets *targets;
    nanoseconds connect, idle;
    bool tells; /* news of each connection, with its source address; else they are summed up */
    bool hands_over; /* accepted sockets go to Python */
    struct line *acceptor; /* of known CONNECTs: the line of the port that they come to */
    char *host;            /* of these: what a ClientHello has to name; null: nobody looks */
    atomic_int open;       /* of these: those that Python has not been given, or not looked at; Python reads it */
    _Atomic uint64_t hits; /* Python reads it */
    struct sums sums;
};

/* The head of a CONNECT that Python has decided on: known.c. */
struct known {
    struct line *line; /* its destination's */
    nanoseconds renewed, ends; /* at the first of these one client is Python's, who decides anew */
    uint32_t length;
    char head[];
};

struct attempt {
    uint8_t kind;
    int fd, target;
    unsigned order;
    struct pair *pair;
};

struct failure {
    int target;
    enum reason reason;
};

struct dial {
    struct dial *garbage;
    nanoseconds ends, stagger;
    unsigned turn;
    int begun, open, failed;
    struct attempt attempts[MAX_ATTEMPTS]; /* epoll's pointer of the first is the upstream peer */
    struct failure failures[];
};

/* AWAITED: the first bytes may be a known head. GREETED: a known CONNECT was answered, and its client's first bytes are
 * waited for. HANDED_OVER: Python has the socket; here it stays counted as admitted. */
enum state { WAITING, AWAITED, DIALLING, GREETED, RELAYING, HANDED_OVER, CLOSED };
enum {
    NEWS_CONNECTED = 1,
    NEWS_CLOSED = 2,
    NEWS_WANTED = 4,
    NEWS_GONE = 8,
    NEWS_ACCEPTED = 16,
    NEWS_SUMMED = 32,   /* of a line */
    NEWS_ANSWERED = 64, /* of targets */
};

/* One connection, for its whole life. Python reads it after the news, and sends it back to be freed. */
struct pair {
    struct node node;
    struct timer timer;
    struct pair *next, **link;   /* all that are open */
    struct pair *again;          /* those whose turn was used up */
    struct pair *partner;        /* of a tunnel: its admission; of the admission: the tunnel */
    struct peer peers[2];        /* CLIENT, UPSTREAM */
    struct flow flows[2];        /* from peers[i] to the other */
    void *object;                /* Python's, or null: the line's */
    struct line *line;           /* null: Python made it */
    struct targets *targets;
    struct dial *dial;
    struct in6_addr client;
    uint64_t number;           /* of those that this process accepted */
    in_port_t client_port;     /* in network byte order */
    struct sockaddr_in6 source; /* of the upstream's connection, where the line tells it; may be of AF_INET */
    nanoseconds started, connected, ended, idle, period;
    nanoseconds dialled; /* of a known CONNECT: when its upstream was connected */
    nanoseconds first; /* when the first byte of the upstream came; 0: none has */
    int target, given, given_upstream; /* given: sockets for Python, or -1 */
    uint32_t generation, missed; /* of a known CONNECT: what it was taken by; events before its tunnel */
    uint32_t turns;    /* how often the client's connection had come back to us */
    uint32_t stamp;    /* of its first packet, */
    bool stamped;      /* where that was looked at and has one */
    nanoseconds accepted;
    uint8_t state, reason;
    bool admitted, handed_over, repeats[2];
    bool told; /* Python hears of it, or of what it failed to reach */
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
    struct pair *pairs, *repeats, *dead; /* dead: those that Python does not hear of */
    struct dial *garbage;
    struct pipe *free_pipes;
    atomic_int lent; /* Python reads it */
    int pipes;
    struct listener *listeners, *ended;
    uint64_t accepted;
    int unread;
    nanoseconds resume; /* 0: accepting does not pause */
    bool shortage;
    /* Python reads these. */
    atomic_int open, paused, shortage_error;
    _Atomic uint64_t pauses, relayed[2], overflows;
    _Atomic int64_t held; /* bytes, by all connections; Python adds what it has read of a tunnel */
    int64_t most_held;    /* from here on what a sink does not take stays with the source */
    /* Admission. */
    int32_t *worker_counts; /* how many connections each worker has admitted; in shared memory */
    int slots, slot, maximum, possible, max_of_client;
    struct client *clients[4096];
    uint64_t secret;
    struct made *made;
    struct known *known[MAX_KNOWN];
    nanoseconds known_until; /* none is known any more then */
    uint32_t generation;     /* of what is known */
    struct bounds connects, lives; /* of the histograms of all lines */
    /* Python waits for this number of commands. */
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
