/* The interpreter's side: all code in these files runs with the interpreter's lock held, so in one thread at a time. */
#ifndef MODULE_H
#define MODULE_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include "commands.h"
#include "thread.h"

typedef struct {
    PyObject_HEAD
    struct pair *pair; /* null before it begins, and after its end was read */
} Pair;

typedef struct {
    PyObject_HEAD
    struct line *line;
    Py_ssize_t targets; /* of the latest aim */
    bool released, known;
} Line;

typedef struct {
    PyObject_HEAD
    struct plane *plane;
    uint64_t sent, rung; /* commands sent; how many there were at the last wake-up */
    struct node *taken; /* news that were taken from the queue and not read yet */
    Py_buffer counts, own;
    bool running, rings_late;
} Plane;

extern PyTypeObject *pair_type, *line_type;

static inline nanoseconds from_seconds(double seconds) {
    if (!(seconds > 0))
        return 0;
    return seconds > 1e9 ? 1000000000 * SECOND : (nanoseconds)(seconds * 1e9);
}

/* orders.c */
void wake(Plane *self);
bool command(Plane *self, enum what what, void *with, void *also, int64_t number);
void targets_free(struct targets *targets);
int line_init(Line *self, PyObject *arguments, PyObject *names);
PyObject *plane_ring(Plane *self, PyObject *none);
PyObject *plane_relay(Plane *self, PyObject *arguments);
PyObject *plane_dial(Plane *self, PyObject *arguments);
PyObject *plane_cut(Plane *self, PyObject *object);
PyObject *plane_turns(Plane *self, PyObject *arguments);
PyObject *plane_listen(Plane *self, PyObject *arguments);
PyObject *plane_stop_listening(Plane *self, PyObject *number);
PyObject *plane_aim(Plane *self, PyObject *arguments);
PyObject *plane_know(Plane *self, PyObject *arguments);
PyObject *plane_forget(Plane *self, PyObject *none);
PyObject *plane_end_line(Plane *self, PyObject *object);
PyObject *plane_release_line(Plane *self, PyObject *object);

/* news.c */
PyObject *plane_collect(Plane *self, PyObject *number);
PyObject *plane_waiting(Plane *self, PyObject *none);

#endif
