/* A module that only blocks its callers and unblocks them in order: the server's own cost
 * of blocking a client for any module, and the least that a hand-off through the module API
 * can cost. The benchmark builds it.
 *
 * It does not handle clients that disconnect while they are blocked. */
#include <stddef.h>

typedef int (*command)(void *ctx, void **argv, int argc);
typedef int (*get_api)(const char *name, void *function);
static void *(*block_client)(void *ctx, command reply, command timeout,
                             void (*freed)(void *, void *), long long ms);
static int (*unblock_client)(void *blocked, void *private_data);
static int (*reply_number)(void *ctx, long long number);

/* The queue: a ring buffer larger than the number of clients in the benchmark. */
enum { CAPACITY = 1 << 14 };
static void *queue[CAPACITY];
static unsigned head, tail;

/* Replies with an integer of the same length as a GPULOCK token. */
static int granted(void *ctx, void **argv, int argc) {
    (void)argv, (void)argc;
    return reply_number(ctx, 1766500000000000);
}

static int wait(void *ctx, void **argv, int argc) {
    (void)argv, (void)argc;
    queue[tail++ % CAPACITY] = block_client(ctx, granted, NULL, NULL, 0);
    return 0;
}

static int wake(void *ctx, void **argv, int argc) {
    (void)argv, (void)argc;
    if (head != tail) unblock_client(queue[head++ % CAPACITY], NULL);
    return reply_number(ctx, 1);
}

int RedisModule_OnLoad(void *ctx, void **argv, int argc) {
    (void)argv, (void)argc;
    get_api get = (get_api)((void **)ctx)[0];
    void (*attributes)(void *ctx, const char *name, int version, int api);
    int (*create)(void *ctx, const char *name, command run, const char *flags, int first,
                  int last, int step);
    get("RedisModule_SetModuleAttribs", &attributes);
    get("RedisModule_CreateCommand", &create);
    get("RedisModule_BlockClient", &block_client);
    get("RedisModule_UnblockClient", &unblock_client);
    get("RedisModule_ReplyWithLongLong", &reply_number);
    attributes(ctx, "block", 1, 1);
    return create(ctx, "block.wait", wait, "", 0, 0, 0) ||
           create(ctx, "block.wake", wake, "", 0, 0, 0);
}
