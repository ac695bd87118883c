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
    CHUNK = 1 << 16,       /* bytes that a connection holds at most for each side that does not read */
    MAX_ATTEMPTS = 6,      /* connection attempts of one dial at a time: each holds a descriptor */
    MAX_PIPES = 32,        /* each is two descriptors and up to 1 MiB of kernel memory */
    MAX_UNREAD = 1 << 16,  /* closing records that Python has not read; with so many, accepting pauses */
    MAX_BOUNDS = 15,       /* bounds of a histogram */
    MAX_OWN = 4096,        /* connections that may come back to us, mostly the latest; a power of two */
    LOOP_TURNS = 2,        /* a connection that came back this often is a loop */
    MAX_KNOWN = 1024,      /* heads of CONNECTs that Python has decided on */
    MAX_KNOWN_HEAD = 512,  /* bytes of one head */
    MAX_NAME = 253,        /* characters of a host name (RFC 1035 2.3.4) */
    TROUBLED = 3,          /* after a failure, this many successes are told one by one */
};

/* Why a connection ended, or was never made. The numbers are those of relay/dial.py and relay/tunnel.py. */
enum reason {
    FINISHED,
    CLIENT_RESET,
    UPSTREAM_RESET,
    IDLE,
    CUT, /* by Python, or for lack of memory or of watches */
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
    nanoseconds due;            /* may be moved to later while it is set */
};

/* What an epoll event points to begins with its kind. */
enum kind { PEER_CLIENT, PEER_UPSTREAM, ATTEMPT, LISTENER, BELL };

struct peer {
    uint8_t kind;
    bool room_watched; /* EPOLLOUT is subscribed */
    bool no_delay;     /* TCP_NODELAY is set */
    int fd;
    uint64_t batch; /* events of this batch belong to another socket; 64 bits, so that the number never wraps */
};

struct flow {
    _Atomic uint64_t moved; /* bytes; Python reads it */
    struct pipe *pipe;
    char *held;
    uint32_t held_from, held_to;
    uint32_t run; /* bytes moved without a pause */
    bool ended;   /* the source has ended, and all its bytes are on their way */
    bool urgent;  /* the source has sent urgent data: splice(2) stops at its mark, a read goes on */
    bool left;    /* what the sink did not take is still in the source's queue: all connections hold too much */
};

struct address {
    struct in6_addr ip; /* IPv4 as ::ffff:a.b.c.d */
    in_port_t port;         /* network order */
    uint16_t troubled;      /* it failed: so many successes are told one by one before it is like the others */
    struct in6_addr source; /* form and family as `ip`; all zero: the kernel chooses */
    atomic_uint answered;   /* connections that Python was not told of one by one; Python resets it */
    uint8_t near;           /* in the cluster: a connection to it may come back to us */
};

/* Where connections go: the first `good` in turn, then the others. Both sides read it, and only counters change; freed
 * by Python. */
struct targets {
    struct node node;
    void *values; /* Python's: a tuple with one value for each address */
    void *owner;  /* Python's: the line, or null */
    int refs, count, good;
    struct address list[];
};

struct bounds {
    int count;
    nanoseconds upper[MAX_BOUNDS];
};

/* Times, counted by upper bound; the last count is for times above every bound. `total` is their sum. */
struct histogram {
    _Atomic uint64_t counts[MAX_BOUNDS + 1], total;
};

/* Sums over connections that Python is not told of one by one. The thread adds, Python reads and resets. */
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
    enum reason refuses; /* without targets, clients are closed with this reason; 0: Python is asked */
    struct targets *targets;
    nanoseconds connect, idle;
    bool tells; /* news of each connection, with its source address; otherwise only sums */
    bool hands_over; /* accepted sockets go to Python */
    struct line *acceptor; /* for known CONNECTs: the line of the port that they come to */
    char *host;            /* for these: what a ClientHello has to name; null: not checked */
    atomic_int open;       /* for these: open ones that Python has not taken over; Python reads it */
    _Atomic uint64_t hits; /* Python reads it */
    struct sums sums;
};

/* The head of a CONNECT that Python has decided on: known.c. */
struct known {
    struct line *line; /* its destination's */
    nanoseconds renewed, ends; /* at `renewed` one client goes to Python, which decides again */
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
    struct attempt attempts[MAX_ATTEMPTS]; /* for the first one, epoll points to the upstream peer */
    struct failure failures[];
};

/* AWAITED: waits for the first bytes, which may be a known head. GREETED: a known CONNECT was answered; waits for the
 * client's next bytes. HANDED_OVER: Python has the socket; the connection still counts as admitted. */
enum state { WAITING, AWAITED, DIALLING, GREETED, RELAYING, HANDED_OVER, CLOSED };
enum {
    NEWS_CONNECTED = 1,
    NEWS_CLOSED = 2,
    NEWS_WANTED = 4,
    NEWS_GONE = 8,
    NEWS_ACCEPTED = 16,
    NEWS_SUMMED = 32,   /* about a line */
    NEWS_ANSWERED = 64, /* about targets */
};

/* One connection, for its whole life. Python reads it after the news of its end, and sends it back to be freed. */
struct pair {
    struct node node;
    struct timer timer;
    struct pair *next, **link;   /* list of all that are open */
    struct pair *again;          /* list of those whose turn was used up */
    struct pair *partner;        /* of a tunnel: its admission; of an admission: its tunnel */
    struct peer peers[2];        /* CLIENT, UPSTREAM */
    struct flow flows[2];        /* from peers[i] to the other */
    void *object;                /* Python's; null: the line's object hears of it */
    struct line *line;           /* null: Python made it */
    struct targets *targets;
    struct dial *dial;
    struct in6_addr client;
    uint64_t number;           /* counts those that this process accepted */
    in_port_t client_port;     /* in network byte order */
    struct sockaddr_in6 source; /* our end towards the upstream, if the line tells each one; may be AF_INET */
    nanoseconds started, connected, ended, idle, period;
    nanoseconds dialled; /* for a known CONNECT: when its upstream was connected */
    nanoseconds first; /* when the upstream's first byte came; 0: none has */
    int target, given, given_upstream; /* given: sockets for Python, or -1 */
    uint32_t generation, missed; /* for a known CONNECT: generation of its head; upstream events before the tunnel */
    uint32_t turns;    /* how often the client's connection has come back to us */
    uint32_t stamp;    /* timestamp of its first packet */
    bool stamped;      /* `stamp` is known */
    nanoseconds accepted;
    uint8_t state, reason;
    bool admitted, handed_over, repeats[2];
    bool told; /* Python hears of this connection by itself, also because an attempt failed */
};

#endif
