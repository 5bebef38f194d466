#include "daemon/metrics.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum kind { KIND_COUNTER, KIND_GAUGE } kind_t;

typedef struct row {
    const char *name;
    kind_t kind;
    const char *unit;
    const char *description;
} row_t;

#define VALUE_ROW(name, kind, unit, description)       {#name, KIND_##kind, unit, description},
#define OPERATION_ROW(name, description)               {#name, KIND_COUNTER, "", description},
#define OPERATION_COUNTER_ROW(name, unit, description) {#name, KIND_COUNTER, unit, description},
static const row_t value_rows[] = {KVF_METRICS_TABLE(VALUE_ROW)};
static const row_t operation_rows[] = {KVF_OPERATIONS_TABLE(OPERATION_ROW)};
static const row_t operation_counter_rows[] = {KVF_OPERATION_COUNTERS_TABLE(OPERATION_COUNTER_ROW)};

typedef struct quantile {
    const char *name;
    double quantile;
} quantile_t;

static const quantile_t quantiles[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}, {"p9999", 0.9999}};

enum { NAME_BYTES = 64, PATH_BYTES = 256, DEPTH_MAX = 8 };

kvf_metrics_t *kvf_metrics_create(void) {
    /* The size of a type is a multiple of its alignment. */
    kvf_metrics_t *metrics = aligned_alloc(KVF_CACHE_LINE_BYTES, sizeof(*metrics));
    if (metrics) memset((void *)metrics, 0, sizeof(*metrics));
    return metrics;
}

void kvf_metrics_destroy(kvf_metrics_t *metrics) { free(metrics); }

uint64_t kvf_metrics_sum(const kvf_metrics_t *const *instances, size_t count, kvf_metric_t metric) {
    uint64_t sum = 0; /* wraps where one instance lowered what another raised, and back in the end */
    for (size_t i = 0; i < count; i++) sum += atomic_load_explicit(&instances[i]->values[metric], memory_order_relaxed);
    return value_rows[metric].kind == KIND_GAUGE && sum > INT64_MAX ? 0 : sum;
}

static const char *lower(const char *name, char out[NAME_BYTES]) {
    size_t i = 0;
    for (; i < NAME_BYTES - 1 && name[i]; i++)
        out[i] = (char)(name[i] >= 'A' && name[i] <= 'Z' ? name[i] + 32 : name[i]);
    out[i] = '\0';
    return out;
}

/* These take the value over, also when they fail. */
static bool put(json_t *object, const char *name, json_t *value) {
    char key[NAME_BYTES];
    return value && json_object_set_new(object, lower(name, key), value) == 0;
}

static bool put_number(json_t *object, const char *name, uint64_t value) {
    return put(object, name, json_integer((json_int_t)(value > INT64_MAX ? INT64_MAX : value)));
}

static bool put_latency(json_t *object, const kvf_metrics_t *const *instances, size_t count, kvf_operation_t operation,
                        kvf_histogram_snapshot_t *snapshot) {
    json_t *latency = json_object();
    memset(snapshot, 0, sizeof(*snapshot));
    for (size_t i = 0; i < count; i++) kvf_histogram_add_to(&instances[i]->latency[operation], snapshot);
    bool done = latency && put_number(latency, "count", snapshot->count) &&
                put_number(latency, "min", kvf_histogram_min(snapshot)) &&
                put_number(latency, "mean", (uint64_t)kvf_histogram_mean(snapshot));
    for (size_t i = 0; done && i < sizeof(quantiles) / sizeof(quantiles[0]); i++)
        done = put_number(latency, quantiles[i].name, kvf_histogram_at_quantile(snapshot, quantiles[i].quantile));
    done = done && put_number(latency, "max", kvf_histogram_max(snapshot)) &&
           put_number(latency, "beyond", snapshot->beyond);
    return put(object, "latency_ns", latency) && done;
}

static bool put_operation(json_t *operations, const kvf_metrics_t *const *instances, size_t count,
                          kvf_operation_t operation, kvf_histogram_snapshot_t *snapshot) {
    json_t *object = json_object();
    bool done = object != NULL;
    for (unsigned k = 0; done && k < KVF_OPERATION_COUNTER_COUNT; k++) {
        uint64_t sum = 0;
        for (size_t i = 0; i < count; i++)
            sum += atomic_load_explicit(&instances[i]->operations[operation][k], memory_order_relaxed);
        done = put_number(object, operation_counter_rows[k].name, sum);
    }
    done = done && put_latency(object, instances, count, operation, snapshot);
    return put(operations, operation_rows[operation].name, object) && done;
}

