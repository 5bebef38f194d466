/* span.c - one object's memory: by the buffer protocol, as a torch tensor, or by its address. */
#include "blocks.h"

int kvfpy_blame(PyObject *type, const char *what, Py_ssize_t block, Py_ssize_t piece) {
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

int kvfpy_read_size(PyObject *number, size_t *size) {
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
    PyObject *device = PyObject_GetAttr(tensor, kvfpy_names.device);
    if (device) PyErr_Format(PyExc_ValueError, "a tensor on %S: only those on the CPU can be used", device);
    Py_XDECREF(device);
}

/* 1: it is, 0: not, -1: exception. */
static int is_on_cpu(PyObject *tensor) {
    PyObject *answer = PyObject_GetAttr(tensor, kvfpy_names.is_cpu); /* a sixth of what device.type takes */
    int is_cpu = answer ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    return is_cpu;
}

/* A torch tensor, by what it answers: torch itself is not needed. */
static int take_tensor(PyObject *tensor, span_t *span) {
    int is_cpu = is_on_cpu(tensor);
    if (is_cpu == 0) refuse_device(tensor);
    if (is_cpu != 1) return -1;
    PyObject *answer = PyObject_CallMethodNoArgs(tensor, kvfpy_names.is_contiguous);
    int is_contiguous = answer ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    if (is_contiguous < 0) return -1;
    if (!is_contiguous) {
        PyErr_SetString(PyExc_ValueError, "the tensor is not contiguous");
        return -1;
    }
    size_t address, count, size;
    if (kvfpy_read_size(PyObject_CallMethodNoArgs(tensor, kvfpy_names.data_ptr), &address) ||
        kvfpy_read_size(PyObject_CallMethodNoArgs(tensor, kvfpy_names.numel), &count) ||
        kvfpy_read_size(PyObject_CallMethodNoArgs(tensor, kvfpy_names.element_size), &size))
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
    if (kvfpy_read_size(Py_NewRef(PyTuple_GET_ITEM(pointer, 0)), &address) ||
        kvfpy_read_size(Py_NewRef(PyTuple_GET_ITEM(pointer, 1)), &bytes))
        return -1;
    *span = (span_t){.base = (void *)address, .bytes = bytes};
    return 0;
}

int kvfpy_take_span(PyObject *object, bool is_written, PyObject *pointer_type, span_t *span) {
    *span = (span_t){0};
    if ((PyObject *)Py_TYPE(object) == pointer_type && PyTuple_Check(object) && PyTuple_GET_SIZE(object) == 2)
        return take_pointer(object, span);
    if (PyObject_CheckBuffer(object)) {
        if (PyObject_GetBuffer(object, &span->view, is_written ? PyBUF_WRITABLE : PyBUF_SIMPLE)) return -1;
        span->base = span->view.buf;
        span->bytes = (size_t)span->view.len;
        return 0;
    }
    if (PyObject_HasAttr(object, kvfpy_names.data_ptr)) return take_tensor(object, span);
    PyErr_Format(PyExc_TypeError, "%s has neither the buffer protocol nor is it a tensor or kvfuse.Pointer",
                 Py_TYPE(object)->tp_name);
    return -1;
}

PyObject *kvfpy_refusal(void) {
    return PyErr_ExceptionMatches(PyExc_TypeError) || PyErr_ExceptionMatches(PyExc_AttributeError) ? PyExc_TypeError
                                                                                                   : PyExc_ValueError;
}

bool kvfpy_is_refusal(void) {
    return PyErr_ExceptionMatches(PyExc_TypeError) || PyErr_ExceptionMatches(PyExc_ValueError) ||
           PyErr_ExceptionMatches(PyExc_BufferError) || PyErr_ExceptionMatches(PyExc_OverflowError) ||
           PyErr_ExceptionMatches(PyExc_AttributeError);
}
