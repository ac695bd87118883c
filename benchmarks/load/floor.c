/* The least that a relay in user space can cost here: floor LISTEN TARGET [LISTEN TARGET]
 *
 * The system calls of a forwarded connection in C, one thread, one edge-triggered epoll set, and nothing else:
 * no rules, no health, no limits, no metrics, no log. Bulk goes by splice(2) through a 1 MiB pipe. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CHUNK = 1 << 16, BULK = 512 << 10, PIPE = 1 << 20 };

struct pair;

struct side {
    int fd, ended, fin, held_from, held_to, pipe[2], piped;
    long moved;
    char *held;
    struct pair *pair;
    struct side *other;
};

struct pair {
    struct side a, b;
    int dead;
};

static int epoll_fd, listeners[2], targets[2];
static char scratch[CHUNK];

static void watch(int fd, void *data, unsigned events) {
    struct epoll_event event = {.events = events, .data.ptr = data};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

static void end_pair(struct pair *p) {
    struct side *sides[] = {&p->a, &p->b};
    for (int i = 0; i < 2; i++) {
        close(sides[i]->fd);
        free(sides[i]->held);
        if (sides[i]->pipe[0]) {
            close(sides[i]->pipe[0]);
            close(sides[i]->pipe[1]);
        }
    }
    p->dead = 1;
}

/* Sends what is held for the other side; 1 when nothing is left, 0 when it blocks, -1 on an error. */
static int flush_held(struct side *s) {
    while (s->held_from < s->held_to) {
        ssize_t n = send(s->other->fd, s->held + s->held_from, s->held_to - s->held_from, MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN ? 0 : -1;
        s->held_from += n;
    }
    return 1;
}

static int finish(struct side *s) {
    s->ended = 1;
    if (!s->other->ended)
        shutdown(s->other->fd, SHUT_WR);
    return 0;
}

static int move_spliced(struct side *s) {
    for (;;) {
        while (s->piped) {
            ssize_t n = splice(s->pipe[0], 0, s->other->fd, 0, s->piped, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
            if (n < 0)
                return errno == EAGAIN ? 0 : -1;
            s->piped -= n;
        }
        ssize_t n = splice(s->fd, 0, s->pipe[1], 0, PIPE, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (n < 0)
            return errno == EAGAIN ? 0 : -1;
        if (n == 0)
            return finish(s);
        s->piped = n;
    }
}

/* Moves what can be moved from one side to the other; -1 on an error. */
static int move(struct side *s) {
    if (s->ended)
        return 0;
    if (s->pipe[0])
        return move_spliced(s);
    int clear = flush_held(s);
    while (clear > 0) {
        ssize_t n = recv(s->fd, scratch, CHUNK, 0);
        if (n < 0)
            return errno == EAGAIN ? 0 : -1;
        if (n == 0)
            return finish(s);
        s->moved += n;
        ssize_t sent = send(s->other->fd, scratch, n, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN)
            return -1;
        if (sent < n) {
            sent = sent < 0 ? 0 : sent;
            s->held = s->held ? s->held : malloc(CHUNK);
            memcpy(s->held, scratch + sent, n - sent);
            s->held_from = 0;
            s->held_to = n - sent;
            clear = flush_held(s);
        } else if (s->moved > BULK && pipe2(s->pipe, O_NONBLOCK) == 0) {
            fcntl(s->pipe[1], F_SETPIPE_SZ, PIPE);
            return move_spliced(s);
        } else if (n < CHUNK && !s->fin) {
            return 0; /* edge-triggered: more data, or the end, is another edge */
        }
    }
    return clear;
}

static void take_in(int listener, int target) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(target)};
    int fd, one = 1;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    while ((fd = accept4(listener, 0, 0, SOCK_NONBLOCK)) >= 0) {
        struct pair *p = calloc(1, sizeof *p);
        p->a.fd = fd;
        p->b.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        p->a.pair = p->b.pair = p;
        p->a.other = &p->b;
        p->b.other = &p->a;
        setsockopt(p->b.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        connect(p->b.fd, (struct sockaddr *)&to, sizeof to);
        watch(p->b.fd, &p->b, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
        watch(p->a.fd, &p->a, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
    }
}

static void ready(struct side *s, unsigned what) {
    struct pair *p = s->pair;
    s->fin |= (what & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
    if (p->dead)
        return;
    if (move(s) < 0 || move(s->other) < 0 || (p->a.ended && p->b.ended))
        end_pair(p);
}

int main(int argc, char **argv) {
    struct rlimit files;
    int count = (argc - 1) / 2, one = 1;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    epoll_fd = epoll_create1(0);
    for (int i = 0; i < count && i < 2; i++) {
        struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1 + 2 * i]))};
        at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        targets[i] = atoi(argv[2 + 2 * i]);
        listeners[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        setsockopt(listeners[i], SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(listeners[i], (struct sockaddr *)&at, sizeof at) || listen(listeners[i], 4096)) {
            perror("floor");
            return 1;
        }
        watch(listeners[i], &listeners[i], EPOLLIN);
    }
    struct epoll_event events[256];
    struct pair *gone[512];
    for (;;) {
        int n = epoll_wait(epoll_fd, events, 256, -1), dead = 0;
        for (int i = 0; i < n; i++) {
            void *data = events[i].data.ptr;
            if (data == &listeners[0] || data == &listeners[1]) {
                int which = data == &listeners[1];
                take_in(listeners[which], targets[which]);
                continue;
            }
            struct side *s = data;
            int was_dead = s->pair->dead;
            ready(s, events[i].events);
            if (s->pair->dead && !was_dead)
                gone[dead++] = s->pair;
        }
        while (dead > 0)
            free(gone[--dead]); /* only now: later events of the batch may name them */
    }
}
