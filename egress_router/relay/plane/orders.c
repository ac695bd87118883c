/* Python's calls: each checks its arguments and sends a command to the data plane. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "module.h"

enum { MAX_UNRUNG = 16 }; /* commands: with more, the first one does not wait until a long turn of the loop ends */

/* Wakes the thread for its commands, unless it is awake and takes them anyway. */
void wake(Plane *self) {
    self->rung = self->sent;
    if (atomic_exchange(&self->plane->asleep, false))
        (void)!write(self->plane->bell, &(uint64_t){1}, sizeof(uint64_t));
}

PyObject *plane_ring(Plane *self, PyObject *Py_UNUSED(none)) {
    if (self->rung != self->sent)
        wake(self);
    Py_RETURN_NONE;
}

/* Sends a command; false, with an exception set, if there is no memory or the thread has ended. */
bool command(Plane *self, enum what what, void *with, void *also, int64_t number) {
    struct command *made = self->running ? calloc(1, sizeof *made) : NULL;
    if (!made) {
        if (self->running)
            PyErr_NoMemory();
        else
            PyErr_SetString(PyExc_RuntimeError, "the data plane has stopped");
        return false;
    }
    *made = (struct command){.node.kind = NODE_COMMAND, .what = what, .with = with, .also = also, .number = number};
    self->sent++;
    queue_put(&self->plane->commands, &made->node);
    if (!self->rings_late || self->sent - self->rung >= MAX_UNRUNG)
        wake(self);
    return true;
}

/* Targets */

static struct targets *targets_new(PyObject *values, const Py_buffer *list, int good) {
    Py_ssize_t count = PyTuple_Size(values);
    if (count < 0)
        return NULL;
    if (list->len != count * (Py_ssize_t)sizeof(struct address) || good < 0 || good > count) {
        PyErr_SetString(PyExc_ValueError, "one address for each value");
        return NULL;
    }
    struct targets *targets = calloc(1, sizeof *targets + (size_t)list->len);
    if (!targets)
        return (struct targets *)PyErr_NoMemory();
    targets->node.kind = NODE_TARGETS;
    targets->refs = 1;
    targets->count = (int)count;
    targets->good = good;
    targets->values = Py_NewRef(values);
    memcpy(targets->list, list->buf, (size_t)list->len);
    return targets;
}

void targets_free(struct targets *targets) {
    Py_DECREF((PyObject *)targets->values);
    Py_XDECREF((PyObject *)targets->owner);
    free(targets);
}

/* Pairs */

static struct pair *pair_new(Pair *object, int client, int upstream, double idle) {
    if (object->pair) {
        PyErr_SetString(PyExc_RuntimeError, "begun already");
        return NULL;
    }
    struct pair *pair = calloc(1, sizeof *pair);
    if (!pair)
        return (struct pair *)PyErr_NoMemory();
    pair->node.kind = NODE_PAIR;
    pair->peers[CLIENT] = (struct peer){.kind = PEER_CLIENT, .no_delay = true, .fd = client};
    pair->peers[UPSTREAM] = (struct peer){.kind = PEER_UPSTREAM, .no_delay = upstream >= 0, .fd = upstream};
    pair->idle = from_seconds(idle);
    pair->given = pair->given_upstream = -1;
    pair->told = true;
    return pair;
}

/* From here on Python only reads the connection's counters and its end; its object lives until then. */
static PyObject *begin(Plane *self, Pair *object, struct pair *pair, struct command order) {
    if (!command(self, order.what, pair, order.also, order.number)) {
        for (int side = CLIENT; side <= UPSTREAM; side++)
            flow_release(self->plane, &pair->flows[side]);
        if (pair->targets)
            targets_free(pair->targets);
        free(pair);
        return NULL;
    }
    object->pair = pair;
    pair->object = Py_NewRef((PyObject *)object);
    Py_RETURN_NONE;
}

