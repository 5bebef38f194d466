/* The same for shared memory: what the daemon says of its segments is checked before it is believed. */
#include "client_rig.h"
#include "fake_daemon.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- where records lie ---- */

typedef struct place_case {
    const char *name;
    uint64_t offset;     /* added */
    uint32_t segment;    /* instead */
    uint64_t generation; /* added */
    bool is_late;
    size_t head_at; /* a byte of the record's head that is flipped, if spoils_head */
    bool spoils_head, spoils_data;
    size_t missing; /* of the arrays */
    kvf_status_t expected;
} place_case_t;

#define HERE .segment = FAKE_SEGMENT
static place_case_t place_cases[] = {
    {"beyond the segment", .offset = 1 << 30, HERE, .expected = KVF_ERR_CORRUPT},
    {"at its very end", .offset = (64 << 20) - 64, HERE, .expected = KVF_ERR_CORRUPT},
    {"beyond all", .offset = UINT64_MAX - 63, HERE,
     .expected = KVF_PARTIAL}, /* the second wraps to where no record is */
    {"not aligned", .offset = 1, HERE, .expected = KVF_ERR_CORRUPT},
    {"where no record is", .offset = 32 << 20, HERE, .expected = KVF_ERR_NOT_FOUND},
    {"another generation", .generation = 1, HERE, .expected = KVF_ERR_NOT_FOUND},
    {"a segment that is not", .segment = 99, .expected = KVF_ERR_NOT_FOUND},
    {"no time", .is_late = true, HERE, .expected = KVF_ERR_TIMEOUT},
    {"magic", HERE, .spoils_head = true, .head_at = offsetof(kvf_record_head_t, magic), .expected = KVF_ERR_NOT_FOUND},
    {"layers", HERE, .spoils_head = true, .head_at = offsetof(kvf_record_head_t, layers), .expected = KVF_ERR_CORRUPT},
    {"layer bytes", HERE, .spoils_head = true, .head_at = offsetof(kvf_record_head_t, layer_bytes) + 7,
     .expected = KVF_ERR_CORRUPT},
    {"data offset", HERE, .spoils_head = true, .head_at = offsetof(kvf_record_head_t, data_offset) + 6,
     .expected = KVF_ERR_CORRUPT},
    {"checksum", HERE, .spoils_head = true, .head_at = sizeof(kvf_record_head_t) + 8, .expected = KVF_ERR_CORRUPT},
    {"data", HERE, .spoils_data = true, .expected = KVF_ERR_CORRUPT},
    {"fewer than found", HERE, .missing = 1, .expected = KVF_ERR_PROTOCOL},
    {"none", HERE, .missing = 2, .expected = KVF_ERR_PROTOCOL},
};
static const place_case_t *place_case;
static atomic_bool is_spoiled;

static bool spoil_place(fake_daemon_t *fake, const kvf_frame_head_t *head, const uint8_t *data) {
    (void)data;
    if (head->type != KVF_FRAME_GET || atomic_exchange(&is_spoiled, true)) return false;
    size_t slot = fake_slot_bytes(fake);
    uint8_t *base = fake_segment(fake)->base;
    for (size_t i = 0; i < 2; i++) {
        if (place_case->spoils_head) base[i * slot + place_case->head_at] ^= 1;
        if (place_case->spoils_data) base[(i + 1) * slot - 1] ^= 1;
    }
    int32_t statuses[2] = {0};
    uint32_t segments[2] = {place_case->segment, place_case->segment};
    uint64_t offsets[2] = {place_case->offset, slot + place_case->offset};
    uint64_t generations[2] = {1 + place_case->generation, 2 + place_case->generation};
    Kvf__GetReply reply = KVF__GET_REPLY__INIT;
    reply.n_statuses = 2;
    reply.statuses = statuses;
    reply.n_segments = 2 - place_case->missing;
    reply.segments = segments;
    reply.n_offsets = reply.n_generations = 2;
    reply.offsets = offsets;
    reply.generations = generations;
    reply.deadline_ns = place_case->is_late ? uv_hrtime() - 1 : uv_hrtime() + UINT64_C(3000000000);
    fake_send(fake, KVF_FRAME_GET_REPLY, head->request, &reply.base, NULL, 0);
    return true;
}

