/* Sends 64 bytes on each of N connections at fixed times and waits for the echo: an open loop. Latency counts from
 * when a message was due, so that a stall delays what waits behind it, as it does for real clients.
 *
 * usage: openloop PORT CONNECTIONS MESSAGES_A_SECOND SECONDS
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 64, QUEUE = 4096 };

struct connection {
    int fd, received, first, count;
    int64_t due[QUEUE]; /* of messages under way */
};

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static int ascending(const void *left, const void *right) {
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void open_connection(struct connection *connection, int port, int epoll) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    connection->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(connection->fd, (struct sockaddr *)&to, sizeof to) < 0)
        fail("connect");
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    epoll_ctl(epoll, EPOLL_CTL_ADD, connection->fd, &event);
}

static int take(struct connection *connection, int64_t *latencies) {
    char buffer[SIZE * 64];
    int done = 0;
    ssize_t got = recv(connection->fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (got <= 0)
        fail("recv");
    for (connection->received += got; connection->received >= SIZE; connection->received -= SIZE) {
        latencies[done++] = now() - connection->due[connection->first];
        connection->first = (connection->first + 1) % QUEUE;
        connection->count--;
    }
    return done;
}

int main(int argc, char **argv) {
    if (argc != 5)
        return fprintf(stderr, "usage: openloop PORT CONNECTIONS RATE SECONDS\n"), 2;
    int count = atoi(argv[2]), rate = atoi(argv[3]), sent = 0, done = 0, epoll = epoll_create1(0);
    int total = rate * atoi(argv[4]);
    struct connection *all = calloc(count, sizeof *all);
    int64_t *latencies = calloc(total + 64, sizeof *latencies);
    for (int i = 0; i < count; i++)
        open_connection(&all[i], atoi(argv[1]), epoll);
    char message[SIZE] = {0};
    int64_t start = now() + 100000000;
    while (done < total) {
        int64_t due = start + (int64_t)sent * 1000000000 / rate, time = now();
        while (sent < total && due <= time) {
            struct connection *one = &all[sent % count];
            if (one->count == QUEUE)
                return fprintf(stderr, "no answer for too long\n"), 1;
            one->due[(one->first + one->count++) % QUEUE] = due;
            if (send(one->fd, message, SIZE, MSG_NOSIGNAL) != SIZE)
                fail("send");
            due = start + (int64_t)++sent * 1000000000 / rate;
        }
        struct epoll_event events[64];
        struct timespec wait = {0, due > time && sent < total ? due - time : 1000000};
        int ready = epoll_pwait2(epoll, events, 64, &wait, NULL);
        for (int i = 0; i < ready; i++)
            done += take(events[i].data.ptr, latencies + done);
        if (now() - start > (int64_t)(atoi(argv[4]) + 30) * 1000000000)
            return fprintf(stderr, "answers are missing\n"), 1;
    }
    qsort(latencies, total, sizeof *latencies, ascending);
    printf("{\"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": %.1f}\n", latencies[total / 2] / 1e3,
           latencies[(int64_t)total * 99 / 100] / 1e3, latencies[(int64_t)total * 999 / 1000] / 1e3,
           latencies[total - 1] / 1e3);
    return 0;
}
