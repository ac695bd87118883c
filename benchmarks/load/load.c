/* Load generator: many connections from one thread, one JSON line at the end.
 *
 *   load MODE PORT TARGET_PORT CONNECTIONS OPERATIONS SIZE FORM [ADDRESS [RATE]]
 *
 * MODE  churn      one GET a connection, an operation is connect to end of answer
 *       keepalive  GETs on open connections, an operation is one answer
 *       ping       64 bytes there and back on open connections
 *       down       SIZE bytes fetched a connection
 *       both       SIZE bytes sent and received at once a connection
 *       idle       opens the connections, says "ready", closes them when standard input ends
 *       hold       the same without a byte, to a server that waits for the client
 * FORM  direct     to a forwarder or the server itself
 *       connect    by CONNECT 127.0.0.1:TARGET_PORT
 *       absolute   GET http://127.0.0.1:TARGET_PORT/
 *       tls        a ClientHello for "localhost" first, and the work after the server's answer to it
 *       connect-tls  the same, by CONNECT localhost:TARGET_PORT
 *
 * ADDRESS is 127.0.0.1 where none is given. With a RATE, churn begins so many operations a second, whether or not
 * earlier ones have ended: at most CONNECTIONS at a time, and a latency counts from the moment at which its
 * operation was due. A run ends after 120 s whatever happens. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum mode { CHURN, KEEPALIVE, PING, DOWN, BOTH, IDLE, HOLD };
enum phase { CONNECTING, HANDSHAKE, GREETING, WORKING };

struct connection {
    int fd;
    enum phase phase;
    double begun;
    long received, sent, expected;
    int head_length;
    char head[2048];
    struct connection *next;
};

static enum mode mode;
static int port, target, by_connect, absolute, by_tls;
static long operations, size, started, finished, errors, total_bytes, idle_ready;
static double rate, first_due;
static struct in_addr address;
static struct connection *spare; /* with a rate: those that wait for their turn */
static char request[512], handshake[256], greeting[512], *payload;
static int request_length, handshake_length;
static float *latencies;
static int epoll_fd;

static int waits(void) { return mode == IDLE || mode == HOLD; }

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void watch(struct connection *c, int operation, unsigned events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(epoll_fd, operation, c->fd, &event);
}

static void open_connection(struct connection *c) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    int one = 1;
    to.sin_addr = address;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->phase = CONNECTING;
    c->begun = rate > 0 ? first_due + started / rate : now();
    c->received = c->sent = c->expected = c->head_length = 0;
    started++;
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS) {
        perror("connect");
        exit(1);
    }
    watch(c, EPOLL_CTL_ADD, EPOLLOUT);
}

static void finish_operation(struct connection *c, int good) {
    if (!good)
        errors++;
    else if (finished < operations)
        latencies[finished] = now() - c->begun;
    finished++;
}

/* Ends the connection; the next one takes its place while operations are left. */
static void replace_connection(struct connection *c, int good) {
    close(c->fd);
    c->fd = -1;
    finish_operation(c, good);
    if (rate > 0) {
        c->next = spare;
        spare = c;
    } else if (started < operations && !waits()) {
        open_connection(c);
    }
}

/* Begins what is due; returns the milliseconds until the next one is. */
static int begin_due(void) {
    double passed = now() - first_due;
    while (spare && started < operations && started / rate <= passed) {
        struct connection *c = spare;
        spare = c->next;
        open_connection(c);
    }
    if (!spare || started >= operations)
        return 1000;
    double rest = (started / rate - passed) * 1000;
    return rest < 0 ? 0 : (int)rest;
}

static int send_all(struct connection *c, const char *data, int length) {
    return send(c->fd, data, length, MSG_NOSIGNAL) == length;
}

static void send_more(struct connection *c) {
    while (c->sent < size) {
        long rest = size - c->sent;
        ssize_t n = send(c->fd, payload, rest < 262144 ? rest : 262144, MSG_NOSIGNAL);
        if (n < 0) {
            watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            return;
        }
        c->sent += n;
    }
    watch(c, EPOLL_CTL_MOD, EPOLLIN);
}

static void begin_work(struct connection *c) {
    c->phase = WORKING;
    c->received = 0;
    c->head_length = 0;
    watch(c, EPOLL_CTL_MOD, EPOLLIN);
    if (mode == HOLD) {
        idle_ready++;
        return;
    }
    if (mode == KEEPALIVE || mode == PING)
        c->begun = now();
    if (mode == PING || mode == IDLE) {
        send_all(c, payload, 64);
    } else if (mode == BOTH) {
        send_more(c);
    } else {
        send_all(c, request, request_length);
    }
}

