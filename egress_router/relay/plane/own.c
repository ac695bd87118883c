/* Recognises a connection that this router made itself, whatever address translation lies between.
 *
 * A line that leads to this router's own Service brings each connection back as a new one, and so on without end.
 * Its peer is no own address: the node hides a pod that reaches itself through a Service. But address translation
 * leaves the timestamp of the first packet alone (RFC 7323 3). Linux counts it in milliseconds from a random 32-bit
 * number that each connection has for itself, so who made the connection knows what who accepts it must see.
 * An unrelated connection agrees by chance once in some hundred thousand, when a thousand of ours are noted. So one
 * match is no loop yet; a second one in a row is: a connection that comes back, made for one that came back.
 * The kernel may give it to any worker, so all of them note what they make in one table.
 */
#define _GNU_SOURCE
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include "plane.h"

enum {
    SPAN = 64,         /* ms, a power of two: what one place of the table stands for */
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

/* Call it as soon as connect(2) has sent the first packet. */
void own_note(struct plane *plane, int fd, uint32_t turns) {
    uint32_t stamp;
    if (getsockopt(fd, IPPROTO_TCP, TCP_TIMESTAMP, &stamp, &(socklen_t){sizeof stamp}) < 0)
        return;
    struct own *own = &plane->made->own[stamp / SPAN % MAX_OWN];
    own->stamp = stamp;
    own->turns = turns;
    own->made = plane->now;
    plane->made->latest = plane->now;
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

/* Finds out how often a connection that was accepted has come back. Costs nothing while none of ours could.
 * Another worker notes what it made microseconds after it may be accepted here: a second look later is surer. */
void own_look(struct plane *plane, struct pair *pair, int fd) {
    struct made *table = plane->made;
    nanoseconds latest = table->latest;
    if (!latest || pair->accepted - latest > KEPT)
        return;
    uint8_t packet[SAVED_BYTES];
    socklen_t length = sizeof packet;
    if (!pair->stamped)
        pair->stamped = getsockopt(fd, IPPROTO_TCP, TCP_SAVED_SYN, packet, &length) == 0 &&
                        first_timestamp(packet, length, &pair->stamp);
    if (!pair->stamped)
        return;
    const uint32_t ends[] = {pair->stamp - EARLY, pair->stamp + SLACK};
    for (int i = 0; i < 2; i++) {
        const struct own *own = &table->own[ends[i] / SPAN % MAX_OWN];
        nanoseconds made = own->made;
        uint32_t before = own->turns;
        bool recent = made && pair->accepted - made <= KEPT && made - pair->accepted <= KEPT;
        if (recent && own->stamp - ends[0] <= EARLY + SLACK && before >= pair->turns)
            pair->turns = before + 1;
    }
}
