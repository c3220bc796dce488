/* Leaves its group, writes its number to the file that is named, and goes on without its first
   thread. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static void *go_on(void *file) {
    FILE *out = fopen(file, "w");
    fprintf(out, "%d\n", getpid());
    fclose(out);
    sleep(600);
    return NULL;
}

int main(int count, char **words) {
    pthread_t thread;
    signal(SIGTERM, SIG_IGN);
    setsid();
    if (count < 2 || pthread_create(&thread, NULL, go_on, words[1]))
        return 1;
    pthread_exit(NULL);
}
