/* The module's types, and the life of a data plane: its start, the end of its thread, and what is freed then. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "module.h"

PyTypeObject *pair_type, *line_type;

static PyObject *pair_moved(Pair *self, void *direction) {
    struct flow *flow = self->pair ? &self->pair->flows[(intptr_t)direction] : NULL;
    return PyLong_FromUnsignedLongLong(flow ? atomic_load_explicit(&flow->moved, memory_order_relaxed) : 0);
}

static PyObject *line_hits(Line *self, void *Py_UNUSED(closure)) {
    return PyLong_FromUnsignedLongLong(self->line ? atomic_load(&self->line->hits) : 0);
}

static PyObject *line_open(Line *self, void *Py_UNUSED(closure)) {
    return PyLong_FromLong(self->line ? atomic_load(&self->line->open) : 0);
}

/* Upper bounds of a histogram, in seconds. */
static bool read_bounds(struct bounds *bounds, PyObject *values) {
    Py_ssize_t count = PyTuple_Size(values);
    if (count > MAX_BOUNDS) {
        PyErr_SetString(PyExc_ValueError, "too many bounds");
        return false;
    }
    for (bounds->count = 0; bounds->count < count; bounds->count++)
        bounds->upper[bounds->count] = from_seconds(PyFloat_AsDouble(PyTuple_GetItem(values, bounds->count)));
    return !PyErr_Occurred();
}

static int plane_init(Plane *self, PyObject *arguments, PyObject *Py_UNUSED(names)) {
    double quiet;
    long long most_held;
    int slot, maximum, possible, of_client;
    Py_buffer counts, own;
    PyObject *connects, *lives;
    if (!PyArg_ParseTuple(arguments, "w*w*iiiidLO!O!", &counts, &own, &slot, &maximum, &possible, &of_client, &quiet,
                          &most_held, &PyTuple_Type, &connects, &PyTuple_Type, &lives))
        return -1;
    struct plane *plane = self->plane ? NULL : calloc(1, sizeof *plane);
    if (plane && !(read_bounds(&plane->connects, connects) && read_bounds(&plane->lives, lives))) {
        free(plane);
        PyBuffer_Release(&counts);
        PyBuffer_Release(&own);
        return -1;
    }
    if (!plane || slot < 0 || slot >= counts.len / (Py_ssize_t)sizeof(int32_t) ||
        own.len < (Py_ssize_t)sizeof *plane->made) {
        free(plane);
        PyBuffer_Release(&counts);
        PyBuffer_Release(&own);
        PyErr_SetString(PyExc_ValueError, "no memory, or no such slot in what is shared");
        return -1;
    }
    self->plane = plane;
    self->counts = counts;
    self->own = own;
    plane->worker_counts = counts.buf;
    plane->made = own.buf;
    plane->slots = (int)(counts.len / (Py_ssize_t)sizeof(int32_t));
    plane->slot = slot;
    plane->maximum = maximum;
    plane->possible = possible;
    plane->max_of_client = of_client;
    plane->most_held = most_held;
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
    /* Python handles signals: the thread must neither get them nor be woken by them. */
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
        wake(self);
        Py_BEGIN_ALLOW_THREADS
        pthread_join(self->plane->thread, NULL);
        Py_END_ALLOW_THREADS
    }
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

/* Waits until all commands that were sent before are done, and the events that the thread was acting on have become
 * news. */
static PyObject *plane_settle(Plane *self, PyObject *Py_UNUSED(none)) {
    if (self->running && !command(self, COMMAND_NOTHING, NULL, NULL, 0))
        return NULL;
    uint64_t sent = self->sent;
    if (self->running) {
        wake(self);
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
    return Py_BuildValue("(iKKKiiiLK)", atomic_load(&plane->open), (unsigned long long)plane->relayed[CLIENT],
                         (unsigned long long)plane->relayed[UPSTREAM], (unsigned long long)plane->pauses,
                         atomic_load(&plane->paused),
                         atomic_load(&plane->shortage_error), atomic_load(&plane->lent),
                         (long long)plane->held, (unsigned long long)plane->overflows);
}

static PyObject *plane_ring_late(Plane *self, PyObject *Py_UNUSED(none)) {
    self->rings_late = true;
    Py_RETURN_NONE;
}

static PyObject *plane_fileno(Plane *self, PyObject *Py_UNUSED(none)) {
    return PyLong_FromLong(self->plane->python_bell);
}

/* The thread has ended: frees what it would have freed, and drops the news that are left. */
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
        PyBuffer_Release(&self->counts);
        PyBuffer_Release(&self->own);
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
    METHOD(relay, METH_VARARGS),
    METHOD(dial, METH_VARARGS),
    METHOD(cut, METH_O),
    METHOD(turns, METH_VARARGS),
    METHOD(listen, METH_VARARGS),
    METHOD(stop_listening, METH_O),
    METHOD(aim, METH_VARARGS),
    METHOD(know, METH_VARARGS),
    METHOD(forget, METH_NOARGS),
    METHOD(end_line, METH_O),
    METHOD(release_line, METH_O),
    METHOD(ring, METH_NOARGS),
    METHOD(ring_late, METH_NOARGS),
    METHOD(collect, METH_O),
    METHOD(waiting, METH_NOARGS),
    METHOD(counts, METH_NOARGS),
    METHOD(fileno, METH_NOARGS),
    METHOD(settle, METH_NOARGS),
    METHOD(stop, METH_NOARGS),
    METHOD(sweep, METH_NOARGS),
    {0},
};

static PyGetSetDef pair_values[] = {
    {"sent", (getter)pair_moved, NULL, NULL, (void *)CLIENT},
    {"received", (getter)pair_moved, NULL, NULL, (void *)UPSTREAM},
    {0},
};

static PyGetSetDef line_values[] = {
    {"hits", (getter)line_hits, NULL, NULL, NULL},
    {"open", (getter)line_open, NULL, NULL, NULL},
    {0},
};

static PyType_Slot pair_slots[] = {{Py_tp_getset, pair_values}, {Py_tp_dealloc, plain_dealloc}, {0}};
static PyType_Slot line_slots[] = {
    {Py_tp_getset, line_values}, {Py_tp_init, line_init}, {Py_tp_dealloc, plain_dealloc}, {0}};
static PyType_Slot plane_slots[] = {
    {Py_tp_methods, plane_methods}, {Py_tp_init, plane_init}, {Py_tp_dealloc, plane_dealloc}, {0}};

static PyType_Spec specs[] = {
    {"egress_router.relay._plane.Pair", sizeof(Pair), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, pair_slots},
    {"egress_router.relay._plane.Forwarding", sizeof(Line), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, line_slots},
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
    if (module && PyModule_AddIntConstant(module, "OWN_BYTES", sizeof(struct made)) < 0)
        Py_CLEAR(module);
    if (module) {
        pair_type = types[0];
        line_type = types[1];
    }
    return module;
}
