/* batch.c - Batch: the kvf_block_t (or kvf_key_t) of one call, and what has to live until its completion, buffer exports and tensors. */
#include "blocks.h"

static_assert(sizeof(kvf_piece_t) == 16 && offsetof(kvf_piece_t, bytes) == 8, "kvfuse.Pointers says [n, 2] of 64 bits");
static_assert(sizeof(kvf_status_t) == sizeof(int32_t), "statuses are taken as int32_t");

enum { KEY_BYTES_MAX = 64, MIN_CAPACITY = 64 };

typedef struct batch {
    PyObject_HEAD Py_ssize_t count;
    kvf_block_t *blocks; /* of blocks; or */
    kvf_key_t *keys;     /* of bare keys */
    kvf_piece_t *pieces; /* of all blocks that bring no table of their own */
    size_t *first_piece; /* [count] in `pieces`; `pieces` moves while it grows */
    uint32_t *token_ids; /* [count, block_tokens] */
    Py_buffer *views;
    PyObject **owners;
    size_t num_pieces, pieces_max, num_views, views_max, num_owners, owners_max;
    /* of the call that fills it */
    PyObject *pointer_type, *pointers_type;
    bool is_written;
    size_t block_bytes, block_tokens;
} batch_t;

/* Makes room for one more. */
static int grow(void **array, size_t size, size_t used, size_t *max) {
    if (used < *max) return 0;
    size_t more = *max ? 2 * *max : MIN_CAPACITY;
    void *moved = PyMem_Realloc(*array, more * size);
    if (!moved) {
        PyErr_NoMemory();
        return -1;
    }
    *array = moved;
    *max = more;
    return 0;
}

/* Keeps the reference (which is stolen) until the batch is let go. */
static int keep(batch_t *batch, PyObject *owner) {
    if (grow((void **)&batch->owners, sizeof(*batch->owners), batch->num_owners, &batch->owners_max)) {
        Py_DECREF(owner);
        return -1;
    }
    batch->owners[batch->num_owners++] = owner;
    return 0;
}

static int keep_view(batch_t *batch, Py_buffer *view) {
    if (grow((void **)&batch->views, sizeof(*batch->views), batch->num_views, &batch->views_max)) {
        PyBuffer_Release(view);
        return -1;
    }
    batch->views[batch->num_views++] = *view; /* a simple view has no pointer into itself, so it may move */
    return 0;
}

static int keep_span(batch_t *batch, span_t *span) {
    if (span->view.obj) return keep_view(batch, &span->view);
    return span->owner ? keep(batch, span->owner) : 0;
}

static int add_piece(batch_t *batch, PyObject *object, size_t *bytes) {
    span_t span;
    if (kvfpy_take_span(object, batch->is_written, batch->pointer_type, &span) || keep_span(batch, &span)) return -1;
    if (grow((void **)&batch->pieces, sizeof(*batch->pieces), batch->num_pieces, &batch->pieces_max)) return -1;
    batch->pieces[batch->num_pieces++] = (kvf_piece_t){.base = span.base, .bytes = span.bytes};
    *bytes += span.bytes;
    return 0;
}

/* kvfuse.Pointers: a table that is used where it lies. */
static int add_table(batch_t *batch, kvf_block_t *block, PyObject *pointers, size_t *bytes) {
    PyObject *table = PyObject_GetAttr(pointers, kvfpy_names.table);
    if (!table) return -1;
    Py_buffer view;
    int failure = PyObject_GetBuffer(table, &view, PyBUF_SIMPLE);
    Py_DECREF(table);
    if (failure || keep_view(batch, &view)) return -1;
    if ((size_t)view.len % sizeof(kvf_piece_t) || (uintptr_t)view.buf % sizeof(uint64_t)) {
        PyErr_SetString(PyExc_ValueError, "the table is not [n, 2] of aligned 64-bit numbers");
        return -1;
    }
    block->pieces = view.buf;
    block->num_pieces = (size_t)view.len / sizeof(kvf_piece_t);
    for (size_t i = 0; i < block->num_pieces; i++) *bytes += block->pieces[i].bytes;
    return keep(batch, Py_NewRef(pointers)); /* and with it its owner */
}

