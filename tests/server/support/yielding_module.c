/* Another module, with a command during which the server processes events:
 *
 *     YIELDING.READ key ms   reads the key at its start and at its end
 *
 * It declares only the parts of the module API that it uses. */
#include <stddef.h>
#include <time.h>

typedef struct Ctx Ctx;
typedef struct Str Str;
typedef struct Reply Reply;

static int (*GetApi)(const char *, void *);
static void (*SetModuleAttribs)(Ctx *, const char *, int, int);
static int (*CreateCommand)(Ctx *, const char *, int (*)(Ctx *, Str **, int), const char *, int,
                            int, int);
static int (*StringToLongLong)(const Str *, long long *);
static Reply *(*Call)(Ctx *, const char *, const char *, ...);
static int (*ReplyWithCallReply)(Ctx *, Reply *);
static int (*ReplyWithArray)(Ctx *, long);
static void (*FreeCallReply)(Reply *);
static void (*Yield)(Ctx *, int, const char *);

/* REDISMODULE_YIELD_FLAG_CLIENTS */
#define YIELD_TO_CLIENTS 2

static long long now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static int read_twice(Ctx *ctx, Str **argv, int argc) {
    long long ms = 0;
    if (argc == 3) StringToLongLong(argv[2], &ms);
    Reply *before = Call(ctx, "GET", "s", argv[1]);
    for (long long end = now_ms() + ms; now_ms() < end;) Yield(ctx, YIELD_TO_CLIENTS, "BUSY yielding");
    Reply *after = Call(ctx, "GET", "s", argv[1]);
    ReplyWithArray(ctx, 2);
    ReplyWithCallReply(ctx, before);
    ReplyWithCallReply(ctx, after);
    FreeCallReply(before);
    FreeCallReply(after);
    return 0;
}

#define GET(name) GetApi("RedisModule_" #name, (void *)&name)

int RedisModule_OnLoad(Ctx *ctx, Str **argv, int argc) {
    (void)argv, (void)argc;
    GetApi = (int (*)(const char *, void *))((void **)ctx)[0];
    GET(SetModuleAttribs), GET(CreateCommand), GET(StringToLongLong), GET(Call);
    GET(ReplyWithCallReply), GET(ReplyWithArray), GET(FreeCallReply), GET(Yield);
    SetModuleAttribs(ctx, "yielding", 1, 1);
    return CreateCommand(ctx, "yielding.read", read_twice, "readonly", 1, 1, 1);
}