/* TLS is imitated: a proxy that does not end it sees its first record and bytes after that. */
static void greet(struct connection *c) {
    c->phase = GREETING;
    c->received = 0;
    watch(c, EPOLL_CTL_MOD, EPOLLIN);
    send_all(c, greeting, sizeof greeting);
}

static void make_greeting(void) {
    static const char name[] = "localhost";
    const int length = sizeof name - 1, total = sizeof greeting;
    char *at = greeting;
    *at++ = 22, *at++ = 3, *at++ = 1, *at++ = (total - 5) >> 8, *at++ = (char)(total - 5);
    *at++ = 1, *at++ = 0, *at++ = (total - 9) >> 8, *at++ = (char)(total - 9);
    *at++ = 3, *at++ = 3, at += 32;                 /* version, random */
    *at++ = 32, at += 32;                           /* session */
    *at++ = 0, *at++ = 2, *at++ = 0x13, *at++ = 1;  /* cipher suites */
    *at++ = 1, *at++ = 0;                           /* compression */
    int rest = greeting + total - at - 2;
    *at++ = rest >> 8, *at++ = (char)rest;
    *at++ = 0, *at++ = 0, *at++ = 0, *at++ = length + 5, *at++ = 0, *at++ = length + 3, *at++ = 0;
    *at++ = 0, *at++ = length;
    memcpy(at, name, length);
    at += length;
    rest = greeting + total - at - 4;
    *at++ = 0, *at++ = 21, *at++ = rest >> 8, *at++ = (char)rest; /* padding */
}

/* Collects a head; returns the bytes behind it, or -1 while it is not complete. */
static long head_in(struct connection *c, const char *data, long length) {
    long room = sizeof c->head - 1 - c->head_length, before = c->head_length;
    long taken = length < room ? length : room;
    memcpy(c->head + before, data, taken);
    c->head_length += taken;
    c->head[c->head_length] = 0;
    char *end = strstr(c->head, "\r\n\r\n");
    if (!end)
        return -1;
    return length - (end + 4 - c->head - before);
}

static int is_200(struct connection *c) { return strncmp(c->head + 8, " 200", 4) == 0; }

/* Takes bytes of an answer on a kept connection; an answer counts when head and body are complete. */
static void answer_in(struct connection *c, const char *data, long length) {
    if (!c->expected) {
        long body = head_in(c, data, length);
        if (body < 0)
            return;
        char *field = strcasestr(c->head, "content-length:");
        if (!is_200(c) || !field) {
            replace_connection(c, 0);
            return;
        }
        c->expected = atol(field + 15);
        c->received = body;
    } else {
        c->received += length;
    }
    if (c->received < c->expected)
        return;
    finish_operation(c, c->received == c->expected);
    c->expected = c->head_length = 0;
    c->begun = now();
    if (started < operations) {
        started++;
        send_all(c, request, request_length);
    } else {
        close(c->fd);
        c->fd = -1;
    }
}

static void work_in(struct connection *c, const char *data, long length) {
    total_bytes += length;
    if (mode == KEEPALIVE) {
        answer_in(c, data, length);
        return;
    }
    c->received += length;
    if (mode == CHURN && c->head_length < 12)
        head_in(c, data, length);
    if (mode == PING && c->received == 64) {
        finish_operation(c, 1);
        c->received = 0;
        c->begun = now();
        if (started < operations) {
            started++;
            send_all(c, payload, 64);
        } else {
            close(c->fd);
            c->fd = -1;
        }
    } else if (mode == BOTH && c->received >= size) {
        replace_connection(c, c->received == size);
    } else if (mode == IDLE && c->received == 64) {
        idle_ready++;
    }
}

static void readable(struct connection *c) {
    static char buffer[1 << 18];
    while (c->fd >= 0) {
        ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            int good = n == 0 && c->phase == WORKING;
            if (mode == CHURN)
                good = good && is_200(c);
            else if (mode == DOWN)
                good = good && c->received >= size;
            else
                good = 0;
            replace_connection(c, good);
            return;
        }
        if (c->phase == HANDSHAKE) {
            if (head_in(c, buffer, n) < 0)
                continue;
            if (!is_200(c)) {
                replace_connection(c, 0);
                return;
            }
            if (by_tls)
                greet(c);
            else
                begin_work(c);
        } else if (c->phase == GREETING) {
            c->received += n;
            if (c->received == sizeof greeting)
                begin_work(c);
        } else {
            work_in(c, buffer, n);
        }
        if (n < (ssize_t)sizeof buffer && mode != DOWN && mode != BOTH && mode != CHURN)
            return;
    }
}