/* Of requests or, with `of_keys`, of keys. */
static bool put_statuses(json_t *root, const kvf_metrics_t *const *instances, size_t count, bool of_keys) {
    json_t *statuses = json_object();
    bool done = statuses != NULL;
    for (unsigned k = 0; done && k < KVF_STATUS_COUNT; k++) {
        uint64_t sum = 0;
        for (size_t i = 0; i < count; i++)
            sum += atomic_load_explicit(of_keys ? &instances[i]->key_statuses[k] : &instances[i]->statuses[k],
                                        memory_order_relaxed);
        done = json_object_set_new(statuses, kvf_status_name(kvf_status_at(k)),
                                   json_integer((json_int_t)(sum > INT64_MAX ? INT64_MAX : sum))) == 0;
    }
    return put(root, of_keys ? "key_statuses" : "statuses", statuses) && done;
}

json_t *kvf_metrics_collect(const kvf_metrics_t *const *instances, size_t count) {
    json_t *root = json_object();
    json_t *operations = json_object();
    kvf_histogram_snapshot_t *snapshot = malloc(sizeof(*snapshot));
    bool done = root && operations && snapshot;
    for (unsigned i = 0; done && i < KVF_METRIC_COUNT; i++)
        done = put_number(root, value_rows[i].name, kvf_metrics_sum(instances, count, (kvf_metric_t)i));
    for (unsigned i = 0; done && i < KVF_OPERATION_COUNT; i++)
        done = put_operation(operations, instances, count, (kvf_operation_t)i, snapshot);
    done = done && json_object_set(root, "operations", operations) == 0 &&
           put_statuses(root, instances, count, false) && put_statuses(root, instances, count, true);
    free(snapshot);
    json_decref(operations);
    if (done) return root;
    json_decref(root);
    return NULL;
}

static void render_scalar(const json_t *value, kvf_text_t *text) {
    switch (json_typeof(value)) {
    case JSON_INTEGER: kvf_text_printf(text, "%" JSON_INTEGER_FORMAT, json_integer_value(value)); break;
    case JSON_REAL: kvf_text_printf(text, "%g", json_real_value(value)); break;
    case JSON_STRING: kvf_text_append_escaped(text, json_string_value(value), json_string_length(value)); break;
    case JSON_TRUE: kvf_text_printf(text, "true"); break;
    case JSON_FALSE: kvf_text_printf(text, "false"); break;
    default: kvf_text_printf(text, "-"); break;
    }
}

/* `path` holds the names above, each with a dot behind it. */
static void render_lines(const json_t *object, char path[PATH_BYTES], unsigned depth, kvf_text_t *text) {
    const char *name;
    json_t *value;
    const size_t above = strlen(path);
    json_object_foreach((json_t *)(uintptr_t)object, name, value) {
        if (json_is_object(value) && depth < DEPTH_MAX) {
            (void)snprintf(path + above, PATH_BYTES - above, "%s.", name);
            render_lines(value, path, depth + 1, text);
            path[above] = '\0';
            continue;
        }
        kvf_text_append_escaped(text, path, above); /* a space may have given its name to it */
        kvf_text_append_escaped(text, name, strlen(name));
        kvf_text_append(text, " ", 1);
        render_scalar(value, text);
        kvf_text_append(text, "\n", 1);
    }
}

void kvf_metrics_render(const json_t *object, kvf_metrics_format_t format, kvf_text_t *text) {
    char path[PATH_BYTES] = "";
    if (format == KVF_METRICS_TEXT) {
        render_lines(object, path, 0, text);
        return;
    }
    char *line = json_dumps(object, JSON_COMPACT | JSON_ENSURE_ASCII);
    if (!line) {
        if (text->status == KVF_OK) text->status = KVF_ERR_NO_MEMORY;
        return;
    }
    kvf_text_append(text, line, strlen(line));
    kvf_text_append(text, "\n", 1);
    free(line);
}

static void describe_row(const char *prefix, const row_t *row, kvf_text_t *text) {
    char name[NAME_BYTES];
    kvf_text_printf(text, "%s%s %s %s %s\n", prefix, lower(row->name, name),
                    row->kind == KIND_GAUGE ? "gauge" : "counter", row->unit, row->description);
}

void kvf_metrics_describe(kvf_text_t *text) {
    for (size_t i = 0; i < KVF_METRIC_COUNT; i++) describe_row("", &value_rows[i], text);
    for (size_t i = 0; i < KVF_OPERATION_COUNT; i++) {
        char name[NAME_BYTES], prefix[NAME_BYTES + 16];
        (void)snprintf(prefix, sizeof(prefix), "operations.%s.", lower(operation_rows[i].name, name));
        for (size_t k = 0; k < KVF_OPERATION_COUNTER_COUNT; k++) describe_row(prefix, &operation_counter_rows[k], text);
        kvf_text_printf(text, "%slatency_ns histogram ns %s: from the first byte of the request to its answer\n",
                        prefix, operation_rows[i].description);
    }
    kvf_text_printf(text, "statuses.NAME counter requests Requests, of all operations, answered with that status as a "
                          "whole (KVF_PARTIAL: some keys had another one)\n"
                          "key_statuses.NAME counter keys Keys of put, get and delete answered with that status\n");
}
