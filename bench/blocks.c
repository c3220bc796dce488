/* A module that does nothing but block its callers and let them go, the longest blocked
 * first: what a server asks for any client that a module lets wait, and the least that
 * passing something on through the module API can cost. The bench builds it.
 *
 * Its clients must not go while they are blocked; it does not look after them. */
#include <stddef.h>

typedef int (*command)(void *ctx, void **argv, int argc);
typedef int (*get_api)(const char *name, void *function);
static void *(*block_client)(void *ctx, command reply, command timeout,
                             void (*freed)(void *, void *), long long ms);
static int (*unblock_client)(void *blocked, void *private_data);
static int (*reply_number)(void *ctx, long long number);

/* The line: a ring with room for more than the bench's clients. */
enum { ROOM = 1 << 14 };
static void *line[ROOM];
static unsigned first, behind_last;

/* As long as the token that GPULOCK answers a grant with. */
static int granted(void *ctx, void **argv, int argc) {
    (void)argv, (void)argc;
    return reply_number(ctx, 1766500000000000);
}

static int wait(void *ctx, void **argv, int argc) {
    (void)argv, (void)argc;
    line[behind_last++ % ROOM] = block_client(ctx, granted, NULL, NULL, 0);
    return 0;
}

static int pass(void *ctx, void **argv, int argc) {
    (void)argv, (void)argc;
    if (first != behind_last) unblock_client(line[first++ % ROOM], NULL);
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
    attributes(ctx, "blocks", 1, 1);
    return create(ctx, "blocks.wait", wait, "", 0, 0, 0) ||
           create(ctx, "blocks.pass", pass, "", 0, 0, 0);
}
