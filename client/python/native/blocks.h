/* blocks.h - what the files of the module kvfuse._blocks share: from Python's objects to the arrays that kvfuse.h takes.
 *
 * A call with many blocks of many pieces would spend its time in the interpreter if these arrays were filled there. Nothing here
 * copies a block's bytes, talks to the library, or lets go of the GIL, which all of it is called with. */
#ifndef KVFPY_BLOCKS_H
#define KVFPY_BLOCKS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "kvfuse.h"

/* Attributes that are asked for, interned. */
extern struct kvfpy_names {
    PyObject *key, *pieces, *position, *token_ids, *previous, *table, *data_ptr, *numel, *element_size, *is_contiguous,
        *device, *is_cpu;
} kvfpy_names;

/* Where an object's bytes lie, and what keeps them there: an export (view.obj), or a reference (owner). */
typedef struct span {
    void *base;
    size_t bytes;
    Py_buffer view;
    PyObject *owner;
} span_t;

/* Puts "block 3, piece 1: " before the message of the exception that is set, which becomes `type`. Returns -1. */
int kvfpy_blame(PyObject *type, const char *what, Py_ssize_t block, Py_ssize_t piece);

/* Takes the reference to `number`, which may be NULL (an exception is set). Returns 0, or -1 and an exception. */
int kvfpy_read_size(PyObject *number, size_t *size);

/* Finds `object`'s bytes, and holds them: the caller lets go of view and owner. `pointer_type` is kvfuse.Pointer. Returns 0, or -1 and an
 * exception that says what is wrong with the object. */
int kvfpy_take_span(PyObject *object, bool is_written, PyObject *pointer_type, span_t *span);

/* The exception type that a refused object gets: what is wrong with its kind is a TypeError, with its memory a ValueError. */
PyObject *kvfpy_refusal(void);

/* Whether the exception that is set is about the object, not about memory that is short or an interrupt. */
bool kvfpy_is_refusal(void);

/* Types: Batch (batch.c), Region and View (region.c). */
extern PyType_Spec kvfpy_batch_spec, kvfpy_region_spec, kvfpy_view_spec;

#endif
