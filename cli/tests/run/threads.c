/* Leaves its group, writes its process id to the file that is the argument, and continues
   without its first thread. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static void *run(void *file) {
    FILE *out = fopen(file, "w");
    fprintf(out, "%d\n", getpid());
    fclose(out);
    sleep(600);
    return NULL;
}

int main(int count, char **args) {
    pthread_t thread;
    signal(SIGTERM, SIG_IGN);
    setsid();
    if (count < 2 || pthread_create(&thread, NULL, run, args[1]))
        return 1;
    pthread_exit(NULL);
}