static int add_pieces(batch_t *batch, Py_ssize_t i, PyObject *pieces) {
    kvf_block_t *block = &batch->blocks[i];
    size_t bytes = 0;
    batch->first_piece[i] = batch->num_pieces;
    if ((PyObject *)Py_TYPE(pieces) == batch->pointers_type) {
        if (add_table(batch, block, pieces, &bytes))
            return kvfpy_is_refusal() ? kvfpy_blame(kvfpy_refusal(), "pieces", i, -1) : -1;
    } else if (PyList_Check(pieces) || PyTuple_CheckExact(pieces)) {
        for (Py_ssize_t p = 0; p < PySequence_Fast_GET_SIZE(pieces); p++) {
            PyObject *piece = Py_NewRef(PySequence_Fast_GET_ITEM(pieces, p)); /* a list may change while it is read */
            int failure = add_piece(batch, piece, &bytes);
            Py_DECREF(piece);
            if (failure) return kvfpy_is_refusal() ? kvfpy_blame(kvfpy_refusal(), "piece", i, p) : -1;
        }
        block->num_pieces = batch->num_pieces - batch->first_piece[i];
    } else {
        if (add_piece(batch, pieces, &bytes))
            return kvfpy_is_refusal() ? kvfpy_blame(kvfpy_refusal(), "piece", i, 0) : -1;
        block->num_pieces = 1;
    }
    if (bytes == batch->block_bytes) return 0;
    PyErr_Format(PyExc_ValueError, "block %zd: its pieces hold %zu bytes, where %zu are asked for", i, bytes,
                 batch->block_bytes);
    return -1;
}

/* Borrows from `object`, which the batch keeps. */
static int read_key(batch_t *batch, PyObject *object, Py_ssize_t i, const char *what, kvf_key_t *key) {
    if (!PyBytes_Check(object)) {
        PyErr_Format(PyExc_TypeError, "block %zd: %s is bytes, not %s", i, what, Py_TYPE(object)->tp_name);
        return -1;
    }
    Py_ssize_t bytes = PyBytes_GET_SIZE(object);
    if (bytes < 1 || bytes > KEY_BYTES_MAX) {
        PyErr_Format(PyExc_ValueError, "block %zd: %s has %zd bytes, not 1 to %d", i, what, bytes, KEY_BYTES_MAX);
        return -1;
    }
    *key = (kvf_key_t){.bytes = PyBytes_AS_STRING(object), .num_bytes = (size_t)bytes};
    return keep(batch, Py_NewRef(object));
}

static int set_token_id(uint32_t *to, PyObject *number) {
    unsigned long id = PyLong_AsUnsignedLong(number);
    if (id == (unsigned long)-1 && PyErr_Occurred()) return -1;
    if (id > UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "a token id is beyond 32 bits");
        return -1;
    }
    *to = (uint32_t)id;
    return 0;
}

/* Token ids in a buffer of 32-bit or 64-bit integers. */
static int copy_token_ids(const Py_buffer *view, uint32_t *to, size_t count) {
    char format = view->format ? view->format[strspn(view->format, "@=<")] : 'B';
    bool is_known = strchr("iIlLqQ", format) && (view->itemsize == 4 || view->itemsize == 8);
    if (!is_known || (size_t)view->len != count * (size_t)view->itemsize) {
        PyErr_Format(PyExc_ValueError, "%zd bytes of '%s' are not %zu integers of 32 or 64 bits", view->len,
                     view->format ? view->format : "B", count);
        return -1;
    }
    if (view->itemsize == 4) {
        memcpy(to, view->buf, (size_t)view->len);
        return 0;
    }
    for (size_t i = 0; i < count; i++) {
        uint64_t id;
        memcpy(&id, (const char *)view->buf + 8 * i, 8);
        if (id > UINT32_MAX) {
            PyErr_SetString(PyExc_ValueError, "a token id is beyond 32 bits");
            return -1;
        }
        to[i] = (uint32_t)id;
    }
    return 0;
}

static int read_token_ids(batch_t *batch, PyObject *object, uint32_t *to) {
    size_t count = batch->block_tokens;
    if (PyObject_CheckBuffer(object)) {
        Py_buffer view;
        if (PyObject_GetBuffer(object, &view, PyBUF_FORMAT | PyBUF_ND)) return -1;
        int failure = copy_token_ids(&view, to, count);
        PyBuffer_Release(&view);
        return failure;
    }
    PyObject *fast = PySequence_Fast(object, "token_ids is a buffer or a sequence of integers");
    if (!fast) return -1;
    int failure = 0;
    if ((size_t)PySequence_Fast_GET_SIZE(fast) != count) {
        PyErr_Format(PyExc_ValueError, "%zd token ids, where a block has %zu tokens", PySequence_Fast_GET_SIZE(fast),
                     count);
        failure = -1;
    }
    for (size_t t = 0; t < count && !failure; t++)
        failure = set_token_id(&to[t], PySequence_Fast_GET_ITEM(fast, (Py_ssize_t)t));
    Py_DECREF(fast);
    return failure;
}

