/* Pipes that carry bulk data from socket to socket inside the kernel (splice(2)). */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "thread.h"

enum {
    PIPE_BYTES = 1 << 20, /* the largest that an unprivileged process may ask for (pipe(7)) */
    LEAST_BYTES = 1 << 16 /* with less room, the system calls cost more than the copying that they save */
};

static void pipe_close(struct plane *plane, struct pipe *pipe) {
    close(pipe->read_end);
    close(pipe->write_end);
    free(pipe);
    plane->pipes--;
}

static struct pipe *pipe_new(struct plane *plane) {
    int ends[2];
    struct pipe *pipe = plane->pipes < MAX_PIPES ? malloc(sizeof *pipe) : NULL;
    if (!pipe)
        return NULL;
    if (pipe2(ends, O_NONBLOCK | O_CLOEXEC) < 0) {
        free(pipe);
        return NULL;
    }
    *pipe = (struct pipe){.read_end = ends[0], .write_end = ends[1]};
    plane->pipes++;
    /* Refused beyond fs.pipe-user-pages-soft (pipe(7)): then the size of a new pipe has to be enough. */
    if (fcntl(ends[1], F_SETPIPE_SZ, PIPE_BYTES) < 0 && fcntl(ends[1], F_GETPIPE_SZ) < LEAST_BYTES) {
        pipe_close(plane, pipe);
        return NULL;
    }
    return pipe;
}

/* Returns an empty pipe, or null: then bytes are copied. */
struct pipe *pipe_take(struct plane *plane) {
    struct pipe *pipe = plane->free_pipes;
    if (pipe)
        plane->free_pipes = pipe->next;
    else
        pipe = pipe_new(plane);
    if (pipe)
        atomic_fetch_add(&plane->lent, 1);
    return pipe;
}

/* A pipe that still holds bytes of its connection is closed, not used again. */
void pipe_give_back(struct plane *plane, struct pipe *pipe) {
    atomic_fetch_sub(&plane->lent, 1);
    if (pipe->holds) {
        pipe_close(plane, pipe);
    } else {
        pipe->next = plane->free_pipes;
        plane->free_pipes = pipe;
    }
}

void pipes_close(struct plane *plane) {
    struct pipe *pipe;
    while ((pipe = plane->free_pipes)) {
        plane->free_pipes = pipe->next;
        pipe_close(plane, pipe);
    }
}