static void event_in(struct connection *c, unsigned events) {
    if (c->phase == CONNECTING) {
        int error = 0;
        socklen_t length = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length);
        if (error) {
            replace_connection(c, 0);
        } else if (by_connect) {
            c->phase = HANDSHAKE;
            watch(c, EPOLL_CTL_MOD, EPOLLIN);
            send_all(c, handshake, handshake_length);
        } else if (by_tls) {
            greet(c);
        } else {
            begin_work(c);
        }
        return;
    }
    if (events & EPOLLOUT)
        send_more(c);
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        readable(c);
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void report(double seconds) {
    long count = finished - errors;
    if (count > operations)
        count = operations;
    qsort(latencies, count, sizeof *latencies, by_value);
    double p[3] = {0, 0, 0}, at[3] = {0.5, 0.99, 0.999};
    for (int i = 0; i < 3 && count > 0; i++)
        p[i] = latencies[(long)(at[i] * (count - 1))] * 1e6;
    printf("{\"operations\": %ld, \"errors\": %ld, \"seconds\": %.6f, \"bytes\": %ld,"
           " \"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f}\n",
           finished, errors, seconds, total_bytes, p[0], p[1], p[2]);
}

static void prepare(int argc, char **argv) {
    static const char *names[] = {"churn", "keepalive", "ping", "down", "both", "idle", "hold"};
    if (argc < 8 || argc > 10 || !inet_aton(argc > 8 ? argv[8] : "127.0.0.1", &address)) {
        fprintf(stderr, "usage: load MODE PORT TARGET_PORT CONNECTIONS OPERATIONS SIZE FORM [ADDRESS [RATE]]\n");
        exit(2);
    }
    for (int i = 0; i < 7; i++)
        if (!strcmp(argv[1], names[i]))
            mode = i;
    port = atoi(argv[2]);
    target = atoi(argv[3]);
    operations = atol(argv[5]);
    size = atol(argv[6]);
    rate = argc > 9 ? atof(argv[9]) : 0;
    by_connect = !strncmp(argv[7], "connect", 7);
    by_tls = !strcmp(argv[7], "tls") || !strcmp(argv[7], "connect-tls");
    make_greeting();
    absolute = !strcmp(argv[7], "absolute");
    char path[128] = "/", url[256], host[64] = "";
    const char *name = by_tls ? "localhost" : "127.0.0.1";
    if (mode == DOWN)
        snprintf(path, sizeof path, "/bulk/%ld", size);
    if (absolute)
        snprintf(host, sizeof host, "http://127.0.0.1:%d", target);
    snprintf(url, sizeof url, "%s%s", host, path);
    request_length = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
                              "User-Agent: load\r\nAccept: */*\r\n%s\r\n", url, target,
                              mode == KEEPALIVE ? "" : "Connection: close\r\n");
    handshake_length = snprintf(handshake, sizeof handshake,
                                "CONNECT %s:%d HTTP/1.1\r\nHost: %s:%d\r\n\r\n", name, target, name, target);
    payload = calloc(1, 262144);
    latencies = calloc(operations + 1, sizeof *latencies);
}

int main(int argc, char **argv) {
    prepare(argc, argv);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    long count = atol(argv[4]);
    if (waits())
        operations = count;
    if (count > operations)
        count = operations;
    struct connection *all = calloc(count, sizeof *all);
    epoll_fd = epoll_create1(0);
    double begun = first_due = now();
    for (long i = 0; i < count; i++) {
        if (rate > 0) {
            all[i].next = spare;
            spare = &all[i];
        } else {
            open_connection(&all[i]);
        }
    }
    struct epoll_event events[256];
    while (now() - begun < 120) {
        if (waits() ? idle_ready + errors >= count : finished >= operations)
            break;
        int wait = rate > 0 ? begin_due() : 1000;
        int n = epoll_wait(epoll_fd, events, 256, wait);
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (c->fd >= 0)
                event_in(c, events[i].events);
        }
    }
    double seconds = now() - begun;
    if (waits()) {
        printf("ready %ld\n", idle_ready);
        fflush(stdout);
        char byte;
        while (read(0, &byte, 1) > 0)
            ;
        return 0;
    }
    report(seconds);
    return finished < operations;
}
