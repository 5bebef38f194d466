/* fused_internal.h - what the files of a space's coded side share: fused.c (life), fused_figures.c, fused_tasks.c (what is to be
 * coded), fused_code.c (one block), fused_batch.c (several together), fused_put.c (one that came coded), fused_learn.c (the basis), fused_ratio.c (bounds of policy
 * ratio), fused_table.c (coded blocks), fused_room.c (heap: growing, evicting, giving away). */
#ifndef KVF_DAEMON_FUSED_INTERNAL_H
#define KVF_DAEMON_FUSED_INTERNAL_H

#include "daemon/encoders.h"
#include "daemon/fused.h"
#include "daemon/heap.h"
#include "daemon/store_internal.h"

#include <assert.h>
#include <utlist.h>

/* In kvf_record_t.segment: `slot` is the number of a coded block. */
#define KVF__RECORD_CODED (UINT32_MAX - 1)

enum {
    KVF__CODED_CHUNK = 512, /* entries of the table that are made at once */
    KVF__CODERS_IDLE_MAX = 64,
    KVF__UNIT_CHUNK = 1024, /* the same of units */
    KVF__UNIT_CHUNKS = 1 << 20,
    KVF__FUSED_SEGMENTS_MIN = 2, /* one for what lands, one for what is coded */
    KVF__BATCH_BYTES =
        32 << 20, /* of blocks that are coded together, unless one is larger: a coder takes as much again */
};

/* A block that came coded: it is looked at, and entered. */
typedef struct kvf__coded_task {
    kvf_coded_put_done_fn done;
    void *arg;
    size_t record_bytes, unit_bytes;
    uint8_t key_bytes, key[KVF_INDEX_KEY_BYTES_MAX];
    uint8_t bytes[]; /* record, then unit */
} kvf__coded_task_t;

/* A block that is to be coded. */
typedef struct kvf__task {
    kvf_record_t *record;     /* raw, referenced while queued; NULL: it came coded */
    kvf__coded_task_t *coded; /* owned; NULL: it is raw */
    uint64_t position;
    uint64_t tried_ns; /* when room for it was not found first; 0: never */
    struct kvf__task *prev, *next;
    uint8_t previous_bytes; /* 0: unknown */
    uint8_t previous[KVF_INDEX_KEY_BYTES_MAX];
    bool has_token_ids;
    uint32_t token_ids[]; /* [block tokens] */
} kvf__task_t;

typedef struct kvf__heap_segment {
    kvf_host_segment_t *host; /* NULL: none of this number */
} kvf__heap_segment_t;

/* Figures of what lies under the fused lock: words that are stored and loaded one by one, so that those of two moments may stand side by
 * side. */
typedef struct kvf__figures {
    kvf_pool_stats_t pool;
    uint64_t heap_bytes, table_bytes;
} kvf__figures_t;
#define KVF__FIGURES (sizeof(kvf__figures_t) / sizeof(uint64_t))
static_assert(sizeof(kvf__figures_t) % sizeof(uint64_t) == 0, "whole words");

struct kvf_fused {
    pthread_mutex_t lock;
    kvf_pool_t *pool;              /* [lock] */
    kvf_heap_t *heap;              /* [lock] */
    kvf__heap_segment_t *segments; /* [max_segments] by the heap's numbers [lock] */
    kvf_pool_coder_t **coders;     /* [KVF__CODERS_IDLE_MAX] idle ones [lock] */
    unsigned num_coders;
    float bounds[2]; /* largest of K and V that new blocks are coded under [lock]; fused form: of a plane as a whole */
    uint32_t batch_max;     /* blocks that are coded together; 0: the form knows no batches */
    unsigned num_coding;    /* between begin and end [lock] */
    uint64_t window_blocks; /* coded since the bounds were looked at, and their bytes [lock] */
    double window_bytes;

    /* coded blocks: a table that readers look into without the lock */
    _Atomic(_Atomic(kvf_coded_t *) *) *chunks;   /* [max_keys / CHUNK + 1] */
    uint32_t max_coded, num_numbers;             /* [lock] */
    uint32_t *free_numbers, num_free, room_free; /* [lock] */
    _Atomic(kvf_coded_t *) freed;                /* stack of those whose last reference went */
    _Atomic uint64_t num_coded;
    uint64_t table_bytes;    /* of the coded blocks' entries [lock] */
    uint32_t num_ref_chunks; /* [lock] */
    _Atomic(_Atomic uint32_t *)
        *unit_refs; /* [UNIT_CHUNKS, UNIT_CHUNK] by a unit's slot: blocks that refer to it; changed under the lock */

