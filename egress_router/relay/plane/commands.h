/* The commands that Python gives to the data plane. */
#ifndef COMMANDS_H
#define COMMANDS_H

#include "queue.h"

enum what {
    COMMAND_RELAY,          /* with: a pair of two connected sockets; also: its admission, or null */
    COMMAND_DIAL,           /* with: a pair without sockets; number: the stagger */
    COMMAND_CUT,            /* with: a pair */
    COMMAND_LISTEN,         /* with: a listener */
    COMMAND_STOP_LISTENING, /* number: its descriptor */
    COMMAND_AIM,            /* with: a line; also: its targets, or null; number: why it refuses if null, or 0 */
    COMMAND_END_LINE,       /* with: a line; its connections end */
    COMMAND_KNOW,           /* with: a known head; also: the line of the port that it comes to */
    COMMAND_FORGET,         /* all known heads */
    COMMAND_RELEASE_LINE,   /* with: a line that Python does not use any more */
    COMMAND_NOTHING,        /* only to be waited for */
    COMMAND_STOP,
};

struct command {
    struct node node;
    enum what what;
    void *with, *also;
    int64_t number;
};

#endif
