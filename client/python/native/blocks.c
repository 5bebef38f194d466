/* blocks.c - the module kvfuse._blocks: from Python's objects to the arrays that kvfuse.h takes.
 *
 * A call with many blocks of many pieces would spend its time in the interpreter if these arrays were filled there. Nothing here
 * copies a block's bytes, talks to the library, or lets go of the GIL.
 *
 * Batch   the kvf_block_t (or kvf_key_t) of one call, and what has to live until its completion: buffer exports and tensors
 * Region  memory of the library with the buffer protocol; counts its exports
 * View    one exported buffer, its address and size */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "kvfuse.h"

static_assert(sizeof(kvf_piece_t) == 16 && offsetof(kvf_piece_t, bytes) == 8, "kvfuse.Pointers says [n, 2] of 64 bits");
static_assert(sizeof(kvf_status_t) == sizeof(int32_t), "statuses are taken as int32_t");

enum { KEY_BYTES_MAX = 64, MIN_CAPACITY = 64 };

static PyObject *name_key, *name_pieces, *name_position, *name_token_ids, *name_previous, *name_table, *name_data_ptr,
    *name_numel, *name_element_size, *name_is_contiguous, *name_device, *name_is_cpu;

/* ---- one piece ---- */

/* Where an object's bytes lie, and what keeps them there: an export (view.obj), or a reference (owner). */
typedef struct span {
    void *base;
    size_t bytes;
    Py_buffer view;
    PyObject *owner;
} span_t;

/* Puts "block 3, piece 1: " before the message of the exception that is set, which becomes `type`. Returns -1. */
static int blame(PyObject *type, const char *what, Py_ssize_t block, Py_ssize_t piece) {
    PyObject *old_type, *value, *trace;
    PyErr_Fetch(&old_type, &value, &trace);
    PyObject *text = value ? PyObject_Str(value) : NULL;
    if (!text) PyErr_Clear();
    if (block < 0)
        PyErr_Format(type, "%s: %V", what, text, "no memory of this kind");
    else if (piece < 0)
        PyErr_Format(type, "block %zd, %s: %V", block, what, text, "not of this kind");
    else
        PyErr_Format(type, "block %zd, %s %zd: %V", block, what, piece, text, "no memory of this kind");
    Py_XDECREF(text);
    Py_XDECREF(old_type);
    Py_XDECREF(value);
    Py_XDECREF(trace);
    return -1;
}

static int read_size(PyObject *number, size_t *size) {
    if (!number) return -1;
    PyObject *index = PyNumber_Index(number);
    Py_DECREF(number);
    if (!index) return -1;
    *size = PyLong_AsSize_t(index);
    Py_DECREF(index);
    return *size == (size_t)-1 && PyErr_Occurred() ? -1 : 0;
}

/* Raises ValueError, which names the tensor's device. */
static void refuse_device(PyObject *tensor) {
    PyObject *device = PyObject_GetAttr(tensor, name_device);
    if (device) PyErr_Format(PyExc_ValueError, "a tensor on %S: only those on the CPU can be used", device);
    Py_XDECREF(device);
}

/* 1: it is, 0: not, -1: exception. */
static int is_on_cpu(PyObject *tensor) {
    PyObject *answer = PyObject_GetAttr(tensor, name_is_cpu); /* a sixth of what device.type takes */
    int is_cpu = answer ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    return is_cpu;
}

/* A torch tensor, by what it answers: torch itself is not needed. */
static int take_tensor(PyObject *tensor, span_t *span) {
    int is_cpu = is_on_cpu(tensor);
    if (is_cpu == 0) refuse_device(tensor);
    if (is_cpu != 1) return -1;
    PyObject *answer = PyObject_CallMethodNoArgs(tensor, name_is_contiguous);
    int is_contiguous = answer ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    if (is_contiguous < 0) return -1;
    if (!is_contiguous) {
        PyErr_SetString(PyExc_ValueError, "the tensor is not contiguous");
        return -1;
    }
    size_t address, count, size;
    if (read_size(PyObject_CallMethodNoArgs(tensor, name_data_ptr), &address) ||
        read_size(PyObject_CallMethodNoArgs(tensor, name_numel), &count) ||
        read_size(PyObject_CallMethodNoArgs(tensor, name_element_size), &size))
        return -1;
    if (size && count > SIZE_MAX / size) {
        PyErr_SetString(PyExc_ValueError, "the tensor is too large");
        return -1;
    }
    *span = (span_t){.base = (void *)address, .bytes = count * size, .owner = Py_NewRef(tensor)};
    return 0;
}

