/* Asks a policy server as Postfix does: some connections, one request outstanding on each. Its cost is part of both sides'
 * figures, so there is hardly any. Started with the port, the number of connections and a file of three parts, each with its
 * length before it: what stands before the triplet, between triplet and instance, and behind. Each line "START COUNT MODULO"
 * on its input is one run of COUNT requests from number START (triplets number % MODULO, 0: all differ); each answer is a
 * line "SECONDS P99_MS WORD=COUNT ...", the words being the first five letters of the actions. */

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 64, WORDS = 16, ROOM = 16384 };

static char parts[3][ROOM];
static int lengths[3];
static int socks[MOST], connections;
static double sent[MOST];

static void die(const char *why)
{
    perror(why);
    exit(1);
}

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

static void ask(int place, unsigned long long number, unsigned long long modulo)
{
    static char out[4 * ROOM];
    unsigned long long triplet = modulo ? number % modulo : number;
    char *end = out;
    memcpy(end, parts[0], lengths[0]);
    end += lengths[0];
    end += sprintf(end, "user%llu@example.com", triplet);
    memcpy(end, parts[1], lengths[1]);
    end += lengths[1];
    end += sprintf(end, "1a2b.65f0.%llx.0", number);
    memcpy(end, parts[2], lengths[2]);
    end += lengths[2];
    sent[place] = now();
    if (send(socks[place], out, end - out, 0) != end - out)
        die("send");
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void run(int poll, unsigned long long start, long count, unsigned long long modulo)
{
    double *times = calloc(count + 1, sizeof *times), begun = now();
    char words[WORDS][8] = {{0}};
    long counts[WORDS] = {0}, left = count, done = 0;
    if (!times)
        die("malloc");
    for (int place = 0; place < connections && left > 0; place++, left--)
        ask(place, start++, modulo);
    while (done < count) {
        struct epoll_event ready[MOST];
        int found = epoll_wait(poll, ready, MOST, 10000);
        if (found <= 0) {
            fprintf(stderr, "no answer for ten seconds\n");
            exit(1);
        }
        for (int event = 0; event < found; event++) {
            char in[4096];
            int place = ready[event].data.fd, word = 0;
            ssize_t size = recv(socks[place], in, sizeof in, 0);
            double at = now();
            if (size < 14 || memcmp(in + size - 2, "\n\n", 2)) {
                fprintf(stderr, "no answer: %zd octets\n", size);
                exit(1);
            }
            times[done++] = at - sent[place];
            while (word < WORDS - 1 && words[word][0] && memcmp(words[word], in + 7, 5))
                word++;
            memcpy(words[word], in + 7, 5);
            counts[word]++;
            if (left > 0) {
                left--;
                ask(place, start++, modulo);
            }
        }
    }
    begun = now() - begun;
    qsort(times, count, sizeof *times, by_size);
    printf("%.6f %.4f", begun, times[(long)(count * 0.99)] * 1000);
    for (int word = 0; word < WORDS && counts[word]; word++)
        printf(" %.5s=%ld", words[word], counts[word]);
    printf("\n");
    fflush(stdout);
    free(times);
}

int main(int argc, char **argv)
{
    unsigned long long start, modulo;
    long count;
    int poll = epoll_create1(0), one = 1;
    FILE *file = argc == 4 ? fopen(argv[3], "rb") : NULL;
    if (!file || poll < 0)
        die("usage: policy_load PORT CONNECTIONS FILE");
    connections = atoi(argv[2]) < MOST ? atoi(argv[2]) : MOST;
    for (int part = 0; part < 3; part++)
        if (fscanf(file, "%d", &lengths[part]) != 1 || fgetc(file) != '\n' || lengths[part] >= ROOM
            || fread(parts[part], 1, lengths[part], file) != (size_t)lengths[part])
            die(argv[3]);
    for (int place = 0; place < connections; place++) {
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        struct epoll_event event = {.events = EPOLLIN, .data.fd = place};
        socks[place] = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(socks[place], (struct sockaddr *)&to, sizeof to))
            die("connect");
        setsockopt(socks[place], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        epoll_ctl(poll, EPOLL_CTL_ADD, socks[place], &event);
    }
    while (scanf("%llu %ld %llu", &start, &count, &modulo) == 3)
        run(poll, start, count, modulo);
    return 0;
}
