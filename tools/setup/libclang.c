/* Exits with 0 if bindgen can use a libclang, with the given arguments for the compiler: it can be
 * loaded, and it finds the C headers and the headers of the compiler, which are in another package.
 * Built and run by libclang.sh. clang may not be installed yet, so this file repeats the
 * declarations of its header clang-c/Index.h. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

struct unsaved_file {
    const char *name, *contents;
    unsigned long length;
};

enum { SEVERITY_ERROR = 3 };

static void *library;

static void *function(const char *name) {
    void *found = dlsym(library, name);
    if (!found) printf("it lacks %s\n", name);
    return found;
}

int main(int argc, char **argv) {
    if (argc < 2 || !(library = dlopen(argv[1], RTLD_NOW))) {
        printf("%s\n", argc < 2 ? "usage: libclang LIBRARY [ARGUMENT...]" : dlerror());
        return 1;
    }
    void *(*create_index)(int, int) = function("clang_createIndex");
    void *(*parse)(void *, const char *, const char *const *, int, struct unsaved_file *,
                   unsigned, unsigned) = function("clang_parseTranslationUnit");
    unsigned (*count)(void *) = function("clang_getNumDiagnostics");
    void *(*diagnostic)(void *, unsigned) = function("clang_getDiagnostic");
    int (*severity)(void *) = function("clang_getDiagnosticSeverity");
    /* bindgen requires clang 9, which introduced this function. */
    if (!function("clang_Cursor_isAnonymousRecordDecl")) return 1;
    if (!create_index || !parse || !count || !diagnostic || !severity) return 1;

    const char *text = "#include <stddef.h>\n#include <stdarg.h>\n#include <stdio.h>\n";
    struct unsaved_file file = {"probe.h", text, strlen(text)};
    void *unit = parse(create_index(0, 0), "probe.h", (const char *const *)argv + 2, argc - 2, &file, 1, 0);
    if (!unit) {
        puts("it cannot parse C");
        return 1;
    }
    for (unsigned i = 0; i < count(unit); i++) {
        if (severity(diagnostic(unit, i)) >= SEVERITY_ERROR) {
            puts("it cannot find stddef.h, stdarg.h or stdio.h");
            return 1;
        }
    }
    return 0;
}