/* kvfuse.Pointer, a tuple of two. */
static int take_pointer(PyObject *pointer, span_t *span) {
    size_t address, bytes;
    if (read_size(Py_NewRef(PyTuple_GET_ITEM(pointer, 0)), &address) ||
        read_size(Py_NewRef(PyTuple_GET_ITEM(pointer, 1)), &bytes))
        return -1;
    *span = (span_t){.base = (void *)address, .bytes = bytes};
    return 0;
}

/* `pointer_type` is kvfuse.Pointer. The exception says what is wrong with the object. */
static int take_span(PyObject *object, bool is_written, PyObject *pointer_type, span_t *span) {
    *span = (span_t){0};
    if ((PyObject *)Py_TYPE(object) == pointer_type && PyTuple_Check(object) && PyTuple_GET_SIZE(object) == 2)
        return take_pointer(object, span);
    if (PyObject_CheckBuffer(object)) {
        if (PyObject_GetBuffer(object, &span->view, is_written ? PyBUF_WRITABLE : PyBUF_SIMPLE)) return -1;
        span->base = span->view.buf;
        span->bytes = (size_t)span->view.len;
        return 0;
    }
    if (PyObject_HasAttr(object, name_data_ptr)) return take_tensor(object, span);
    PyErr_Format(PyExc_TypeError, "%s has neither the buffer protocol nor is it a tensor or kvfuse.Pointer",
                 Py_TYPE(object)->tp_name);
    return -1;
}

/* The exception type that a refused object gets: what is wrong with its kind is a TypeError, with its memory a ValueError. */
static PyObject *refusal(void) {
    return PyErr_ExceptionMatches(PyExc_TypeError) || PyErr_ExceptionMatches(PyExc_AttributeError) ? PyExc_TypeError
                                                                                                   : PyExc_ValueError;
}

static bool is_refusal(void) {
    return PyErr_ExceptionMatches(PyExc_TypeError) || PyErr_ExceptionMatches(PyExc_ValueError) ||
           PyErr_ExceptionMatches(PyExc_BufferError) || PyErr_ExceptionMatches(PyExc_OverflowError) ||
           PyErr_ExceptionMatches(PyExc_AttributeError);
}

/* ---- Batch ---- */

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
    if (take_span(object, batch->is_written, batch->pointer_type, &span) || keep_span(batch, &span)) return -1;
    if (grow((void **)&batch->pieces, sizeof(*batch->pieces), batch->num_pieces, &batch->pieces_max)) return -1;
    batch->pieces[batch->num_pieces++] = (kvf_piece_t){.base = span.base, .bytes = span.bytes};
    *bytes += span.bytes;
    return 0;
}

/* kvfuse.Pointers: a table that is used where it lies. */
static int add_table(batch_t *batch, kvf_block_t *block, PyObject *pointers, size_t *bytes) {
    PyObject *table = PyObject_GetAttr(pointers, name_table);
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
        if (add_table(batch, block, pieces, &bytes)) return is_refusal() ? blame(refusal(), "pieces", i, -1) : -1;
    } else if (PyList_Check(pieces) || PyTuple_CheckExact(pieces)) {
        for (Py_ssize_t p = 0; p < PySequence_Fast_GET_SIZE(pieces); p++) {
            PyObject *piece = Py_NewRef(PySequence_Fast_GET_ITEM(pieces, p)); /* a list may change while it is read */
            int failure = add_piece(batch, piece, &bytes);
            Py_DECREF(piece);
            if (failure) return is_refusal() ? blame(refusal(), "piece", i, p) : -1;
        }
        block->num_pieces = batch->num_pieces - batch->first_piece[i];
    } else {
        if (add_piece(batch, pieces, &bytes)) return is_refusal() ? blame(refusal(), "piece", i, 0) : -1;
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
    if (read_size(Py_NewRef(value), &position)) return is_refusal() ? blame(refusal(), "position", i, -1) : -1;
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
    if (read_token_ids(batch, value, to)) return is_refusal() ? blame(refusal(), "token_ids", i, -1) : -1;
    batch->blocks[i].token_ids = to;
    return 0;
}

