/* A driver library for tests: the part of NVML that gpulock calls, over GPUs that a text
   file describes. STUB_GPUS names it; each call reads it anew. A line is a GPU: its UUID and
   its free MiB. A line that begins with a space is a MIG instance of the GPU before it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, PARTS = 7 };

typedef struct {
    unsigned version;
    unsigned long long total, reserved, free, used;
} memory;

/* A handle is the number of the GPU and that of its part, each from 1 on; part 0: all. */
static void *handle(unsigned gpu, unsigned part) {
    return (void *)(size_t)((gpu + 1) * 16 + part);
}

/* Reads the line of a GPU or a part. Answers how many GPUs there are, or, with a part that
   is not there, how many parts the GPU has. */
static unsigned look(size_t which, char *uuid, unsigned long long *mib, unsigned *found) {
    char line[256];
    unsigned gpu = 0, part = 0, parts = 0;
    FILE *file = fopen(getenv("STUB_GPUS"), "r");
    *found = 0;
    while (file && fgets(line, sizeof line, file)) {
        if (line[0] == ' ')
            part++;
        else
            gpu++, part = 0;
        if (part && gpu == which / 16)
            parts++;
        if (which == gpu * 16 + part) {
            *found = 1;
            sscanf(line, "%95s %llu", uuid, mib);
        }
    }
    if (file)
        fclose(file);
    return which ? parts : gpu;
}

/* As long as there is a file of that name, the driver, or a GPU, hangs. */
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
    *count = look(0, NULL, NULL, &found);
    return OK;
}

static int known(void *device, void **out) {
    char uuid[96];
    unsigned long long mib;
    unsigned found;
    look((size_t)device, uuid, &mib, &found);
    *out = device;
    return found ? OK : NOT_FOUND;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned gpu, void **device) {
    return known(handle(gpu, 0), device);
}

int nvmlDeviceGetUUID(void *device, char *uuid, unsigned length) {
    char read[96];
    unsigned long long mib;
    unsigned found;
    look((size_t)device, read, &mib, &found);
    if (!found)
        return INVALID_ARGUMENT;
    if (!strcmp(read, "-"))
        return NOT_SUPPORTED;
    snprintf(uuid, length, "%s", read);
    return OK;
}

int nvmlDeviceGetMemoryInfo_v2(void *device, memory *info) {
    char uuid[96];
    unsigned found;
    hang("STUB_GPU_HANGS");
    look((size_t)device, uuid, &info->free, &found);
    info->free <<= 20;
    return found ? OK : INVALID_ARGUMENT;
}

int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) {
    char uuid[96];
    unsigned long long mib;
    unsigned found;
    *current = *pending = look((size_t)device, uuid, &mib, &found) > 0;
    return *current ? OK : NOT_SUPPORTED;
}

int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *count) {
    *count = PARTS;
    return OK;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned index, void **part) {
    return known(handle((size_t)device / 16 - 1, index + 1), part);
}
