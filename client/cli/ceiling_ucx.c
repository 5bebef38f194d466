#include "client/cli/ceiling_ucx.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SERVER, CLIENT, ROLES };

static const char *const role_names[ROLES] = {"server", "client"};

typedef struct child {
    pid_t pid; /* 0: not there */
    int gone;  /* reading end of a pipe that the child's end closes; -1: none */
} child_t;

/* Gives each side a CPU of its own where there are two. Returns whether there are. */
static bool pin(int role) {
    cpu_set_t allowed, own;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0 || CPU_COUNT(&allowed) < ROLES) return false;
    int seen = 0;
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &allowed) || seen++ != role) continue;
        CPU_ZERO(&own);
        CPU_SET(cpu, &own);
        return sched_setaffinity(0, sizeof(own), &own) == 0;
    }
    return false;
}

/* A child's life. Does not return: nothing of the caller's may run twice. */
static _Noreturn void live(int role, kvf__ucx_side_t *side, pid_t parent) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1); /* it died before the line above */
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    side->note = side->shared->note[role];
    side->yield = !pin(role);
    kvf_status_t status = role == SERVER ? kvf__ucx_serve(side) : kvf__ucx_drive(side);
    atomic_store(&side->shared->status[role], status);
    _exit(status == KVF_OK ? 0 : 1);
}

static kvf_status_t give_birth(int role, kvf__ucx_side_t *side, child_t *child) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return kvf_status_from_errno(errno);
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        close(ends[0]);
        live(role, side, parent); /* ends[1] stays open as long as it lives */
    }
    int error = errno;
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        return kvf_status_from_errno(error);
    }
    *child = (child_t){.pid = pid, .gone = ends[0]};
    return KVF_OK;
}

/* Waits for a child that ended or was killed. Returns whether it ended by itself and without a complaint. */
static bool bury(child_t *child) {
    int how = 0;
    pid_t pid;
    do pid = waitpid(child->pid, &how, 0);
    while (pid < 0 && errno == EINTR);
    close(child->gone);
    *child = (child_t){.gone = -1};
    return pid > 0 && WIFEXITED(how) && WEXITSTATUS(how) == 0;
}

static void kill_rest(child_t children[ROLES]) {
    for (int role = 0; role < ROLES; role++) {
        if (children[role].pid == 0) continue;
        kill(children[role].pid, SIGKILL);
        (void)bury(&children[role]);
    }
}

/* Waits until both have ended; when one of them failed or until_ns has passed, sees to it that both do. */
static kvf_status_t watch(child_t children[ROLES], uint64_t until_ns) {
    kvf_status_t status = KVF_OK;
    while (children[SERVER].pid != 0 || children[CLIENT].pid != 0) {
        struct pollfd fds[ROLES] = {{.fd = children[SERVER].gone, .events = POLLIN},
                                    {.fd = children[CLIENT].gone, .events = POLLIN}};
        uint64_t now_ns = kvf__now_ns();
        uint64_t left_ms = now_ns < until_ns ? (until_ns - now_ns) / 1000000 + 1 : 0;
        int ready = poll(fds, ROLES, left_ms > 1000 ? 1000 : (int)left_ms);
        if (ready < 0 && errno != EINTR)
            status = kvf_status_from_errno(errno);
        else if (left_ms == 0)
            status = KVF_ERR_TIMEOUT;
        for (int role = 0; ready > 0 && role < ROLES; role++)
            if (fds[role].revents != 0 && !bury(&children[role]) && status == KVF_OK) status = KVF_ERR_DISCONNECTED;
        if (status != KVF_OK) kill_rest(children);
    }
    return status;
}

/* What the run came to, from what the children wrote and how they ended. */
static kvf_status_t conclude(const kvf_ceiling_task_t *task, kvf__ucx_shared_t *shared, bool rma, kvf_status_t ended,
                             kvf_ceiling_result_t *result) {
    for (int role = 0; role < ROLES; role++) {
        kvf_status_t own = (kvf_status_t)atomic_load(&shared->status[role]);
        bool follows = own == KVF_ERR_DISCONNECTED && role == SERVER; /* the client's own failure says more */
        if (own >= KVF_OK || (follows && atomic_load(&shared->status[CLIENT]) < KVF_OK)) continue;
        snprintf(result->note, sizeof(result->note), "%s: %.95s", role_names[role], shared->note[role]);
        return own;
    }
    if (ended != KVF_OK) {
        snprintf(result->note, sizeof(result->note), "%s",
                 ended == KVF_ERR_DISCONNECTED ? "a process died" : kvf_status_text(ended));
        return ended;
    }
    *result = shared->result;
    result->checked_blocks = shared->checked_blocks;
    if (shared->right_blocks != shared->checked_blocks) {
        snprintf(result->note, sizeof(result->note), "%llu of %llu blocks are wrong",
                 (unsigned long long)(shared->checked_blocks - shared->right_blocks),
                 (unsigned long long)shared->checked_blocks);
        return KVF_ERR_CORRUPT;
    }
    if (rma)
        snprintf(result->note, sizeof(result->note), "one %s a block", task->op == KVF_CEILING_GET ? "read" : "write");
    else if (shared->plan.group > 1)
        snprintf(result->note, sizeof(result->note), "%u blocks a message", shared->plan.group);
    else if (shared->plan.part_bytes < task->block_bytes)
        snprintf(result->note, sizeof(result->note), "blocks in parts of %u KiB", shared->plan.part_bytes >> 10);
    else
        snprintf(result->note, sizeof(result->note), "a block a message");
    return KVF_OK;
}

kvf_status_t kvf__ceiling_ucx(const kvf_ceiling_task_t *task, bool tcp, bool rma, kvf_ceiling_result_t *result) {
    kvf__ucx_shared_t *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) {
        snprintf(result->note, sizeof(result->note), "%s", kvf_status_text(KVF_ERR_NO_MEMORY));
        return KVF_ERR_NO_MEMORY;
    }
    atomic_store(&shared->status[SERVER], KVF_IN_PROGRESS);
    atomic_store(&shared->status[CLIENT], KVF_IN_PROGRESS);
    kvf__ucx_side_t side = {.task = task,
                            .shared = shared,
                            .tcp = tcp,
                            .rma = rma,
                            .deadline_ns = kvf__deadline_ns(task),
                            .set = kvf__set_describe(NULL, task->set_bytes, task->block_bytes)};
    child_t children[ROLES] = {{.gone = -1}, {.gone = -1}};
    kvf_status_t status = give_birth(SERVER, &side, &children[SERVER]);
    if (status == KVF_OK) status = give_birth(CLIENT, &side, &children[CLIENT]);
    if (status == KVF_OK) {
        /* The sides end by themselves at the deadline; what does not is killed a little later. */
        status = watch(children, side.deadline_ns + 1000000000u);
    } else
        kill_rest(children);
    status = conclude(task, shared, rma, status, result);
    munmap(shared, sizeof(*shared));
    return status;
}
