/* Recognises a connection that this router made itself, whatever address translation lies between.
 *
 * A line that leads to this router's own Service brings each connection back as a new one, and so on without end.
 * Its peer is no own address: the node hides a pod that reaches itself through a Service. But address translation
 * leaves the timestamp of the first packet alone (RFC 7323 3). Linux counts it in milliseconds from a random 32-bit
 * number that each connection has for itself, so who made the connection knows what who accepts it must see.
 * An unrelated connection agrees by chance once in some hundred thousand, when a thousand of ours are noted. So one
 * match is no loop yet; a second one in a row is: a connection that comes back, made for one that came back. Which
 * worker gets it is the kernel's choice, so each of them sees what all have made.
 *
 * relay/own_connections.py does the same for connections that Python accepts.
 */
#define _GNU_SOURCE
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include "plane.h"

enum {
    EARLY = 2,         /* ms: the kernel rounds the two differently */
    SLACK = 10,        /* ms from the first packet to where its timestamp is noted: the same thread goes on at once */
    SAVED_BYTES = 128, /* the headers of IPv6 and of TCP with all its options */
    TCP_HEADER = 20,
    IPV6_HEADER = 40,
    OPTION_END = 0,
    OPTION_NOTHING = 1,
    OPTION_TIMESTAMP = 8,
};
#define KEPT (5 * SECOND) /* longer than a first packet takes through a cluster, and to be accepted */

static struct made *made_by(struct plane *plane, int place) {
    return (struct made *)(void *)(plane->made + (size_t)place * plane->share);
}

/* Call it as soon as connect(2) has sent the first packet. */
void own_note(struct plane *plane, int fd, uint32_t turns) {
    uint32_t stamp;
    if (getsockopt(fd, IPPROTO_TCP, TCP_TIMESTAMP, &stamp, &(socklen_t){sizeof stamp}) < 0)
        return;
    struct made *made = made_by(plane, plane->place);
    uint64_t count = atomic_load_explicit(&made->count, memory_order_relaxed);
    struct own *own = &made->own[count % MOST_OWN];
    atomic_store_explicit(&own->stamp, stamp, memory_order_relaxed);
    atomic_store_explicit(&own->turns, turns, memory_order_relaxed);
    atomic_store_explicit(&own->made, plane->now, memory_order_relaxed);
    atomic_store_explicit(&made->count, count + 1, memory_order_release);
}

/* The timestamp in the headers of a connection's first packet; false where it has none. */
static bool first_timestamp(const uint8_t *packet, size_t length, uint32_t *stamp) {
    if (!length)
        return false;
    size_t at = packet[0] >> 4 == 6 ? IPV6_HEADER : (size_t)(packet[0] & 15) * 4;
    at += TCP_HEADER;
    while (at + 1 < length && packet[at] != OPTION_END) {
        size_t size = packet[at] == OPTION_NOTHING ? 1 : packet[at + 1];
        if (packet[at] == OPTION_TIMESTAMP && at + 6 <= length) {
            memcpy(stamp, packet + at + 2, sizeof *stamp);
            *stamp = ntohl(*stamp);
            return true;
        }
        if (!size)
            return false;
        at += size;
    }
    return false;
}

static bool is_late(struct plane *plane, const struct own *own) {
    return plane->now - atomic_load_explicit(&own->made, memory_order_relaxed) > KEPT;
}

/* Those that a process has made lately; none while none of them could come back. */
static uint64_t known_of(struct plane *plane, const struct made *made, uint64_t count) {
    if (!count || is_late(plane, &made->own[(count - 1) % MOST_OWN]))
        return 0;
    return count < MOST_OWN ? count : MOST_OWN;
}

static uint32_t turns_of(struct plane *plane, const struct made *made, uint32_t stamp) {
    uint64_t count = atomic_load_explicit(&made->count, memory_order_acquire);
    uint64_t known = known_of(plane, made, count);
    uint32_t found = 0;
    for (uint64_t i = 1; i <= known; i++) {
        const struct own *own = &made->own[(count - i) % MOST_OWN];
        if (is_late(plane, own))
            break;
        uint32_t turns = atomic_load_explicit(&own->turns, memory_order_relaxed);
        uint32_t before = atomic_load_explicit(&own->stamp, memory_order_relaxed) + EARLY - stamp;
        if (before <= EARLY + SLACK && turns >= found)
            found = turns + 1;
    }
    return found;
}

static bool knows_any(struct plane *plane) {
    for (int place = 0; place < plane->places; place++) {
        struct made *made = made_by(plane, place);
        if (known_of(plane, made, atomic_load_explicit(&made->count, memory_order_acquire)))
            return true;
    }
    return false;
}

/* How often a connection that was accepted has come back. Costs next to nothing while none of ours could. */
uint32_t own_turns(struct plane *plane, int fd) {
    uint8_t packet[SAVED_BYTES];
    socklen_t length = sizeof packet;
    uint32_t stamp;
    if (!knows_any(plane) || getsockopt(fd, IPPROTO_TCP, TCP_SAVED_SYN, packet, &length) < 0 ||
        !first_timestamp(packet, length, &stamp))
        return 0;
    uint32_t turns = 0;
    for (int place = 0; place < plane->places; place++) {
        uint32_t found = turns_of(plane, made_by(plane, place), stamp);
        turns = found > turns ? found : turns;
    }
    return turns;
}