/* Calls `read` with an attribute of the block. */
typedef int (*read_fn)(batch_t *batch, Py_ssize_t i, PyObject *value);

static int with_attribute(batch_t *batch, Py_ssize_t i, PyObject *object, PyObject *name, read_fn read) {
    PyObject *value = PyObject_GetAttr(object, name);
    if (!value) return -1;
    int failure = read(batch, i, value);
    Py_DECREF(value);
    return failure;
}

static int take_key(batch_t *batch, Py_ssize_t i, PyObject *value) {
    return read_key(batch, value, i, "key", &batch->blocks[i].key);
}

static int take_previous(batch_t *batch, Py_ssize_t i, PyObject *value) {
    return value == Py_None ? 0 : read_key(batch, value, i, "previous", &batch->blocks[i].previous);
}

static int take_position(batch_t *batch, Py_ssize_t i, PyObject *value) {
    size_t position;
    if (kvfpy_read_size(Py_NewRef(value), &position))
        return kvfpy_is_refusal() ? kvfpy_blame(kvfpy_refusal(), "position", i, -1) : -1;
    batch->blocks[i].position = position;
    return 0;
}

static int take_token_ids(batch_t *batch, Py_ssize_t i, PyObject *value) {
    if (value == Py_None) return 0;
    if (!batch->token_ids)
        batch->token_ids = PyMem_Calloc((size_t)batch->count * batch->block_tokens, sizeof(uint32_t));
    if (!batch->token_ids) {
        PyErr_NoMemory();
        return -1;
    }
    uint32_t *to = batch->token_ids + (size_t)i * batch->block_tokens;
    if (read_token_ids(batch, value, to))
        return kvfpy_is_refusal() ? kvfpy_blame(kvfpy_refusal(), "token_ids", i, -1) : -1;
    batch->blocks[i].token_ids = to;
    return 0;
}

static int add_block(batch_t *batch, Py_ssize_t i, PyObject *object) {
    if (with_attribute(batch, i, object, kvfpy_names.key, take_key) ||
        with_attribute(batch, i, object, kvfpy_names.pieces, add_pieces))
        return -1;
    if (batch->is_written) return 0; /* a get has no use for the rest */
    return with_attribute(batch, i, object, kvfpy_names.position, take_position) ||
                   with_attribute(batch, i, object, kvfpy_names.token_ids, take_token_ids) ||
                   with_attribute(batch, i, object, kvfpy_names.previous, take_previous)
               ? -1
               : 0;
}

/* Lets go of the arrays: the library has copied them. Exports and owners stay. */
static void drop_arrays(batch_t *batch) {
    PyMem_Free(batch->blocks);
    PyMem_Free(batch->keys);
    PyMem_Free(batch->pieces);
    PyMem_Free(batch->first_piece);
    PyMem_Free(batch->token_ids);
    batch->blocks = NULL;
    batch->keys = NULL;
    batch->pieces = NULL;
    batch->first_piece = NULL;
    batch->token_ids = NULL;
}

static void release(batch_t *batch) {
    Py_buffer *views = batch->views;
    PyObject **owners = batch->owners;
    size_t num_views = batch->num_views, num_owners = batch->num_owners;
    batch->views = NULL;
    batch->owners = NULL;
    batch->num_views = batch->views_max = batch->num_owners = batch->owners_max = 0;
    for (size_t i = 0; i < num_views; i++) PyBuffer_Release(&views[i]);
    for (size_t i = 0; i < num_owners; i++) Py_DECREF(owners[i]);
    PyMem_Free(views);
    PyMem_Free(owners);
}

static int fill_blocks(batch_t *batch, PyObject *fast) {
    batch->blocks = PyMem_Calloc((size_t)batch->count, sizeof(*batch->blocks));
    batch->first_piece = PyMem_Calloc((size_t)batch->count, sizeof(*batch->first_piece));
    if (!batch->blocks || !batch->first_piece) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < batch->count; i++)
        if (add_block(batch, i, PySequence_Fast_GET_ITEM(fast, i))) return -1;
    for (Py_ssize_t i = 0; i < batch->count; i++)
        if (!batch->blocks[i].pieces) batch->blocks[i].pieces = batch->pieces + batch->first_piece[i];
    return 0;
}

