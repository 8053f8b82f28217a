/* A static musl program: threads, name resolution, loopback sockets, a child process; one line for each thing done. */

#include <err.h>
#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long total;

static void *add(void *share)
{
    for (int i = 0; i < 1000; i++) {
        pthread_mutex_lock(&lock);
        total += (long)share;
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}

static void threads(void)
{
    pthread_t crew[16];
    for (long i = 0; i < 16; i++)
        if ((errno = pthread_create(&crew[i], NULL, add, (void *)i)))
            err(1, "pthread_create");
    for (int i = 0; i < 16; i++)
        pthread_join(crew[i], NULL);
    printf("threads: %ld\n", total);
}

static void *echo(void *listener)
{
    char buffer[64];
    int peer = accept(*(int *)listener, NULL, NULL);
    if (peer < 0)
        err(1, "accept");
    ssize_t length = read(peer, buffer, sizeof buffer);
    if (write(peer, buffer, length) != length)
        err(1, "echo");
    close(peer);
    return NULL;
}

static void sockets(void)
{
    struct addrinfo *found, hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM};
    int failed = getaddrinfo("localhost", NULL, &hints, &found);
    if (failed)
        errx(1, "getaddrinfo: %s", gai_strerror(failed));
    char host[64];
    getnameinfo(found->ai_addr, found->ai_addrlen, host, sizeof host, NULL, 0, NI_NUMERICHOST);
    printf("getaddrinfo: %s\n", host);

    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, found->ai_addr, found->ai_addrlen) || listen(listener, 1) ||
        getsockname(listener, found->ai_addr, &found->ai_addrlen))
        err(1, "listen");
    pthread_t server;
    if ((errno = pthread_create(&server, NULL, echo, &listener)))
        err(1, "pthread_create");
    int client = socket(AF_INET, SOCK_STREAM, 0), poll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN};
    if (client < 0 || connect(client, found->ai_addr, found->ai_addrlen) || write(client, "echo", 4) != 4 ||
        epoll_ctl(poll, EPOLL_CTL_ADD, client, &event) || epoll_wait(poll, &event, 1, 10000) != 1)
        err(1, "connect");
    char answer[5] = "";
    if (read(client, answer, 4) != 4)
        err(1, "read");
    pthread_join(server, NULL);
    freeaddrinfo(found);
    printf("sockets: %s\n", answer);
}

static void child(char *self)
{
    pid_t pid;
    int status;
    char *words[] = {self, "child", NULL};
    if ((errno = posix_spawn(&pid, self, NULL, NULL, words, environ)))
        err(1, "posix_spawn");
    if (waitpid(pid, &status, 0) != pid)
        err(1, "waitpid");
    printf("posix_spawn: exit %d\n", WEXITSTATUS(status));
}

int main(int count, char **words)
{
    if (count > 1)
        return 7;
    threads();
    sockets();
    child(words[0]);
}