    bool is_growing;      /* a thread makes the pages of a segment, without the lock [lock] */
    pthread_cond_t grown; /* it is done */

    /* memory that the pool takes in kvf_pool_end, ready before it asks [lock] */
    void *ready[2];
    size_t ready_bytes[2];

    /* giving a segment away [lock] */
    _Atomic uint32_t give_wanted;
    uint32_t giving;                       /* the heap's number; KVF__NO_SEGMENT: none */
    uint32_t give_next;                    /* number of the coded block to look at next */
    uint64_t give_until_ns, give_again_ns; /* when it is given up; when to look at all blocks again */

    pthread_mutex_t tasks_lock;
    kvf__task_t *tasks;         /* [tasks_lock] the oldest first */
    kvf__task_t *coded_tasks;   /* [tasks_lock] the same: somebody waits for these */
    unsigned coded_in_a_row;    /* [tasks_lock] that were taken */
    _Atomic uint64_t num_tasks; /* queued */
    uint64_t last_put_ns;       /* [tasks_lock] */
    bool is_learning_now;       /* [tasks_lock] a thread makes the basis */
    _Atomic bool is_learning;

    uint32_t max_raw_segments;
    _Atomic uint32_t num_heap_segments;
    _Atomic uint64_t dropped, code_ns;
    _Atomic uint64_t figures[KVF__FIGURES]; /* as they were when the lock was last let go; stored under it */
};

/* ---- fused.c ---- */
kvf_status_t kvf__fused_create(kvf_space_t *space, char *why, size_t why_bytes) KVF_MUST_CHECK;
void kvf__fused_destroy(kvf_space_t *space);
/* One turn of an encoder thread: a kvf_work_fn. */
uint64_t kvf__fused_work(kvf_space_t *space);
/* Reserved record -> its task, out of the slot; NULL: none was made. */
kvf__task_t *kvf__fused_take_task(kvf_space_t *space, const kvf_record_t *record);
/* A task without hints. NULL: out of memory. */
kvf__task_t *kvf__fused_make_task(const kvf_space_t *space);
/* One with hints, which are copied. NULL: out of memory. */
kvf__task_t *kvf__fused_hinted_task(const kvf_space_t *space, const kvf_put_hints_t *hints);
/* Token ids of hints that have them, [tokens], as the machine reads them. */
void kvf__fused_read_token_ids(const kvf_put_hints_t *hints, uint32_t tokens, uint32_t *ids);
/* The pool's block of a key, 0: it is not there, or not coded. */
kvf_pool_block_t kvf__fused_block_of(const kvf_space_t *space, const uint8_t *key, size_t key_bytes);
/* Queues committed records' tasks; consumes them. */
void kvf__fused_enqueue(kvf_space_t *space, kvf__task_t *const *tasks, size_t count);
/* Ends a task: lets go of its record, gives its staging back, frees it. */
void kvf__fused_end_task(kvf_space_t *space, kvf__task_t *task);
/* A coded record has left the index: it is not to be evicted any more. [mutex] */
void kvf__fused_forget(kvf_space_t *space, const kvf_record_t *record);
/* Ends all tasks undone. No encoder is at work on the space. */
void kvf__fused_cancel_tasks(kvf_space_t *space);
/* The last reference to a coded record went. [any thread], lock-free. */
void kvf__fused_freed(kvf_space_t *space, uint32_t number);
/* Frees what was freed by others. [lock] */
void kvf__fused_drain(kvf_space_t *space);
/* Enters a coded block in the table. NULL: out of memory. [lock] */
kvf_coded_t *kvf__fused_enter(kvf_space_t *space, kvf_pool_block_t block) KVF_MUST_CHECK;
/* Takes it out again, also from the pool. [lock] */
void kvf__fused_leave(kvf_space_t *space, kvf_coded_t *coded);
/* Bytes that evicting a record would free: of its own, and of units that no other block refers to. A kvf_evict_worth_fn. [mutex] */
uint64_t kvf__fused_worth(void *space, uint32_t id);
/* Entry `number`, below num_numbers; NULL: it is free. */
kvf_coded_t *kvf__fused_entry(const kvf_fused_t *fused, uint32_t number);
/* Planes [layers x planes] of a raw block in its slot. */
void kvf__fused_planes(const kvf_space_t *space, const kvf_record_t *record, const void **planes);
void kvf__fused_fill_put(const kvf_space_t *space, const kvf__task_t *task, const void **planes, kvf_pool_put_t *put);

/* ---- fused_figures.c ---- */
/* Makes the figures of what lies under the lock known. [lock] */
void kvf__fused_publish(kvf_fused_t *fused);
/* The same, and lets the lock go: for whoever changed them. */
void kvf__fused_unlock(kvf_fused_t *fused);