static int fill_keys(batch_t *batch, PyObject *fast) {
    batch->keys = PyMem_Calloc((size_t)batch->count, sizeof(*batch->keys));
    if (!batch->keys) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < batch->count; i++)
        if (read_key(batch, PySequence_Fast_GET_ITEM(fast, i), i, "key", &batch->keys[i])) return -1;
    return 0;
}

/* A tuple of its own: other threads cannot change it meanwhile. */
static PyObject *snapshot(PyObject *sequence, batch_t *batch) {
    PyObject *items = PySequence_Tuple(sequence);
    if (items) batch->count = PyTuple_GET_SIZE(items);
    return items;
}

static PyObject *batch_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"blocks",        "block_bytes", "block_tokens", "is_written", "pointer_type",
                            "pointers_type", NULL};
    PyObject *blocks, *pointer_type, *pointers_type;
    Py_ssize_t block_bytes, block_tokens;
    int is_written;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OnnpOO", names, &blocks, &block_bytes, &block_tokens, &is_written,
                                     &pointer_type, &pointers_type))
        return NULL;
    batch_t *batch = (batch_t *)type->tp_alloc(type, 0);
    if (!batch) return NULL;
    batch->pointer_type = pointer_type; /* borrowed until this returns */
    batch->pointers_type = pointers_type;
    batch->is_written = is_written;
    batch->block_bytes = (size_t)block_bytes;
    batch->block_tokens = (size_t)block_tokens;
    PyObject *items = snapshot(blocks, batch);
    int failure = items ? fill_blocks(batch, items) : -1;
    Py_XDECREF(items);
    if (failure) Py_CLEAR(batch);
    return (PyObject *)batch;
}

static PyObject *batch_of_keys(PyObject *type, PyObject *keys) {
    batch_t *batch = (batch_t *)((PyTypeObject *)type)->tp_alloc((PyTypeObject *)type, 0);
    if (!batch) return NULL;
    PyObject *items = PyBytes_Check(keys) ? NULL : snapshot(keys, batch);
    if (PyBytes_Check(keys)) PyErr_SetString(PyExc_TypeError, "keys is a sequence of keys, not a key");
    int failure = items ? fill_keys(batch, items) : -1;
    Py_XDECREF(items);
    if (failure) Py_CLEAR(batch);
    return (PyObject *)batch;
}

static void batch_dealloc(batch_t *batch) {
    PyTypeObject *type = Py_TYPE(batch);
    drop_arrays(batch);
    release(batch);
    type->tp_free(batch);
    Py_DECREF(type);
}

static PyObject *batch_started(batch_t *batch, PyObject *unused) {
    (void)unused;
    drop_arrays(batch);
    Py_RETURN_NONE;
}

static PyObject *batch_release(batch_t *batch, PyObject *unused) {
    (void)unused;
    drop_arrays(batch);
    release(batch);
    Py_RETURN_NONE;
}

static PyObject *batch_address(batch_t *batch, void *unused) {
    (void)unused;
    return PyLong_FromVoidPtr(batch->keys ? (void *)batch->keys : (void *)batch->blocks);
}

static Py_ssize_t batch_length(batch_t *batch) { return batch->count; }

static PyMethodDef batch_methods[] = {
    {"of_keys", batch_of_keys, METH_O | METH_CLASS, "of_keys(keys) -> Batch of bare keys."},
    {"started", (PyCFunction)batch_started, METH_NOARGS, "The library has its copy of the arrays."},
    {"release", (PyCFunction)batch_release, METH_NOARGS,
     "Lets go of the caller's memory. Done again, it does nothing."},
    {0},
};

static PyGetSetDef batch_properties[] = {
    {"address", (getter)batch_address, NULL, "Of the array of kvf_block_t or kvf_key_t, until started() or release().",
     NULL},
    {0},
};

static PyType_Slot batch_slots[] = {
    {Py_tp_new, batch_new},
    {Py_tp_dealloc, batch_dealloc},
    {Py_tp_methods, batch_methods},
    {Py_tp_getset, batch_properties},
    {Py_sq_length, batch_length},
    {Py_tp_doc, "The blocks of one call, and what has to live until its completion."},
    {0},
};
PyType_Spec kvfpy_batch_spec = {
    .name = "kvfuse._blocks.Batch", .basicsize = sizeof(batch_t), .flags = Py_TPFLAGS_DEFAULT, .slots = batch_slots};
