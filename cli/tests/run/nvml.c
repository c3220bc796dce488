/* A stub of the NVML functions that gpulock calls. The text file STUB_GPUS, which each call reads,
   lists the GPUs: a line has the UUID, the free MiB and the MiB of a GPU, and the numbers of the
   processes that use it. Without the MiB, all of its memory is free. A line that begins with a
   space is a MIG instance of the GPU before it. A GPU whose UUID is ! has failed. When the memory
   of a GPU was read, the file STUB_NEXT_GPUS replaces the list, if it exists. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, LOST = 15 };

enum { INSTANCES = 7 };

typedef struct {
    unsigned version;
    unsigned long long total, reserved, free, used;
} memory;

typedef struct {
    unsigned pid;
    unsigned long long memory;
    unsigned gpu_instance, compute_instance;
} process;

/* The end of the line that this thread read last: the numbers of the processes. */
static _Thread_local char pids[256];

/* A handle contains the 1-based numbers of the GPU and its instance; instance 0 is the GPU. */
static void *handle(unsigned gpu, unsigned instance) {
    return (void *)(size_t)((gpu + 1) * 16 + instance);
}

/* Reads the line of a GPU or an instance. Returns the number of GPUs for handle 0, otherwise the
   number of instances of the GPU. */
static unsigned read_line(size_t which, char *uuid, unsigned long long mib[2], unsigned *found) {
    char line[256];
    unsigned gpu = 0, instance = 0, instances = 0;
    FILE *file = fopen(getenv("STUB_GPUS"), "r");
    *found = 0;
    while (file && fgets(line, sizeof line, file)) {
        if (line[0] == ' ')
            instance++;
        else
            gpu++, instance = 0;
        if (instance && gpu == which / 16)
            instances++;
        if (which == gpu * 16 + instance) {
            *found = 1;
            int end = 0;
            if (sscanf(line, "%95s %llu %llu %n", uuid, &mib[0], &mib[1], &end) < 3)
                mib[1] = mib[0];
            strcpy(pids, end ? line + end : "");
        }
    }
    if (file)
        fclose(file);
    return which ? instances : gpu;
}

/* The driver or a GPU hangs as long as the file named by this variable exists. */
static void hang(const char *what) {
    const char *name = getenv(what);
    while (name && access(name, F_OK) == 0)
        usleep(1000);
}

int nvmlInit_v2(void) {
    hang("STUB_DRIVER_HANGS");
    return OK;
}

int nvmlShutdown(void) { return OK; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    unsigned found;
    *count = read_line(0, NULL, NULL, &found);
    return OK;
}

static int known(void *device, void **out) {
    char uuid[96];
    unsigned long long mib[2];
    unsigned found;
    read_line((size_t)device, uuid, mib, &found);
    *out = device;
    if (found && !strcmp(uuid, "!"))
        return LOST;
    return found ? OK : NOT_FOUND;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned gpu, void **device) {
    return known(handle(gpu, 0), device);
}

/* Of a GPU or an instance. */
int nvmlDeviceGetHandleByUUID(const char *wanted, void **device) {
    for (unsigned gpu = 0; gpu < 16; gpu++)
        for (unsigned instance = 0; instance <= INSTANCES; instance++) {
            char uuid[96];
            unsigned long long mib[2];
            unsigned found;
            *device = handle(gpu, instance);
            read_line((size_t)*device, uuid, mib, &found);
            if (found && !strcmp(uuid, wanted))
                return OK;
        }
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(void *device, char *uuid, unsigned length) {
    char read[96];
    unsigned long long mib[2];
    unsigned found;
    read_line((size_t)device, read, mib, &found);
    if (!found)
        return INVALID_ARGUMENT;
    if (!strcmp(read, "-"))
        return NOT_SUPPORTED;
    snprintf(uuid, length, "%s", read);
    return OK;
}

int nvmlDeviceGetMemoryInfo_v2(void *device, memory *info) {
    char uuid[96];
    unsigned long long mib[2] = {0};
    unsigned found;
    hang("STUB_GPU_HANGS");
    read_line((size_t)device, uuid, mib, &found);
    info->free = mib[0] << 20;
    info->total = mib[1] << 20;
    const char *next = getenv("STUB_NEXT_GPUS");
    if (next)
        rename(next, getenv("STUB_GPUS"));
    return found ? OK : INVALID_ARGUMENT;
}

int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) {
    char uuid[96];
    unsigned long long mib[2];
    unsigned found;
    *current = *pending = read_line((size_t)device, uuid, mib, &found) > 0;
    return *current ? OK : NOT_SUPPORTED;
}

int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *count) {
    *count = INSTANCES;
    return OK;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned index,
                                        void **instance) {
    return known(handle((size_t)device / 16 - 1, index + 1), instance);
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, process *all) {
    char uuid[96], *rest = pids, *end;
    unsigned long long mib[2];
    unsigned found, room = *count;
    read_line((size_t)device, uuid, mib, &found);
    for (*count = 0;; rest = end) {
        unsigned pid = strtoul(rest, &end, 10);
        if (end == rest)
            return *count > room ? TOO_SMALL : OK;
        if (*count < room)
            all[*count] = (process){pid, 0, -1, -1};
        ++*count;
    }
}