static int add_block(batch_t *batch, Py_ssize_t i, PyObject *object) {
    if (with_attribute(batch, i, object, name_key, take_key) ||
        with_attribute(batch, i, object, name_pieces, add_pieces))
        return -1;
    if (batch->is_written) return 0; /* a get has no use for the rest */
    return with_attribute(batch, i, object, name_position, take_position) ||
                   with_attribute(batch, i, object, name_token_ids, take_token_ids) ||
                   with_attribute(batch, i, object, name_previous, take_previous)
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
static PyType_Spec batch_spec = {
    .name = "kvfuse._blocks.Batch", .basicsize = sizeof(batch_t), .flags = Py_TPFLAGS_DEFAULT, .slots = batch_slots};

/* ---- Region ---- */

typedef struct region {
    PyObject_HEAD void *base;
    Py_ssize_t bytes;
    Py_ssize_t num_exports;
} region_t;

static PyObject *region_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)args;
    (void)kwargs;
    return type->tp_alloc(type, 0);
}

static PyObject *region_attach(region_t *region, PyObject *args) {
    unsigned long long address;
    Py_ssize_t bytes;
    if (!PyArg_ParseTuple(args, "Kn", &address, &bytes)) return NULL;
    region->base = (void *)(uintptr_t)address;
    region->bytes = bytes;
    Py_RETURN_NONE;
}

static PyObject *region_detach(region_t *region, PyObject *unused) {
    (void)unused;
    if (region->num_exports) {
        PyErr_Format(PyExc_BufferError, "%zd views or requests use this memory", region->num_exports);
        return NULL;
    }
    PyObject *address = PyLong_FromVoidPtr(region->base);
    region->base = NULL;
    region->bytes = 0;
    return address;
}

static int region_get_buffer(region_t *region, Py_buffer *view, int flags) {
    if (!region->base) {
        view->obj = NULL;
        PyErr_SetString(PyExc_BufferError, "the memory is freed");
        return -1;
    }
    if (PyBuffer_FillInfo(view, (PyObject *)region, region->base, region->bytes, 0, flags)) return -1;
    region->num_exports++;
    return 0;
}

static void region_release_buffer(region_t *region, Py_buffer *view) {
    (void)view;
    region->num_exports--;
}

static void region_dealloc(PyObject *region) {
    PyTypeObject *type = Py_TYPE(region);
    type->tp_free(region);
    Py_DECREF(type);
}

static PyObject *region_address(region_t *region, void *unused) {
    (void)unused;
    return PyLong_FromVoidPtr(region->base);
}

static PyObject *region_nbytes(region_t *region, void *unused) {
    (void)unused;
    return PyLong_FromSsize_t(region->bytes);
}

static PyObject *region_exports(region_t *region, void *unused) {
    (void)unused;
    return PyLong_FromSsize_t(region->num_exports);
}

static PyMethodDef region_methods[] = {
    {"_attach", (PyCFunction)region_attach, METH_VARARGS, "_attach(address, nbytes)"},
    {"_detach", (PyCFunction)region_detach, METH_NOARGS,
     "Returns the address, and has none from then on. BufferError: it is in use."},
    {0},
};

static PyGetSetDef region_properties[] = {
    {"address", (getter)region_address, NULL, "Of its first byte; 0 when it is freed.", NULL},
    {"nbytes", (getter)region_nbytes, NULL, "Its size; 0 when it is freed.", NULL},
    {"exports", (getter)region_exports, NULL, "Views and requests that use it.", NULL},
    {0},
};

