/* Client and server in one thread: alone SERVER_NETNS PORT ADDRESS PORT_THERE CPU BATCHES.
 *
 * Listens on PORT in another network namespace, and connects to it by ADDRESS:PORT_THERE. Everything is on
 * one CPU with a real-time priority: what the kernel does for a packet on its way over veth interfaces, it does
 * inside of the system call that sends it. So the time that passes is the time that the machine works, on a
 * busy one, too. Prints the microseconds of a short connection and of a round trip: lower quartiles over batches. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, TURNS = 4, WARM_UP = 3, REQUEST = 64, ANSWER = 168 };

static struct sockaddr_in there;
static int listening, ours[BATCH], theirs[BATCH];
static char bytes[4096];

static void check(int is_fine, const char *what) {
    if (!is_fine) {
        perror(what);
        exit(1);
    }
}

static struct sockaddr_in place(const char *address, const char *port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    check(inet_aton(address, &at.sin_addr), address);
    return at;
}

static int tcp_socket(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    check(fd >= 0, "socket");
    return fd;
}

static void listen_in(const char *namespace, struct sockaddr_in at) {
    int home = open("/proc/self/ns/net", O_RDONLY), other = open(namespace, O_RDONLY), one = 1;
    check(other >= 0 && !setns(other, CLONE_NEWNET), namespace);
    listening = tcp_socket();
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    check(!bind(listening, (struct sockaddr *)&at, sizeof at) && !listen(listening, 4096), "listen");
    check(!setns(home, CLONE_NEWNET), "setns");
}

/* Gives the CPU away only where there is something to wait for: a process in the middle, or a lost packet. */
static void await(int fd) {
    struct pollfd wanted = {.fd = fd, .events = POLLIN};
    check(poll(&wanted, 1, 5000) == 1, "no answer in 5 s");
}

static void receive(int fd, int length) {
    while (length > 0) {
        await(fd);
        ssize_t n = recv(fd, bytes, sizeof bytes, 0);
        check(n > 0, "recv");
        length -= n;
    }
}

static void give(int fd, int length) {
    check(send(fd, bytes, length, MSG_NOSIGNAL) == length, "send");
}

static void connect_all(void) {
    int one = 1;
    for (int i = 0; i < BATCH; i++) {
        ours[i] = tcp_socket();
        setsockopt(ours[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        connect(ours[i], (struct sockaddr *)&there, sizeof there);
    }
    for (int i = 0; i < BATCH; i++) {
        struct pollfd connected = {.fd = ours[i], .events = POLLOUT};
        check(poll(&connected, 1, 5000) == 1, "no connection in 5 s");
        give(ours[i], REQUEST);
    }
    for (int i = 0; i < BATCH; i++) {
        await(listening);
        theirs[i] = accept4(listening, 0, 0, SOCK_NONBLOCK);
        check(theirs[i] >= 0, "accept");
        setsockopt(theirs[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        receive(theirs[i], REQUEST);
    }
}

/* One GET a connection: the server closes first. */
static void short_connections(void) {
    connect_all();
    for (int i = 0; i < BATCH; i++) {
        give(theirs[i], ANSWER);
        close(theirs[i]);
    }
    for (int i = 0; i < BATCH; i++) {
        receive(ours[i], ANSWER);
        await(ours[i]);
        check(recv(ours[i], bytes, sizeof bytes, 0) == 0, "no end");
        close(ours[i]);
    }
}

static void round_trips(void) {
    for (int turn = 0; turn < TURNS; turn++) {
        for (int i = 0; i < BATCH; i++)
            give(ours[i], REQUEST);
        for (int i = 0; i < BATCH; i++) {
            receive(theirs[i], REQUEST);
            give(theirs[i], REQUEST);
        }
        for (int i = 0; i < BATCH; i++)
            receive(ours[i], REQUEST);
    }
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quartile(void (*work)(void), int batches, int operations) {
    double *times = calloc(batches, sizeof *times);
    for (int i = -WARM_UP; i < batches; i++) {
        struct timespec begun, ended;
        clock_gettime(CLOCK_MONOTONIC, &begun);
        work();
        clock_gettime(CLOCK_MONOTONIC, &ended);
        if (i >= 0)
            times[i] = (ended.tv_sec - begun.tv_sec) * 1e6 + (ended.tv_nsec - begun.tv_nsec) / 1e3;
    }
    qsort(times, batches, sizeof *times, by_size);
    double found = times[batches / 4] / operations;
    free(times);
    return found;
}

static void use_one_cpu(int cpu) {
    struct sched_param priority = {.sched_priority = 1};
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    check(!sched_setaffinity(0, sizeof set, &set), "sched_setaffinity");
    check(!sched_setscheduler(0, SCHED_FIFO, &priority), "sched_setscheduler");
}

int main(int argc, char **argv) {
    if (argc != 7) {
        fprintf(stderr, "usage: alone SERVER_NETNS PORT ADDRESS PORT_THERE CPU BATCHES\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int batches = atoi(argv[6]);
    listen_in(argv[1], place("0.0.0.0", argv[2]));
    there = place(argv[3], argv[4]);
    use_one_cpu(atoi(argv[5]));
    double connection = quartile(short_connections, batches, BATCH);
    connect_all();
    double trip = quartile(round_trips, batches, BATCH * TURNS);
    printf("%.3f %.3f\n", connection, trip);
    return 0;
}
