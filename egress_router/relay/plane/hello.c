/* Finds the name in a simple ClientHello: complete, in one record, with nothing doubtful.
 *
 * tls/client_hello.py reads all ClientHellos, and gives the reason of each check. What is refused here is read there.
 * So this code may refuse what is right, but must not accept what tls/client_hello.py refuses.
 */
#include <string.h>
#include <strings.h>

#include "thread.h"

enum {
    HANDSHAKE = 22,
    CLIENT_HELLO = 1,
    MAX_MINOR_VERSION = 4,
    MAX_HELLO = 1 << 14,
    RECORD_HEADER = 5,
    VERSION_AND_RANDOM = 34,
    MAX_SESSION_ID = 32,
    MAX_EXTENSIONS = 64, /* Chrome sends 18 */
    SERVER_NAME = 0,
    PRE_SHARED_KEY = 41,
    HOST_NAME = 0,
};

struct bytes {
    const uint8_t *at;
    size_t left;
};

/* Takes a field from the front; false if there are too few bytes. */
static bool take(struct bytes *from, size_t count, struct bytes *field) {
    if (count > from->left)
        return false;
    *field = (struct bytes){from->at, count};
    from->at += count;
    from->left -= count;
    return true;
}

static bool number(struct bytes *from, size_t width, size_t *value) {
    struct bytes field;
    if (!take(from, width, &field))
        return false;
    for (*value = 0; field.left; field.left--)
        *value = *value << 8 | *field.at++;
    return true;
}

/* Takes a vector, which begins with its length (RFC 8446 3.4). */
static bool vector(struct bytes *from, size_t width, struct bytes *field) {
    size_t length;
    return number(from, width, &length) && take(from, length, field);
}

/* Reads a list of exactly one host name; any other list is refused. */
static bool read_server_name(struct bytes extension, struct bytes *name) {
    struct bytes list;
    size_t kind;
    return vector(&extension, 2, &list) && !extension.left && number(&list, 1, &kind) && kind == HOST_NAME &&
           vector(&list, 2, name) && !list.left && name->left;
}

static bool read_extensions(struct bytes block, struct bytes *name) {
    size_t seen[MAX_EXTENSIONS], count = 0, kind;
    struct bytes extension;
    while (block.left) {
        if (count == MAX_EXTENSIONS || !number(&block, 2, &kind) || !vector(&block, 2, &extension))
            return false;
        for (size_t i = 0; i < count; i++)
            if (seen[i] == kind || seen[i] == PRE_SHARED_KEY) /* pre_shared_key has to be the last: RFC 8446 4.2.11 */
                return false;
        if (kind == SERVER_NAME && !read_server_name(extension, name))
            return false;
        seen[count++] = kind;
    }
    return true;
}

/* Reads the name, which is empty if there is none. */
static bool read_hello(const char *data, size_t size, struct bytes *name) {
    struct bytes all = {(const uint8_t *)data, size}, record, message, field;
    size_t kind, major, minor;
    *name = (struct bytes){NULL, 0};
    if (!number(&all, 1, &kind) || kind != HANDSHAKE || !number(&all, 1, &major) || major != 3 ||
        !number(&all, 1, &minor) || minor > MAX_MINOR_VERSION || !vector(&all, 2, &record) ||
        RECORD_HEADER + record.left > MAX_HELLO)
        return false;
    if (!number(&record, 1, &kind) || kind != CLIENT_HELLO || !vector(&record, 3, &message) || record.left)
        return false;
    if (!take(&message, VERSION_AND_RANDOM, &field) || !vector(&message, 1, &field) || field.left > MAX_SESSION_ID)
        return false;
    if (!vector(&message, 2, &field) || !field.left || field.left % 2) /* cipher suites */
        return false;
    if (!vector(&message, 1, &field) || !field.left) /* compression methods */
        return false;
    return !message.left || (vector(&message, 2, &field) && !message.left && read_extensions(field, name));
}

bool is_tls(const char *data, size_t size) { return size && data[0] == HANDSHAKE; }

/* Whether the first bytes of a tunnel are not TLS, or a ClientHello that names this host or none. A final dot or
 * another form of the name does not fit. */
bool hello_fits(const char *data, size_t size, const char *host) {
    struct bytes name;
    if (size && !is_tls(data, size))
        return true;
    return read_hello(data, size, &name) && (!name.left || (name.left == strlen(host) &&
                                             strncasecmp((const char *)name.at, host, name.left) == 0));
}

/* Writes the name in lower case, as rules compare it. Returns its length; 0: there is none, or it is refused. */
size_t hello_name(const char *data, size_t size, char name[MAX_NAME]) {
    struct bytes found;
    if (!read_hello(data, size, &found) || found.left > MAX_NAME)
        return 0;
    for (size_t i = 0; i < found.left; i++)
        name[i] = found.at[i] >= 'A' && found.at[i] <= 'Z' ? (char)(found.at[i] | 0x20) : (char)found.at[i];
    return found.left;
}
