/* A queue from one thread to another without a lock: entries are put one by one and taken all at once.
 *
 * An entry contains its own node, so a queue needs no memory and is never full. News for a node that is in the
 * queue already are only added to it.
 */
#ifndef QUEUE_H
#define QUEUE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum node_kind { NODE_PAIR, NODE_LINE, NODE_TARGETS, NODE_COMMAND };
enum { QUEUED = 1U << 31 };

struct node {
    struct node *next;
    atomic_uint news;
    uint8_t kind;
};

struct queue {
    _Atomic(struct node *) last;
};

static inline void queue_put(struct queue *queue, struct node *node) {
    struct node *last = atomic_load_explicit(&queue->last, memory_order_relaxed);
    do
        node->next = last;
    while (!atomic_compare_exchange_weak(&queue->last, &last, node));
}

/* Returns whether the node was put: false if it is in the queue already. */
static inline bool queue_tell(struct queue *queue, struct node *node, unsigned news) {
    if (atomic_fetch_or(&node->news, news | QUEUED) & QUEUED)
        return false;
    queue_put(queue, node);
    return true;
}

/* Takes all, in the order in which they were put. */
static inline struct node *queue_take(struct queue *queue) {
    struct node *node = atomic_exchange(&queue->last, NULL), *first = NULL;
    while (node) {
        struct node *before = node->next;
        node->next = first;
        first = node;
        node = before;
    }
    return first;
}

/* Call it when the node is out of its list: from then on it may be put again. */
static inline unsigned node_news(struct node *node) { return atomic_exchange(&node->news, 0) & ~QUEUED; }

#endif
