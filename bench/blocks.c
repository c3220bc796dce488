/* A module that does nothing but block its callers: what the server itself keeps for any
 * client that a module lets wait. bench/scale.py builds it. */
#include <stddef.h>

typedef int (*command)(void *ctx, void **argv, int argc);
typedef int (*get_api)(const char *name, void *function);
static void *(*block_client)(void *ctx, command reply, command timeout,
                             void (*freed)(void *, void *), long long ms);

static int block(void *ctx, void **argv, int argc) {
    (void)argv, (void)argc;
    block_client(ctx, block, NULL, NULL, 0);
    return 0;
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
    attributes(ctx, "blocks", 1, 1);
    return create(ctx, "blocks.wait", block, "", 0, 0, 0);
}
