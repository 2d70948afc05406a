/* Holds the namespaces of a pod until it is told to end. */
#include <signal.h>
#include <unistd.h>

static void end(int signal) { _exit(signal != signal); }

int main(void) {
    signal(SIGINT, end);
    signal(SIGTERM, end);
    for (;;) pause();
}
