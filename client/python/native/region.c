/* region.c - Region: memory of the library with the buffer protocol, which counts its exports. View: one exported buffer. */
#include "blocks.h"

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
PyType_Spec kvfpy_region_spec = {.name = "kvfuse._blocks.Region",
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
    if (view && kvfpy_take_span(object, false, pointer_type, &view->span)) {
        if (kvfpy_is_refusal()) kvfpy_blame(kvfpy_refusal(), "memory", -1, -1);
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
PyType_Spec kvfpy_view_spec = {
    .name = "kvfuse._blocks.View", .basicsize = sizeof(view_t), .flags = Py_TPFLAGS_DEFAULT, .slots = view_slots};
