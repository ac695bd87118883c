/* Recognises a connection that this router made itself, through any address translation.
 *
 * A line that leads to this router's own Service brings each connection back as a new one, without end. The peer is not
 * one of our addresses: the node hides a pod that reaches itself through a Service. But address translation does not
 * change the timestamp of the first packet (RFC 7323 3). Linux counts it in milliseconds from a random 32-bit number,
 * another one for each connection. So the maker of a connection knows which timestamp the acceptor will see.
 *
 * With a thousand of our connections noted, an unrelated one matches by chance once in some hundred thousand. So one
 * match is not a loop yet, but two in a row are: a connection came back that was made for one that came back.
 *
 * The kernel may give a connection to any worker, so all workers note what they make in one table. On a busy machine
 * the accepting worker may interrupt the maker before it has noted. So the acceptor, too, notes first and then looks,
 * and the maker notes and then looks whether the connection was accepted already: one of them always sees the other.
 */
#define _GNU_SOURCE
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include "thread.h"

enum {
    SPAN = 64,         /* ms that one place of the table stands for; a power of two */
    EARLY = 2,         /* ms: the kernel rounds the two timestamps differently */
    WIDEST = 40,       /* ms from before connect(2) to after it, if the thread was interrupted; less than SPAN */
    SAVED_BYTES = 128, /* IPv6 header, and TCP header with all options */
    TCP_HEADER = 20,
    IPV6_HEADER = 40,
    OPTION_END = 0,
    OPTION_NOTHING = 1,
    OPTION_TIMESTAMP = 8,
};
#define KEPT (5 * SECOND) /* longer than a first packet needs through a cluster and until it is accepted */

static uint32_t place_of(uint32_t stamp) { return stamp / SPAN % MAX_OWN; }

static void put(struct own *own, uint32_t stamp, uint32_t width, uint32_t turns, uint32_t client,
                nanoseconds made) {
    own->stamp = stamp;
    own->width = width;
    own->turns = turns;
    own->client = client;
    own->made = made;
}

static bool is_recent(nanoseconds made, nanoseconds other) {
    return made && other - made <= KEPT && made - other <= KEPT;
}

/* Notes a connection. Call it right after connect(2), which began at `begun` and has sent the first packet. If the
 * thread was interrupted in between, the packet's timestamp is lower than the socket's is now. Returns whether another
 * worker has accepted the connection already. */
bool own_note(struct plane *plane, const struct pair *pair, int fd, nanoseconds begun) {
    uint32_t stamp;
    if (getsockopt(fd, IPPROTO_TCP, TCP_TIMESTAMP, &stamp, &(socklen_t){sizeof stamp}) < 0)
        return false;
    uint32_t width = (uint32_t)((monotonic() - begun) / (SECOND / 1000));
    stamp -= width;
    width = width < WIDEST ? width : WIDEST;
    struct made *table = plane->made;
    put(&table->own[place_of(stamp)], stamp, width, pair->turns, pair->stamped ? pair->stamp : 0, begun);
    table->latest = begun;
    const uint32_t ends[] = {stamp - EARLY, stamp + width + EARLY};
    for (int i = 0; i < 2; i++) {
        const struct own *accepted = &table->accepted[place_of(ends[i])];
        if (is_recent(accepted->made, begun) && accepted->stamp - ends[0] <= width + 2 * EARLY)
            return true;
    }
    return false;
}

/* Reads the timestamp in the headers of a connection's first packet; false if there is none. */
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

static bool read_stamp(struct pair *pair, int fd) {
    uint8_t packet[SAVED_BYTES];
    socklen_t length = sizeof packet;
    if (!pair->stamped)
        pair->stamped = getsockopt(fd, IPPROTO_TCP, TCP_SAVED_SYN, packet, &length) == 0 &&
                        first_timestamp(packet, length, &pair->stamp);
    return pair->stamped;
}

/* How often a connection with this timestamp has come back, by what its maker noted; 0 if nothing was noted. */
static uint32_t turns_of(const struct made *table, uint32_t stamp, nanoseconds accepted, uint32_t *client) {
    const uint32_t ends[] = {stamp - EARLY - WIDEST, stamp + EARLY};
    uint32_t turns = 0;
    for (int i = 0; i < 2; i++) {
        const struct own *own = &table->own[place_of(ends[i])];
        bool recent = is_recent(own->made, accepted);
        uint32_t before = own->turns, its_client = own->client;
        if (recent && stamp + EARLY - own->stamp <= own->width + 2 * EARLY && before >= turns) {
            turns = before + 1;
            *client = its_client;
        }
    }
    return turns;
}

/* Whether a connection that was accepted may be one of ours; costs nothing if none was made lately. */
static bool may_be_own(const struct made *table, struct pair *pair, int fd) {
    nanoseconds latest = table->latest;
    return latest && pair->accepted - latest <= KEPT && read_stamp(pair, fd);
}

/* Finds out how often a connection that was accepted has come back. The worker that made it may note it microseconds
 * after it was accepted here, so a second look later is surer. */
void own_look(struct plane *plane, struct pair *pair, int fd) {
    const struct made *table = plane->made;
    if (!may_be_own(table, pair, fd))
        return;
    uint32_t client = 0, none, turns = turns_of(table, pair->stamp, pair->accepted, &client);
    /* Its maker may have accepted its client's connection before that one was noted. */
    uint32_t clients = client ? turns_of(table, client, pair->accepted, &none) : 0;
    turns = clients && clients >= turns ? clients + 1 : turns;
    if (turns > pair->turns)
        pair->turns = turns;
}

/* The same for a connection of a forwarded line, which is connected at once. */
void own_accepted(struct plane *plane, struct pair *pair, int fd) {
    struct made *table = plane->made;
    if (!may_be_own(table, pair, fd))
        return;
    struct own *accepted = &table->accepted[place_of(pair->stamp)];
    put(accepted, pair->stamp, 0, 0, 0, pair->accepted);
    own_look(plane, pair, fd);
    if (pair->turns)
        accepted->made = 0; /* found here already: its maker need not find it, too */
}
