/* The data plane: one thread that accepts, connects and relays, and never needs the interpreter.
 *
 * This header: limits, reasons, and what both threads know, which is connections, lines and their targets. All of it
 * belongs to the data plane's thread, except where a comment says "Python": what the interpreter's thread may touch.
 * The two talk by two queues (queue.h). The thread's own state is in thread.h. docs/decisions/data-plane.md has the
 * whole picture.
 */
#ifndef PLANE_H
#define PLANE_H

#include <netinet/in.h>
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

#endif
