/* blocks.c - the module kvfuse._blocks. */
#include "blocks.h"

struct kvfpy_names kvfpy_names;

static int intern_names(void) {
    const struct {
        PyObject **name;
        const char *text;
    } names[] = {
        {&kvfpy_names.key, "key"},
        {&kvfpy_names.pieces, "pieces"},
        {&kvfpy_names.position, "position"},
        {&kvfpy_names.token_ids, "token_ids"},
        {&kvfpy_names.previous, "previous"},
        {&kvfpy_names.table, "table"},
        {&kvfpy_names.data_ptr, "data_ptr"},
        {&kvfpy_names.numel, "numel"},
        {&kvfpy_names.element_size, "element_size"},
        {&kvfpy_names.is_contiguous, "is_contiguous"},
        {&kvfpy_names.device, "device"},
        {&kvfpy_names.is_cpu, "is_cpu"},
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
    if (intern_names() || add_type(module, &kvfpy_batch_spec) || add_type(module, &kvfpy_region_spec) ||
        add_type(module, &kvfpy_view_spec))
        Py_CLEAR(module);
    return module;
}