ParameterizedTestParameters(hostile_memory, a_record_that_is_none_is_not_copied) {
    return cr_make_param_array(place_case_t, place_cases, sizeof(place_cases) / sizeof(place_cases[0]));
}
ParameterizedTest(place_case_t *one, hostile_memory, a_record_that_is_none_is_not_copied) {
    place_case = one;
    fake_daemon_t *fake = fake_start(&(fake_options_t){.on_frame = spoil_place, .with_memory = true});
    kvf_client_options_t options = rig_options(fake_address(fake), KVF_TRANSPORT_SHARED);
    rig_t rig;
    rig_open(&rig, &options, NULL, false);
    cr_assert_eq(rig_put(&rig, 4, 0), KVF_OK);
    kvf_status_t status = rig_get(&rig, 2, 0);
    cr_assert_eq(status, one->expected, "%s: %s", one->name, kvf_status_name(status));
    for (size_t i = 2; i < RIG_BLOCKS; i++) cr_assert(rig_is_filled(&rig, i), "%s wrote into block %zu", one->name, i);
    if (one->expected == KVF_ERR_PROTOCOL) cr_assert(rig_wait_connected(&rig, true));
    rig.blocks[0] = rig.blocks[2]; /* those that were not spoiled */
    rig.blocks[1] = rig.blocks[3];
    cr_assert_eq(rig_get(&rig, 2, 0), KVF_OK);
    rig_close(&rig);
    fake_stop(fake);
}

/* ---- the memory socket ---- */

typedef struct link_case {
    const char *name;
    uint32_t type; /* of the message that is spoiled */
    kvf_memory_message_t answer;
    enum { NO_FD, SMALL_FD, UNSEALED_FD, OTHER_FD } fd;
    bool hangs_up;
    kvf_status_t expected; /* of connecting with KVF_TRANSPORT_SHARED, or else of a get */
} link_case_t;

static link_case_t link_cases[] = {
    {"hangs up", KVF_MEMORY_ATTACH, {0}, .hangs_up = true, .expected = KVF_ERR_UNREACHABLE},
    {"refuses",
     KVF_MEMORY_ATTACH,
     {.magic = KVF_MEMORY_MAGIC, .type = KVF_MEMORY_ATTACHED, .status = -1},
     .expected = KVF_ERR_UNREACHABLE},
    {"another clock",
     KVF_MEMORY_ATTACH,
     {.magic = KVF_MEMORY_MAGIC, .type = KVF_MEMORY_ATTACHED, .clock_ns = 5},
     .expected = KVF_ERR_UNREACHABLE},
    {"a clock ahead",
     KVF_MEMORY_ATTACH,
     {.magic = KVF_MEMORY_MAGIC, .type = KVF_MEMORY_ATTACHED, .clock_ns = UINT64_MAX},
     .expected = KVF_ERR_UNREACHABLE},
    {"no magic", KVF_MEMORY_ATTACH, {.type = KVF_MEMORY_ATTACHED}, .expected = KVF_ERR_UNREACHABLE},
    {"another type",
     KVF_MEMORY_ATTACH,
     {.magic = KVF_MEMORY_MAGIC, .type = KVF_MEMORY_LENT},
     .expected = KVF_ERR_UNREACHABLE},
    {"a descriptor",
     KVF_MEMORY_ATTACH,
     {.magic = KVF_MEMORY_MAGIC, .type = KVF_MEMORY_ATTACHED},
     .fd = OTHER_FD,
     .expected = KVF_ERR_UNREACHABLE},
    {"no descriptor",
     KVF_MEMORY_BORROW,
     {.magic = KVF_MEMORY_MAGIC, .type = KVF_MEMORY_SEGMENT, .id = FAKE_SEGMENT, .bytes = 64 << 20},
     .expected = KVF_ERR_PROTOCOL},
    {"not sealed",
     KVF_MEMORY_BORROW,
     {.magic = KVF_MEMORY_MAGIC, .type = KVF_MEMORY_SEGMENT, .id = FAKE_SEGMENT, .bytes = 64 << 20},
     .fd = UNSEALED_FD,
     .expected = KVF_ERR_INVALID},
    {"too small",
     KVF_MEMORY_BORROW,
     {.magic = KVF_MEMORY_MAGIC, .type = KVF_MEMORY_SEGMENT, .id = FAKE_SEGMENT, .bytes = 64 << 20},
     .fd = SMALL_FD,
     .expected = KVF_ERR_PROTOCOL},
    {"a pipe",
     KVF_MEMORY_BORROW,
     {.magic = KVF_MEMORY_MAGIC, .type = KVF_MEMORY_SEGMENT, .id = FAKE_SEGMENT, .bytes = 64 << 20},
     .fd = OTHER_FD,
     .expected = KVF_ERR_INVALID},
    {"another segment",
     KVF_MEMORY_BORROW,
     {.magic = KVF_MEMORY_MAGIC, .type = KVF_MEMORY_SEGMENT, .id = 8},
     .expected = KVF_ERR_DISCONNECTED},
    {"noise", KVF_MEMORY_BORROW, {.magic = 1}, .expected = KVF_ERR_DISCONNECTED},
    {"RETURNED",
     KVF_MEMORY_BORROW,
     {.magic = KVF_MEMORY_MAGIC, .type = KVF_MEMORY_RETURNED, .id = 1},
     .expected = KVF_ERR_DISCONNECTED},
    {"LENT",
     KVF_MEMORY_BORROW,
     {.magic = KVF_MEMORY_MAGIC, .type = KVF_MEMORY_LENT, .id = UINT32_MAX},
     .expected = KVF_ERR_DISCONNECTED},
    {"hangs up", KVF_MEMORY_BORROW, {0}, .hangs_up = true, .expected = KVF_ERR_DISCONNECTED},
};
static const link_case_t *link_case;

