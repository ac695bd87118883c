/* The interpreter's side: everything in here runs with its lock held, in one thread at a time. */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "commands.h"
#include "plane.h"

typedef struct {
    PyObject_HEAD
    struct pair *pair; /* null before it begins, and once its end was read */
} Pair;

typedef struct {
    PyObject_HEAD
    struct line *line;
} Line;

typedef struct {
    PyObject_HEAD
    struct plane *plane;
    uint64_t sent;      /* commands */
    struct node *taken; /* news that were taken and not read yet */
    Py_buffer seats;
    bool running;
} Plane;

static PyTypeObject *pair_type, *line_type;

static nanoseconds from_seconds(double seconds) {
    if (!(seconds > 0))
        return 0;
    return seconds > 1e9 ? 1000000000 * SECOND : (nanoseconds)(seconds * 1e9);
}

static double to_seconds(nanoseconds time) { return (double)time / 1e9; }

/* Sends a command; false, with an exception set, where there is no memory or no thread. */
static bool command(Plane *self, enum what what, void *with, void *also, int64_t number) {
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
    if (atomic_exchange(&self->plane->asleep, false))
        (void)!write(self->plane->bell, &(uint64_t){1}, sizeof(uint64_t));
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

static void targets_free(struct targets *targets) {
    Py_DECREF((PyObject *)targets->values);
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
    pair->given = -1;
    return pair;
}

/* Python never touches the connection again, except to read its end; its object lives until then. */
static PyObject *begin(Plane *self, Pair *object, struct pair *pair, enum what what, int64_t number) {
    if (!command(self, what, pair, NULL, number)) {
        for (int side = CLIENT; side <= UPSTREAM; side++)
            free(pair->flows[side].held);
        if (pair->targets)
            targets_free(pair->targets);
        free(pair);
        return NULL;
    }
    object->pair = pair;
    pair->object = Py_NewRef((PyObject *)object);
    Py_RETURN_NONE;
}

static PyObject *plane_relay(Plane *self, PyObject *arguments) {
    Pair *object;
    int client, upstream;
    double idle;
    Py_buffer up, down;
    if (!PyArg_ParseTuple(arguments, "O!iidy*y*", pair_type, &object, &client, &upstream, &idle, &up, &down))
        return NULL;
    struct pair *pair = pair_new(object, client, upstream, idle);
    PyObject *result = NULL;
    if (pair && !(flow_hold(&pair->flows[CLIENT], up.buf, (size_t)up.len) &&
                  flow_hold(&pair->flows[UPSTREAM], down.buf, (size_t)down.len))) {
        free(pair->flows[CLIENT].held);
        free(pair);
        PyErr_NoMemory();
    } else if (pair) {
        result = begin(self, object, pair, COMMAND_RELAY, 0);
    }
    PyBuffer_Release(&up);
    PyBuffer_Release(&down);
    return result;
}

static PyObject *plane_dial(Plane *self, PyObject *arguments) {
    Pair *object;
    PyObject *values;
    Py_buffer list;
    double seconds, stagger;
    if (!PyArg_ParseTuple(arguments, "O!O!y*dd", pair_type, &object, &PyTuple_Type, &values, &list, &seconds, &stagger))
        return NULL;
    PyObject *result = NULL;
    struct targets *targets = targets_new(values, &list, (int)PyTuple_Size(values));
    struct pair *pair = targets ? pair_new(object, -1, -1, seconds) : NULL;
    if (pair) {
        pair->targets = targets;
        result = begin(self, object, pair, COMMAND_DIAL, from_seconds(stagger));
    } else if (targets) {
        targets_free(targets);
    }
    PyBuffer_Release(&list);
    return result;
}

static PyObject *plane_cut(Plane *self, PyObject *object) {
    if (!PyObject_TypeCheck(object, pair_type))
        return PyErr_Format(PyExc_TypeError, "not a pair");
    struct pair *pair = ((Pair *)object)->pair;
    if (pair && self->running && !command(self, COMMAND_CUT, pair, NULL, 0))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *pair_moved(Pair *self, void *direction) {
    struct flow *flow = self->pair ? &self->pair->flows[(intptr_t)direction] : NULL;
    return PyLong_FromUnsignedLongLong(flow ? atomic_load_explicit(&flow->moved, memory_order_relaxed) : 0);
}

/* Lines */

static int line_init(Line *self, PyObject *arguments, PyObject *Py_UNUSED(names)) {
    double connect, idle;
    unsigned turn;
    int tells_source = 0, hands_over = 0;
    if (!PyArg_ParseTuple(arguments, "ddI|pp", &connect, &idle, &turn, &tells_source, &hands_over))
        return -1;
    if (self->line || !(self->line = calloc(1, sizeof *self->line))) {
        PyErr_NoMemory();
        return -1;
    }
    self->line->node.kind = NODE_LINE;
    self->line->refs = 1;
    self->line->connect = from_seconds(connect);
    self->line->idle = from_seconds(idle);
    self->line->turn = turn;
    self->line->tells_source = tells_source;
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

static PyObject *line_hits(Line *self, void *Py_UNUSED(closure)) {
    return PyLong_FromUnsignedLongLong(self->line ? atomic_load(&self->line->hits) : 0);
}

static PyObject *plane_listen(Plane *self, PyObject *arguments) {
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

static PyObject *plane_stop_listening(Plane *self, PyObject *number) {
    long fd = PyLong_AsLong(number);
    if ((fd == -1 && PyErr_Occurred()) || !command(self, COMMAND_STOP_LISTENING, NULL, NULL, fd))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *plane_aim(Plane *self, PyObject *arguments) {
    PyObject *object, *values;
    Py_buffer list;
    int good, refuses;
    if (!PyArg_ParseTuple(arguments, "OO!y*ii", &object, &PyTuple_Type, &values, &list, &good, &refuses))
        return NULL;
    struct line *line = line_of(object);
    struct targets *targets = line && PyTuple_Size(values) ? targets_new(values, &list, good) : NULL;
    PyBuffer_Release(&list);
    if (PyErr_Occurred())
        return NULL;
    if (!command(self, COMMAND_AIM, line, targets, refuses)) {
        if (targets)
            targets_free(targets);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *plane_end_line(Plane *self, PyObject *object) {
    struct line *line = line_of(object);
    if (!line || !command(self, COMMAND_END_LINE, line, NULL, 0))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *plane_release_line(Plane *self, PyObject *object) {
    struct line *line = line_of(object);
    if (!line || !command(self, COMMAND_RELEASE_LINE, line, NULL, 0))
        return NULL;
    Py_RETURN_NONE;
}

/* News */

static PyObject *client_text(const struct pair *pair) {
    char text[INET6_ADDRSTRLEN];
    bool old = IN6_IS_ADDR_V4MAPPED(&pair->client);
    inet_ntop(old ? AF_INET : AF_INET6, &pair->client.s6_addr[old ? 12 : 0], text, sizeof text);
    return PyUnicode_FromString(pair->line ? text : "");
}

static PyObject *value_of(const struct pair *pair, int target) {
    return Py_NewRef(PyTuple_GetItem(pair->targets->values, target));
}

static PyObject *failures_of(const struct pair *pair) {
    int count = pair->dial ? pair->dial->failed : 0;
    PyObject *failures = PyTuple_New(count);
    for (int i = 0; failures && i < count; i++) {
        const struct failure *failure = &pair->dial->failures[i];
        PyObject *one = Py_BuildValue("(Ni)", value_of(pair, failure->target), (int)failure->reason);
        if (!one || PyTuple_SetItem(failures, i, one) < 0)
            Py_CLEAR(failures);
    }
    return failures;
}

/* What tells a connection from others: its number, the client's port, and the source address and port towards
   the upstream (empty and 0: not known). */
static PyObject *identity_of(const struct pair *pair) {
    char text[INET6_ADDRSTRLEN] = "";
    bool old = pair->source.sin6_family == AF_INET;
    if (pair->source.sin6_family)
        inet_ntop(old ? AF_INET : AF_INET6,
                  old ? (const void *)&((const struct sockaddr_in *)&pair->source)->sin_addr : &pair->source.sin6_addr,
                  text, sizeof text);
    return Py_BuildValue("(Kisi)", (unsigned long long)pair->number, (int)ntohs(pair->client_port), text,
                         (int)ntohs(pair->source.sin6_port));
}

static PyObject *connected(const struct pair *pair, PyObject *object) {
    return Py_BuildValue("(OiNNdNN)", object, NEWS_CONNECTED, client_text(pair), value_of(pair, pair->target),
                         to_seconds(pair->connected - pair->started), failures_of(pair), identity_of(pair));
}

static PyObject *closed(const struct pair *pair, PyObject *object) {
    bool had_target = pair->connected && pair->targets;
    bool dialled = pair->reason == CONNECTED || !pair->connected;
    return Py_BuildValue("(OiNNiKKdNiN)", object, NEWS_CLOSED, client_text(pair),
                         had_target ? value_of(pair, pair->target) : Py_NewRef(Py_None), (int)pair->reason,
                         (unsigned long long)pair->flows[CLIENT].moved, (unsigned long long)pair->flows[UPSTREAM].moved,
                         to_seconds(pair->ended - (dialled ? pair->started : pair->connected)), failures_of(pair),
                         pair->given, identity_of(pair));
}

/* Python's object of a connection that it serves itself comes with its socket and what has come already. */
static PyObject *accepted(struct pair *pair, PyObject *object) {
    const struct flow *early = &pair->flows[CLIENT];
    Pair *made = (Pair *)PyObject_CallNoArgs((PyObject *)pair_type);
    if (!made)
        return NULL;
    made->pair = pair;
    pair->object = Py_NewRef((PyObject *)made);
    return Py_BuildValue("(Oi(Ni)Niy#)", object, NEWS_ACCEPTED, client_text(pair), (int)ntohs(pair->client_port), made,
                         pair->given, early->held ? early->held : "", (Py_ssize_t)early->held_to);
}

static bool append(PyObject *list, PyObject *record) {
    bool done = record && PyList_Append(list, record) == 0;
    Py_XDECREF(record);
    return done;
}

static bool read_pair(Plane *self, PyObject *list, struct pair *pair, unsigned news) {
    PyObject *object = pair->object ? pair->object : pair->line->object;
    bool done = true;
    /* Who was given the socket hears it with the end. */
    if (news & NEWS_ACCEPTED)
        done = append(list, accepted(pair, object));
    if (news & NEWS_CONNECTED)
        done = append(list, connected(pair, object));
    if (!(news & NEWS_CLOSED))
        return done;
    if (!pair->handed_over) /* else Python knows */
        done &= append(list, closed(pair, object));
    if (pair->object) {
        ((Pair *)pair->object)->pair = NULL;
        Py_DECREF((PyObject *)pair->object);
    }
    queue_put(&self->plane->commands, &pair->node);
    return done;
}

static bool read_news(Plane *self, PyObject *list, struct node *node) {
    unsigned news = node_news(node);
    struct line *line;
    switch ((enum node_kind)node->kind) {
    case NODE_PAIR:
        return read_pair(self, list, OWNER_OF(node, struct pair, node), news);
    case NODE_TARGETS:
        targets_free(OWNER_OF(node, struct targets, node));
        return true;
    case NODE_LINE:
        line = OWNER_OF(node, struct line, node);
        if (!(news & NEWS_GONE))
            return append(list, Py_BuildValue("(Oi)", (PyObject *)line->object, NEWS_WANTED));
        ((Line *)line->object)->line = NULL;
        Py_DECREF((PyObject *)line->object);
        free(line);
        return true;
    case NODE_COMMAND:
        break;
    }
    return true;
}

static PyObject *plane_collect(Plane *self, PyObject *number) {
    long most = PyLong_AsLong(number);
    uint64_t rung;
    if (most == -1 && PyErr_Occurred())
        return NULL;
    PyObject *list = PyList_New(0);
    if (!self->taken) {
        (void)!read(self->plane->python_bell, &rung, sizeof rung);
        atomic_store(&self->plane->rung, false);
        self->taken = queue_take(&self->plane->news);
    }
    while (list && self->taken && most-- > 0) {
        struct node *node = self->taken;
        self->taken = node->next;
        if (!read_news(self, list, node))
            Py_CLEAR(list);
    }
    return list;
}

/* Whether there are news that `collect` has not given out yet. */
static PyObject *plane_waiting(Plane *self, PyObject *Py_UNUSED(none)) {
    return PyBool_FromLong(self->taken || atomic_load(&self->plane->news.last));
}

/* The plane */

static int plane_init(Plane *self, PyObject *arguments, PyObject *Py_UNUSED(names)) {
    double quiet;
    int place, most, possible, of_client;
    Py_buffer seats;
    if (!PyArg_ParseTuple(arguments, "w*iiiid", &seats, &place, &most, &possible, &of_client, &quiet))
        return -1;
    struct plane *plane = self->plane ? NULL : calloc(1, sizeof *plane);
    if (!plane || place < 0 || place >= seats.len / (Py_ssize_t)sizeof(int32_t)) {
        free(plane);
        PyBuffer_Release(&seats);
        PyErr_SetString(PyExc_ValueError, "no memory, or no such place");
        return -1;
    }
    self->plane = plane;
    self->seats = seats;
    plane->seats = seats.buf;
    plane->places = (int)(seats.len / (Py_ssize_t)sizeof(int32_t));
    plane->place = place;
    plane->most = most;
    plane->possible = possible;
    plane->most_of_client = of_client;
    plane->quiet = from_seconds(quiet);
    if (getrandom(&plane->secret, sizeof plane->secret, 0) < 0)
        plane->secret = (uint64_t)(uintptr_t)plane;
    pthread_mutex_init(&plane->lock, NULL);
    pthread_cond_init(&plane->settled, NULL);
    plane->epoll = epoll_create1(EPOLL_CLOEXEC);
    plane->bell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    plane->python_bell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    static uint8_t bell = BELL;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &bell};
    sigset_t all, before;
    sigfillset(&all);
    /* Signals are Python's: the thread must not take them, nor be woken by them. */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = plane->epoll < 0 || plane->bell < 0 || plane->python_bell < 0 ||
                        epoll_ctl(plane->epoll, EPOLL_CTL_ADD, plane->bell, &event) < 0
                    ? errno
                    : pthread_create(&plane->thread, NULL, plane_run, plane);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    self->running = !error;
    if (error) {
        errno = error;
        PyErr_SetFromErrno(PyExc_OSError);
    }
    return error ? -1 : 0;
}

static PyObject *plane_stop(Plane *self, PyObject *Py_UNUSED(none)) {
    if (self->running && command(self, COMMAND_STOP, NULL, NULL, 0)) {
        self->running = false;
        Py_BEGIN_ALLOW_THREADS
        pthread_join(self->plane->thread, NULL);
        Py_END_ALLOW_THREADS
    }
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

/* Waits until everything that was commanded before is done, and what the thread was at has become news. */
static PyObject *plane_settle(Plane *self, PyObject *Py_UNUSED(none)) {
    if (self->running && !command(self, COMMAND_NOTHING, NULL, NULL, 0))
        return NULL;
    uint64_t sent = self->sent;
    if (self->running) {
        Py_BEGIN_ALLOW_THREADS
        pthread_mutex_lock(&self->plane->lock);
        while (self->plane->obeyed < sent)
            pthread_cond_wait(&self->plane->settled, &self->plane->lock);
        pthread_mutex_unlock(&self->plane->lock);
        Py_END_ALLOW_THREADS
    }
    Py_RETURN_NONE;
}

static PyObject *plane_counts(Plane *self, PyObject *Py_UNUSED(none)) {
    struct plane *plane = self->plane;
    return Py_BuildValue("(iKKKiii)", atomic_load(&plane->open), (unsigned long long)plane->relayed[CLIENT],
                         (unsigned long long)plane->relayed[UPSTREAM], (unsigned long long)plane->pauses,
                         atomic_load(&plane->paused),
                         atomic_load(&plane->shortage_error), atomic_load(&plane->lent));
}

static PyObject *plane_fileno(Plane *self, PyObject *Py_UNUSED(none)) {
    return PyLong_FromLong(self->plane->python_bell);
}

/* The thread has ended: what it would have freed is freed here, and what news are left are dropped. */
static PyObject *plane_sweep(Plane *self, PyObject *Py_UNUSED(none)) {
    struct plane *plane = self->plane;
    if (self->running)
        return PyErr_Format(PyExc_RuntimeError, "the data plane runs");
    for (;;) {
        struct node *node = queue_take(&plane->commands), *following;
        PyObject *list = PyLong_FromLong(1 << 30), *news = list ? plane_collect(self, list) : NULL;
        Py_XDECREF(list);
        Py_ssize_t count = news ? PyList_Size(news) : 0;
        Py_XDECREF(news);
        if (!node && !count && !plane->commands.last && !plane->news.last)
            Py_RETURN_NONE;
        for (; node; node = following) {
            following = node->next;
            if (node->kind == NODE_PAIR)
                pair_free(plane, OWNER_OF(node, struct pair, node));
            else
                free(OWNER_OF(node, struct command, node));
        }
    }
}

static void plane_dealloc(Plane *self) {
    struct plane *plane = self->plane;
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    if (plane) {
        Py_XDECREF(plane_stop(self, NULL));
        Py_XDECREF(plane_sweep(self, NULL));
        int descriptors[] = {plane->epoll, plane->bell, plane->python_bell};
        for (int i = 0; i < 3; i++)
            if (descriptors[i] >= 0)
                close(descriptors[i]);
        PyBuffer_Release(&self->seats);
        free(plane);
    }
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static void plain_dealloc(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

#define METHOD(name, flags) {#name, (PyCFunction)(void (*)(void))plane_##name, flags, NULL}

static PyMethodDef plane_methods[] = {
    METHOD(relay, METH_VARARGS),  METHOD(dial, METH_VARARGS),   METHOD(cut, METH_O),
    METHOD(listen, METH_VARARGS), METHOD(stop_listening, METH_O), METHOD(aim, METH_VARARGS),
    METHOD(end_line, METH_O),     METHOD(release_line, METH_O), METHOD(collect, METH_O),
    METHOD(settle, METH_NOARGS),  METHOD(stop, METH_NOARGS),    METHOD(sweep, METH_NOARGS), METHOD(waiting, METH_NOARGS), METHOD(counts, METH_NOARGS),
    METHOD(fileno, METH_NOARGS),  {0},
};

static PyGetSetDef pair_values[] = {
    {"sent", (getter)pair_moved, NULL, NULL, (void *)CLIENT},
    {"received", (getter)pair_moved, NULL, NULL, (void *)UPSTREAM},
    {0},
};

static PyGetSetDef line_values[] = {{"hits", (getter)line_hits, NULL, NULL, NULL}, {0}};

static PyType_Slot pair_slots[] = {{Py_tp_getset, pair_values}, {Py_tp_dealloc, plain_dealloc}, {0}};
static PyType_Slot line_slots[] = {
    {Py_tp_getset, line_values}, {Py_tp_init, line_init}, {Py_tp_dealloc, plain_dealloc}, {0}};
static PyType_Slot plane_slots[] = {
    {Py_tp_methods, plane_methods}, {Py_tp_init, plane_init}, {Py_tp_dealloc, plane_dealloc}, {0}};

static PyType_Spec specs[] = {
    {"egress_router.relay._plane.Pair", sizeof(Pair), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, pair_slots},
    {"egress_router.relay._plane.Line", sizeof(Line), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, line_slots},
    {"egress_router.relay._plane.Plane", sizeof(Plane), 0, Py_TPFLAGS_DEFAULT, plane_slots},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "_plane", .m_size = -1};

PyMODINIT_FUNC PyInit__plane(void) {
    PyObject *module = PyModule_Create(&definition);
    PyTypeObject *types[3];
    for (int i = 0; module && i < 3; i++) {
        types[i] = (PyTypeObject *)PyType_FromSpec(&specs[i]);
        if (!types[i] || PyModule_AddType(module, types[i]) < 0)
            Py_CLEAR(module);
    }
    if (module) {
        pair_type = types[0];
        line_type = types[1];
    }
    return module;
}
