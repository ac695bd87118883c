/* What the data plane tells Python: makes records from what the thread has put into the queue of news. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdlib.h>
#include <unistd.h>

#include "module.h"

static double to_seconds(nanoseconds time) { return (double)time / 1e9; }

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

/* What identifies a connection: its number, the client's port, and the source address and port towards the upstream
 * (empty and 0: not known). */
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
    bool dialled = pair->reason == CONNECTED || !pair->connected || is_known(pair);
    return Py_BuildValue("(OiNNiKKdNiNNN)", object, NEWS_CLOSED, client_text(pair),
                         had_target ? value_of(pair, pair->target) : Py_NewRef(Py_None), (int)pair->reason,
                         (unsigned long long)pair->flows[CLIENT].moved, (unsigned long long)pair->flows[UPSTREAM].moved,
                         to_seconds(pair->ended - (dialled ? pair->started : pair->connected)), failures_of(pair),
                         pair->given, identity_of(pair),
                         pair->first ? PyFloat_FromDouble(to_seconds(pair->first - pair->connected))
                                     : Py_NewRef(Py_None),
                         pair->line && pair->connected ? PyFloat_FromDouble(to_seconds(pair->connected - pair->started))
                                                       : Py_NewRef(Py_None));
}

/* For a known CONNECT that was answered and that Python continues: its line, the upstream's socket, and how long the
 * connection to it took. From here on Python counts it as open. */
static PyObject *known_upstream(struct pair *pair) {
    if (pair->line->acceptor)
        atomic_fetch_sub(&pair->line->open, 1);
    if (pair->given_upstream < 0)
        return Py_NewRef(Py_None);
    return Py_BuildValue("(Oid)", (PyObject *)pair->line->object, pair->given_upstream,
                         to_seconds(pair->dialled - pair->started));
}

/* A client that Python serves: its admission, which is made here, its socket, and the bytes that have come already. */
static PyObject *accepted(struct pair *pair, PyObject *object) {
    const struct flow *early = &pair->flows[CLIENT];
    Pair *made = (Pair *)PyObject_CallNoArgs((PyObject *)pair_type);
    if (!made)
        return NULL;
    made->pair = pair;
    pair->object = Py_NewRef((PyObject *)made);
    Py_ssize_t length = early->held ? (Py_ssize_t)early->held_to : 0;
    return Py_BuildValue("(Oi(Ni)Niy#N)", object, NEWS_ACCEPTED, client_text(pair), (int)ntohs(pair->client_port), made,
                         pair->given, early->held ? early->held : "", length, known_upstream(pair));
}

static uint64_t taken(_Atomic uint64_t *number) { return atomic_exchange_explicit(number, 0, memory_order_relaxed); }

/* Counts by upper bound, and the sum of all times. */
static PyObject *times_of(struct histogram *histogram, const struct bounds *bounds) {
    PyObject *counts = PyTuple_New(bounds->count + 1);
    for (int i = 0; counts && i <= bounds->count; i++) {
        PyObject *count = PyLong_FromUnsignedLongLong(taken(&histogram->counts[i]));
        if (!count || PyTuple_SetItem(counts, i, count) < 0)
            Py_CLEAR(counts);
    }
    return Py_BuildValue("(Nd)", counts, to_seconds((nanoseconds)taken(&histogram->total)));
}

static bool append(PyObject *list, PyObject *record) {
    bool done = record && PyList_Append(list, record) == 0;
    Py_XDECREF(record);
    return done;
}

/* Reasons, and how many connections were refused for each. */
static PyObject *refusals_of(struct sums *sums) {
    PyObject *list = PyList_New(0);
    for (int reason = 0; list && reason < REASONS; reason++) {
        uint64_t count = taken(&sums->refused[reason]);
        if (count && !append(list, Py_BuildValue("(iK)", reason, (unsigned long long)count)))
            Py_CLEAR(list);
    }
    return list;
}

static PyObject *summed(struct plane *plane, struct line *line) {
    struct sums *sums = &line->sums;
    return Py_BuildValue("(Oi(KKNNNN))", (PyObject *)line->object, NEWS_SUMMED, (unsigned long long)taken(&sums->sent),
                         (unsigned long long)taken(&sums->received), refusals_of(sums),
                         times_of(&sums->connects, &plane->connects), times_of(&sums->lives, &plane->lives),
                         times_of(&sums->firsts, &plane->connects));
}

static bool read_targets(PyObject *list, struct targets *targets, unsigned news) {
    bool done = true;
    for (int i = 0; news & NEWS_ANSWERED && i < targets->count; i++) {
        unsigned count = atomic_exchange(&targets->list[i].answered, 0);
        if (count)
            done &= append(list, Py_BuildValue("(OiOI)", (PyObject *)targets->owner, NEWS_ANSWERED,
                                               PyTuple_GetItem(targets->values, i), count));
    }
    if (news & NEWS_GONE)
        targets_free(targets);
    return done;
}

static bool read_line(Plane *self, PyObject *list, struct line *line, unsigned news) {
    bool done = true;
    if (news & NEWS_SUMMED)
        done = append(list, summed(self->plane, line));
    if (news & NEWS_GONE) {
        ((Line *)line->object)->line = NULL;
        Py_DECREF((PyObject *)line->object);
        free(line->host);
        free(line);
    } else if (news & NEWS_WANTED) {
        done &= append(list, Py_BuildValue("(Oi)", (PyObject *)line->object, NEWS_WANTED));
    }
    return done;
}

static bool read_pair(Plane *self, PyObject *list, struct pair *pair, unsigned news) {
    struct line *acceptor = pair->line && pair->handed_over ? pair->line->acceptor : NULL;
    PyObject *object = pair->object ? pair->object : acceptor ? acceptor->object : pair->line->object;
    bool done = true;
    if (news & NEWS_ACCEPTED) {
        done = append(list, accepted(pair, object));
        flow_release(self->plane, &pair->flows[CLIENT]); /* Python has a copy, and the thread does not read it again */
    }
    if (news & NEWS_CONNECTED) /* of a line's connection; a dial for Python has only its end, with the socket */
        done = append(list, connected(pair, object));
    if (!(news & NEWS_CLOSED))
        return done;
    if (!pair->handed_over) /* otherwise Python has the socket, and knows */
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
    switch ((enum node_kind)node->kind) {
    case NODE_PAIR:
        return read_pair(self, list, OWNER_OF(node, struct pair, node), news);
    case NODE_TARGETS:
        return read_targets(list, OWNER_OF(node, struct targets, node), news);
    case NODE_LINE:
        return read_line(self, list, OWNER_OF(node, struct line, node), news);
    case NODE_COMMAND:
        break;
    }
    return true;
}

PyObject *plane_collect(Plane *self, PyObject *number) {
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

/* Whether there are news that `collect` has not returned yet. */
PyObject *plane_waiting(Plane *self, PyObject *Py_UNUSED(none)) {
    return PyBool_FromLong(self->taken || atomic_load(&self->plane->news.last));
}