PyObject *plane_relay(Plane *self, PyObject *arguments) {
    Pair *object;
    PyObject *admission;
    int client, upstream;
    double idle;
    Py_buffer up, down;
    if (!PyArg_ParseTuple(arguments, "O!iidy*y*O", pair_type, &object, &client, &upstream, &idle, &up, &down,
                          &admission))
        return NULL;
    struct pair *admitted = PyObject_TypeCheck(admission, pair_type) ? ((Pair *)admission)->pair : NULL;
    struct pair *pair = pair_new(object, client, upstream, idle);
    PyObject *result = NULL;
    if (pair && !(flow_hold(self->plane, &pair->flows[CLIENT], up.buf, (size_t)up.len) &&
                  flow_hold(self->plane, &pair->flows[UPSTREAM], down.buf, (size_t)down.len))) {
        flow_release(self->plane, &pair->flows[CLIENT]);
        free(pair);
        PyErr_NoMemory();
    } else if (pair) {
        result = begin(self, object, pair, (struct command){.what = COMMAND_RELAY, .also = admitted});
    }
    PyBuffer_Release(&up);
    PyBuffer_Release(&down);
    return result;
}

PyObject *plane_dial(Plane *self, PyObject *arguments) {
    Pair *object;
    PyObject *values;
    Py_buffer list;
    double seconds, stagger;
    unsigned turns;
    if (!PyArg_ParseTuple(arguments, "O!O!y*ddI", pair_type, &object, &PyTuple_Type, &values, &list, &seconds, &stagger,
                          &turns))
        return NULL;
    PyObject *result = NULL;
    struct targets *targets = targets_new(values, &list, (int)PyTuple_Size(values));
    struct pair *pair = targets ? pair_new(object, -1, -1, seconds) : NULL;
    if (pair) {
        pair->targets = targets;
        pair->turns = turns;
        result = begin(self, object, pair, (struct command){.what = COMMAND_DIAL, .number = from_seconds(stagger)});
    } else if (targets) {
        targets_free(targets);
    }
    PyBuffer_Release(&list);
    return result;
}

/* How often a connection that was handed over has come back. To be asked when its first request has come: whoever made
 * the connection has noted it by then. The thread does not read what is written here. */
PyObject *plane_turns(Plane *self, PyObject *arguments) {
    Pair *admission;
    int fd;
    if (!PyArg_ParseTuple(arguments, "O!i", pair_type, &admission, &fd))
        return NULL;
    if (admission->pair)
        own_look(self->plane, admission->pair, fd);
    return PyLong_FromUnsignedLong(admission->pair ? admission->pair->turns : 0);
}

PyObject *plane_cut(Plane *self, PyObject *object) {
    if (!PyObject_TypeCheck(object, pair_type))
        return PyErr_Format(PyExc_TypeError, "not a pair");
    struct pair *pair = ((Pair *)object)->pair;
    if (pair && self->running && !command(self, COMMAND_CUT, pair, NULL, 0))
        return NULL;
    Py_RETURN_NONE;
}

/* Lines */

int line_init(Line *self, PyObject *arguments, PyObject *Py_UNUSED(names)) {
    double connect, idle;
    unsigned turn;
    int tells = 1, hands_over = 0;
    const char *host = NULL;
    if (!PyArg_ParseTuple(arguments, "ddI|ppz", &connect, &idle, &turn, &tells, &hands_over, &host))
        return -1;
    if (self->line || !(self->line = calloc(1, sizeof *self->line))) {
        PyErr_NoMemory();
        return -1;
    }
    if (host && !(self->line->host = strdup(host))) {
        free(self->line);
        self->line = NULL;
        PyErr_NoMemory();
        return -1;
    }
    self->line->node.kind = NODE_LINE;
    self->line->refs = 1;
    self->line->connect = from_seconds(connect);
    self->line->idle = from_seconds(idle);
    self->line->turn = turn;
    self->line->tells = tells;
    self->line->hands_over = hands_over;
    self->line->object = Py_NewRef((PyObject *)self);
    return 0;
}

static struct line *line_of(PyObject *object) {
    struct line *line = PyObject_TypeCheck(object, line_type) ? ((Line *)object)->line : NULL;
    if (!line)
        PyErr_SetString(PyExc_TypeError, "not a line that is in use");
    return line;
}