/* ---- fused_code.c ---- */
/* Codes one task's block and puts it in the raw one's place. KVF_OK also if the block had gone. KVF_ERR_NO_SPACE: no room now; anything else:
 * it cannot be coded. */
kvf_status_t kvf__fused_code(kvf_space_t *space, kvf__task_t *task) KVF_MUST_CHECK;

/* Codes `put`, or looks at what came `coded` (NULL: nothing did), makes room and keeps it, as an entry of the table. KVF_ERR_BUSY: for a moment. */
kvf_status_t kvf__fused_run(kvf_space_t *space, const kvf_pool_put_t *put, const kvf_pool_coded_put_t *coded,
                            kvf_coded_t **entered) KVF_MUST_CHECK;

kvf_status_t kvf__fused_take_coder(kvf_fused_t *fused, kvf_pool_coder_t **coder) KVF_MUST_CHECK;
void kvf__fused_give_coder(kvf_fused_t *fused, kvf_pool_coder_t *coder);
/* Whether the bytes of a raw block are those that landed. */
bool kvf__fused_is_raw_sound(const kvf_space_t *space, const kvf_record_t *record);
/* Makes room for what the coder has, and has the pool keep it, as an entry of the table. [lock, which may be let go meanwhile] */
kvf_status_t kvf__fused_keep(kvf_space_t *space, kvf_pool_coder_t *coder, kvf_coded_t **coded) KVF_MUST_CHECK;
/* Puts a coded block in its raw one's place. KVF_OK also if that had gone; the entry has left then, and on a failure. */
kvf_status_t kvf__fused_place(kvf_space_t *space, kvf__task_t *task, kvf_coded_t *coded) KVF_MUST_CHECK;

/* ---- fused_batch.c ---- */
/* Codes the blocks of `tasks` [count, at most batch_max] together, and puts each in its raw one's place: `statuses` [count] as of kvf__fused_code, or
 * KVF_IN_PROGRESS: not tried, since one before it found no room. Puts the tasks in another order, prompt by prompt. */
void kvf__fused_code_batch(kvf_space_t *space, kvf__task_t **tasks, size_t count, kvf_status_t *statuses);

/* ---- fused_put.c ---- */
/* Enters a block that came coded. */
kvf_status_t kvf__fused_enter_coded(kvf_space_t *space, const kvf__task_t *task) KVF_MUST_CHECK;
/* Ends such a task, and tells. */
void kvf__fused_end_coded_task(kvf_space_t *space, kvf__task_t *task, kvf_status_t status);

/* ---- fused_ratio.c: policy ratio ---- */
/* The bounds to begin with, once there is a basis. Nothing to do under another policy. */
kvf_status_t kvf__fused_first_bounds(kvf_space_t *space) KVF_MUST_CHECK;
/* Factor for all bounds, so that the ratio of what is coded next comes nearer to `wanted` than it was (`measured`). Damped; 1: it is met. */
double kvf__ratio_step(double wanted, double measured);
/* A block was coded into so many bytes. [lock] */
void kvf__fused_count_coded(kvf_space_t *space, size_t bytes);
/* Whether it is time to look at the bounds: then no coding begins until nobody codes, and they are moved. [lock] */
bool kvf__fused_wants_bounds(const kvf_space_t *space);
void kvf__fused_adapt_bounds(kvf_space_t *space);

/* ---- fused_learn.c ---- */
/* Makes the basis if there is enough to learn from, or nothing came for a while. Returns when to come back. */
uint64_t kvf__fused_learn(kvf_space_t *space);

/* ---- fused_room.c ---- */
/* Memory of the heap, by growing it or evicting. NULL: none to be had now. [lock, which is let go while pages are made] */
void *kvf__fused_take_room(kvf_space_t *space, size_t bytes);
/* Memory hooks of the pool. [lock] */
void *kvf__fused_pool_alloc(void *space, size_t bytes);
void kvf__fused_pool_free(void *space, void *bytes, size_t num_bytes);
/* Segments with slots for blocks as they land: a look, off by one while the heap takes or gives one. [any thread] */
uint32_t kvf__fused_raw_segments(const kvf_space_t *space);
/* Whether blocks wait, and there is no heap to put them in once they are coded: none of them could go on. [any thread] */
bool kvf__fused_lacks_heap(const kvf_space_t *space);
/* Asks the encoders to give a segment of the heap back to the host tier. False: there is none. [any thread] */
bool kvf__fused_ask_segment(kvf_space_t *space);
/* Goes on with giving, if asked. Returns when to come back. */
uint64_t kvf__fused_give(kvf_space_t *space);

#endif
