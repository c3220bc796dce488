/* Another module, whose commands do what no command of the server does:
 *
 *     OTHER.READ key ms          reads the key, lets the server process events, reads it again
 *     OTHER.CALL_LATER key ms    calls DEL from a timer
 *     OTHER.DELETE_LATER key ms  deletes the key from a timer, without a command
 *
 * It declares only the parts of the module API that it uses. */
#include <stddef.h>
#include <time.h>

typedef struct Ctx Ctx;
typedef struct Str Str;
typedef struct Reply Reply;
typedef struct Key Key;

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

static Key *(*OpenKey)(Ctx *, Str *, int);
static int (*DeleteKey)(Key *);
static void (*CloseKey)(Key *);
static void (*RetainString)(Ctx *, Str *);
static void (*FreeString)(Ctx *, Str *);
static unsigned long long (*CreateTimer)(Ctx *, long long, void (*)(Ctx *, void *), void *);
static int (*ReplyWithNull)(Ctx *);

/* REDISMODULE_WRITE */
#define WRITE 2

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

static void call_del(Ctx *ctx, void *key) {
    FreeCallReply(Call(ctx, "DEL", "s", (Str *)key));
    FreeString(NULL, key);
}

static void delete_key(Ctx *ctx, void *key) {
    Key *open = OpenKey(ctx, key, WRITE);
    DeleteKey(open);
    CloseKey(open);
    FreeString(NULL, key);
}

static int later(Ctx *ctx, Str **argv, void (*callback)(Ctx *, void *)) {
    long long ms = 0;
    StringToLongLong(argv[2], &ms);
    RetainString(NULL, argv[1]);
    CreateTimer(ctx, ms, callback, argv[1]);
    return ReplyWithNull(ctx);
}

static int call_later(Ctx *ctx, Str **argv, int argc) {
    (void)argc;
    return later(ctx, argv, call_del);
}

static int delete_later(Ctx *ctx, Str **argv, int argc) {
    (void)argc;
    return later(ctx, argv, delete_key);
}

#define GET(name) GetApi("RedisModule_" #name, (void *)&name)

int RedisModule_OnLoad(Ctx *ctx, Str **argv, int argc) {
    (void)argv, (void)argc;
    GetApi = (int (*)(const char *, void *))((void **)ctx)[0];
    GET(SetModuleAttribs), GET(CreateCommand), GET(StringToLongLong), GET(Call);
    GET(ReplyWithCallReply), GET(ReplyWithArray), GET(FreeCallReply), GET(Yield);
    GET(OpenKey), GET(DeleteKey), GET(CloseKey), GET(RetainString), GET(FreeString);
    GET(CreateTimer), GET(ReplyWithNull);
    SetModuleAttribs(ctx, "other", 1, 1);
    return CreateCommand(ctx, "other.read", read_twice, "readonly", 1, 1, 1)
        || CreateCommand(ctx, "other.call_later", call_later, "write", 1, 1, 1)
        || CreateCommand(ctx, "other.delete_later", delete_later, "write", 1, 1, 1);
}