static int make_descriptor(void) {
    kvf_segment_t small;
    int fds[2], fd = -1;
    switch (link_case->fd) {
    case NO_FD: break;
    case SMALL_FD:
        cr_assert_eq(kvf_segment_create("small", 4096, &small), KVF_OK);
        fd = dup(small.fd);
        kvf_segment_destroy(&small);
        break;
    case UNSEALED_FD:
        fd = memfd_create("loose", MFD_CLOEXEC);
        cr_assert_eq(ftruncate(fd, 64 << 20), 0);
        break;
    case OTHER_FD:
        cr_assert_eq(pipe(fds), 0);
        close(fds[1]);
        fd = fds[0];
        break;
    }
    return fd;
}

static bool spoil_link(fake_daemon_t *fake, const kvf_memory_message_t *message) {
    if (message->type != link_case->type || atomic_exchange(&is_spoiled, true)) return false;
    if (link_case->hangs_up) {
        fake_close_memory(fake);
        return true;
    }
    int fd = make_descriptor();
    fake_send_memory(fake, &link_case->answer, fd);
    if (fd >= 0) close(fd);
    return true;
}

ParameterizedTestParameters(hostile_memory, a_link_that_is_none_is_not_used) {
    return cr_make_param_array(link_case_t, link_cases, sizeof(link_cases) / sizeof(link_cases[0]));
}
ParameterizedTest(link_case_t *one, hostile_memory, a_link_that_is_none_is_not_used) {
    link_case = one;
    fake_daemon_t *fake = fake_start(&(fake_options_t){.on_memory = spoil_link, .with_memory = true});
    kvf_client_options_t options = rig_options(fake_address(fake), KVF_TRANSPORT_SHARED);
    kvf_error_t error;
    rig_t rig;
    if (one->type == KVF_MEMORY_ATTACH) {
        kvf_client_t *client;
        kvf_status_t status = kvf_connect(&options, &client, &error);
        cr_assert_eq(status, one->expected, "%s: %s: %s", one->name, kvf_status_name(status), error.text);
        atomic_store(&is_spoiled, false);
        options.transport = KVF_TRANSPORT_AUTO; /* goes on without */
        rig_open(&rig, &options, NULL, false);
        kvf_client_info_t info;
        kvf_client_get_info(rig.client, &info);
        cr_assert_not(info.shared_memory);
    } else {
        rig_open(&rig, &options, NULL, false);
        cr_assert_eq(rig_put(&rig, 2, 0), KVF_OK);
        kvf_status_t status = rig_get(&rig, 2, 0);
        cr_assert_eq(status, one->expected, "%s: %s", one->name, kvf_status_name(status));
        cr_assert(rig_is_wiped(&rig, 0));
        rig_fill(&rig, 0);
        rig_fill(&rig, 1);
        cr_assert(rig_wait_connected(&rig, true));
    }
    cr_assert_geq(rig_put(&rig, 2, 0), KVF_OK);
    cr_assert_eq(rig_get(&rig, 2, 0), KVF_OK);
    cr_assert(rig_is_filled(&rig, 0) && rig_is_filled(&rig, 1));
    rig_close(&rig);
    fake_stop(fake);
}

/* ---- memory that the daemon will not take ---- */

static bool refuse_to_borrow(fake_daemon_t *fake, const kvf_memory_message_t *message) {
    if (message->type != KVF_MEMORY_LEND) return false;
    kvf_memory_message_t answer = *message;
    answer.type = KVF_MEMORY_LENT;
    answer.status = KVF_ERR_TOO_LARGE;
    fake_send_memory(fake, &answer, -1);
    return true;
}

Test(hostile_memory, puts_travel_when_the_daemon_takes_no_memory) {
    fake_daemon_t *fake = fake_start(&(fake_options_t){.on_memory = refuse_to_borrow, .with_memory = true});
    kvf_client_options_t options = rig_options(fake_address(fake), KVF_TRANSPORT_SHARED);
    rig_t rig;
    rig_open(&rig, &options, NULL, false);
    cr_assert_eq(rig_put(&rig, RIG_BLOCKS, 0), KVF_OK);
    cr_assert_eq(rig_get(&rig, RIG_BLOCKS, 0), KVF_OK);
    for (size_t i = 0; i < RIG_BLOCKS; i++) cr_assert(rig_is_filled(&rig, i));
    rig_close(&rig);
    fake_stop(fake);
}