PyObject *plane_listen(Plane *self, PyObject *arguments) {
    PyObject *object;
    int fd;
    if (!PyArg_ParseTuple(arguments, "iO", &fd, &object))
        return NULL;
    struct line *line = line_of(object);
    struct listener *listener = line ? calloc(1, sizeof *listener) : NULL;
    if (!listener)
        return line ? PyErr_NoMemory() : NULL;
    *listener = (struct listener){.kind = LISTENER, .fd = fd, .line = line};
    if (!command(self, COMMAND_LISTEN, listener, NULL, 0)) {
        free(listener);
        return NULL;
    }
    Py_RETURN_NONE;
}

PyObject *plane_stop_listening(Plane *self, PyObject *number) {
    long fd = PyLong_AsLong(number);
    if ((fd == -1 && PyErr_Occurred()) || !command(self, COMMAND_STOP_LISTENING, NULL, NULL, fd))
        return NULL;
    Py_RETURN_NONE;
}

/* What known.c relies on: it has no turns, and no second attempt. */
static bool has_one(Py_ssize_t targets) {
    if (targets != 1)
        PyErr_Format(PyExc_ValueError, "a known line has one target, not %zd", targets);
    return targets == 1;
}

PyObject *plane_aim(Plane *self, PyObject *arguments) {
    PyObject *object, *values;
    Py_buffer list;
    int good, refuses;
    if (!PyArg_ParseTuple(arguments, "OO!y*ii", &object, &PyTuple_Type, &values, &list, &good, &refuses))
        return NULL;
    struct line *line = line_of(object);
    Py_ssize_t count = PyTuple_Size(values);
    bool fits = line && (!((Line *)object)->known || has_one(count));
    struct targets *targets = fits && count ? targets_new(values, &list, good) : NULL;
    PyBuffer_Release(&list);
    if (PyErr_Occurred())
        return NULL;
    if (((Line *)object)->released) { /* the thread may have given it back before this command */
        if (targets)
            targets_free(targets);
        Py_RETURN_NONE;
    }
    if (targets)
        targets->owner = Py_NewRef(object);
    if (!command(self, COMMAND_AIM, line, targets, refuses)) {
        if (targets)
            targets_free(targets);
        return NULL;
    }
    ((Line *)object)->targets = count;
    Py_RETURN_NONE;
}

/* Known heads */

PyObject *plane_know(Plane *self, PyObject *arguments) {
    PyObject *acceptor, *line;
    const char *head;
    Py_ssize_t length;
    double seconds;
    if (!PyArg_ParseTuple(arguments, "OOy#d", &acceptor, &line, &head, &length, &seconds))
        return NULL;
    if (!line_of(acceptor) || !line_of(line) || !has_one(((Line *)line)->targets))
        return NULL;
    if (length > MAX_KNOWN_HEAD)
        return PyErr_Format(PyExc_ValueError, "a head of %zd bytes is too long", length);
    struct known *known = malloc(sizeof *known + (size_t)length);
    if (!known)
        return PyErr_NoMemory();
    *known = (struct known){.line = line_of(line), .ends = from_seconds(seconds), .length = (uint32_t)length};
    memcpy(known->head, head, (size_t)length);
    if (!command(self, COMMAND_KNOW, known, line_of(acceptor), 0)) {
        free(known);
        return NULL;
    }
    ((Line *)line)->known = true;
    Py_RETURN_NONE;
}

PyObject *plane_forget(Plane *self, PyObject *Py_UNUSED(none)) {
    if (!command(self, COMMAND_FORGET, NULL, NULL, 0))
        return NULL;
    Py_RETURN_NONE;
}

PyObject *plane_end_line(Plane *self, PyObject *object) {
    struct line *line = line_of(object);
    if (!line || !command(self, COMMAND_END_LINE, line, NULL, 0))
        return NULL;
    Py_RETURN_NONE;
}

PyObject *plane_release_line(Plane *self, PyObject *object) {
    struct line *line = line_of(object);
    if (!line || !command(self, COMMAND_RELEASE_LINE, line, NULL, 0))
        return NULL;
    ((Line *)object)->released = true;
    Py_RETURN_NONE;
}
