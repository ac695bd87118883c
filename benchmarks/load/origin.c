/* Origin server: origin PORT [ADDRESS]. HTTP on 127.0.0.1:PORT (`/`: 100 bytes, `/bulk/N`: N bytes), echo on
 * PORT + 1. A TLS record before a request is sent back. It closes first, so that TIME_WAIT is with it. */
#include <arpa/inet.h>
#include <errno.h>
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

enum kind { LISTEN_HTTP, LISTEN_ECHO, HTTP, ECHO };

struct peer {
    int fd;
    enum kind kind;
    int length, closing;
    long bulk;
    char *held;
    int held_from, held_to;
    char head[4096];
};

static int epoll_fd;
static char zeros[1 << 18];
static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\n"
    "01234567890123456789012345678901234567890123456789"
    "0123456789012345678901234567890123456789012345678\n";

static void listen_on(struct in_addr address, int port, enum kind kind) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = address};
    struct peer *p = calloc(1, sizeof *p);
    int one = 1;
    p->kind = kind;
    p->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(p->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(p->fd, (struct sockaddr *)&at, sizeof at) || listen(p->fd, 4096)) {
        perror("origin");
        exit(1);
    }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = p};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, p->fd, &event);
}

static void end(struct peer *p) {
    close(p->fd);
    free(p->held);
    free(p);
}

static void take_in(struct peer *listening) {
    int fd, one = 1;
    while ((fd = accept4(listening->fd, 0, 0, SOCK_NONBLOCK)) >= 0) {
        struct peer *p = calloc(1, sizeof *p);
        p->fd = fd;
        p->kind = listening->kind == LISTEN_HTTP ? HTTP : ECHO;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = p};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
    }
}

/* Sends what is left of a bulk answer; 1 when it is complete. */
static int send_bulk(struct peer *p) {
    while (p->bulk > 0) {
        ssize_t n = send(p->fd, zeros, p->bulk < (long)sizeof zeros ? p->bulk : (long)sizeof zeros, MSG_NOSIGNAL);
        if (n < 0)
            return errno != EAGAIN;
        p->bulk -= n;
    }
    return 1;
}

/* Answers one request; returns 0 when the connection is over. */
static int answer_one(struct peer *p) {
    p->closing = strstr(p->head, "HTTP/1.0\r\n") || strcasestr(p->head, "\r\nconnection: close");
    if (!strncmp(p->head, "GET /bulk/", 10)) {
        char head[128];
        p->bulk = atol(p->head + 10);
        int n = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %ld\r\n\r\n", p->bulk);
        send(p->fd, head, n, MSG_NOSIGNAL);
        return !send_bulk(p) || !p->closing;
    }
    send(p->fd, answer, sizeof answer - 1, MSG_NOSIGNAL);
    return !p->closing;
}

/* Sends a TLS record back once it is complete; returns whether there was one, or a part of one. */
static int return_record(struct peer *p) {
    if (!p->length || p->head[0] != 22)
        return 0;
    int size = p->length < 5 ? 5 : 5 + ((unsigned char)p->head[3] << 8) + (unsigned char)p->head[4];
    if (p->length >= size) {
        send(p->fd, p->head, size, MSG_NOSIGNAL);
        p->length -= size;
        memmove(p->head, p->head + size, p->length + 1);
    }
    return 1;
}

static void serve(struct peer *p) {
    if (p->bulk > 0) {
        if (send_bulk(p) && p->closing)
            end(p);
        return;
    }
    for (;;) {
        ssize_t n = recv(p->fd, p->head + p->length, sizeof p->head - 1 - p->length, 0);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0) {
            end(p);
            return;
        }
        p->length += n;
        p->head[p->length] = 0;
        if (return_record(p))
            continue;
        char *stop;
        while ((stop = strstr(p->head, "\r\n\r\n"))) {
            if (!answer_one(p)) {
                end(p);
                return;
            }
            p->length -= stop + 4 - p->head;
            memmove(p->head, stop + 4, p->length + 1);
        }
    }
}

static void echo(struct peer *p) {
    for (;;) {
        if (!p->held)
            p->held = malloc(1 << 17);
        while (p->held_from < p->held_to) {
            ssize_t n = send(p->fd, p->held + p->held_from, p->held_to - p->held_from, MSG_NOSIGNAL);
            if (n < 0 && errno == EAGAIN)
                return;
            if (n < 0) {
                end(p);
                return;
            }
            p->held_from += n;
        }
        ssize_t n = recv(p->fd, p->held, 1 << 17, 0);
        if (n < 0 && errno == EAGAIN) {
            free(p->held);
            p->held = 0;
            return;
        }
        if (n <= 0) {
            end(p);
            return;
        }
        p->held_from = 0;
        p->held_to = n;
    }
}

int main(int argc, char **argv) {
    struct rlimit files;
    int port = argc > 1 ? atoi(argv[1]) : 0;
    struct in_addr address;
    if (!port || !inet_aton(argc > 2 ? argv[2] : "127.0.0.1", &address)) {
        fprintf(stderr, "usage: origin PORT [ADDRESS]\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    epoll_fd = epoll_create1(0);
    listen_on(address, port, LISTEN_HTTP);
    listen_on(address, port + 1, LISTEN_ECHO);
    puts("ready");
    fflush(stdout);
    struct epoll_event events[256];
    for (;;) {
        int n = epoll_wait(epoll_fd, events, 256, -1);
        for (int i = 0; i < n; i++) {
            struct peer *p = events[i].data.ptr;
            if (p->kind == HTTP)
                serve(p);
            else if (p->kind == ECHO)
                echo(p);
            else
                take_in(p);
        }
    }
}