static PyType_Slot region_slots[] = {
    {Py_tp_new, region_new},
    {Py_tp_dealloc, region_dealloc},
    {Py_tp_methods, region_methods},
    {Py_tp_getset, region_properties},
    {Py_bf_getbuffer, region_get_buffer},
    {Py_bf_releasebuffer, region_release_buffer},
    {Py_tp_doc, "Memory of the library with the buffer protocol."},
    {0},
};
static PyType_Spec region_spec = {.name = "kvfuse._blocks.Region",
                                  .basicsize = sizeof(region_t),
                                  .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
                                  .slots = region_slots};

/* ---- View ---- */

typedef struct view {
    PyObject_HEAD span_t span;
} view_t;

static PyObject *view_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)kwargs;
    PyObject *object, *pointer_type;
    if (!PyArg_ParseTuple(args, "OO", &object, &pointer_type)) return NULL;
    view_t *view = (view_t *)type->tp_alloc(type, 0);
    if (view && take_span(object, false, pointer_type, &view->span)) {
        if (is_refusal()) blame(refusal(), "memory", -1, -1);
        Py_CLEAR(view);
    }
    return (PyObject *)view;
}

static PyObject *view_release(view_t *view, PyObject *unused) {
    (void)unused;
    span_t span = view->span;
    view->span = (span_t){0};
    if (span.view.obj) PyBuffer_Release(&span.view);
    Py_XDECREF(span.owner);
    Py_RETURN_NONE;
}

static void view_dealloc(view_t *view) {
    PyTypeObject *type = Py_TYPE(view);
    Py_XDECREF(view_release(view, NULL));
    type->tp_free(view);
    Py_DECREF(type);
}

static PyObject *view_address(view_t *view, void *unused) {
    (void)unused;
    return PyLong_FromVoidPtr(view->span.base);
}

static PyObject *view_nbytes(view_t *view, void *unused) {
    (void)unused;
    return PyLong_FromSize_t(view->span.bytes);
}

static PyMethodDef view_methods[] = {
    {"release", (PyCFunction)view_release, METH_NOARGS, "Lets go of the memory. Done again, it does nothing."},
    {0},
};

static PyGetSetDef view_properties[] = {
    {"address", (getter)view_address, NULL, NULL, NULL},
    {"nbytes", (getter)view_nbytes, NULL, NULL, NULL},
    {0},
};

static PyType_Slot view_slots[] = {
    {Py_tp_new, view_new},
    {Py_tp_dealloc, view_dealloc},
    {Py_tp_methods, view_methods},
    {Py_tp_getset, view_properties},
    {Py_tp_doc, "View(object, pointer_type): one buffer that stays where it is."},
    {0},
};
static PyType_Spec view_spec = {
    .name = "kvfuse._blocks.View", .basicsize = sizeof(view_t), .flags = Py_TPFLAGS_DEFAULT, .slots = view_slots};

/* ---- module ---- */

static int intern_names(void) {
    const struct {
        PyObject **name;
        const char *text;
    } names[] = {
        {&name_key, "key"},
        {&name_pieces, "pieces"},
        {&name_position, "position"},
        {&name_token_ids, "token_ids"},
        {&name_previous, "previous"},
        {&name_table, "table"},
        {&name_data_ptr, "data_ptr"},
        {&name_numel, "numel"},
        {&name_element_size, "element_size"},
        {&name_is_contiguous, "is_contiguous"},
        {&name_device, "device"},
        {&name_is_cpu, "is_cpu"},
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        if (!(*names[i].name = PyUnicode_InternFromString(names[i].text))) return -1;
    return 0;
}

static int add_type(PyObject *module, PyType_Spec *spec) {
    PyObject *type = PyType_FromSpec(spec);
    if (!type) return -1;
    int failure = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return failure;
}

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "kvfuse._blocks",
                                        .m_doc = "From Python's objects to the arrays of kvfuse.h.", .m_size = -1};

PyMODINIT_FUNC PyInit__blocks(void) {
    PyObject *module = PyModule_Create(&definition);
    if (!module) return NULL;
    if (intern_names() || add_type(module, &batch_spec) || add_type(module, &region_spec) ||
        add_type(module, &view_spec))
        Py_CLEAR(module);
    return module;
}
