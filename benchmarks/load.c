/* The load: thousands of clients of one server in one process, cheap enough to share a core with what publishes.
 *
 *     load PORT PROTOCOL READY REQUESTS
 *
 * PROTOCOL is "sse" (also: any other answer that never ends), "ws" (WebSocket), "ack" (WebSocket whose client says how
 * far it has got, as ours does) or "sio" (Socket.IO over WebSocket). READY is what a client has to be sent, after the
 * head of the answer, before it counts as connected; empty: the head is enough. REQUESTS is a file of requests, one for
 * each client, each preceded by its length (32 bits, little endian): so every client has its own cookie and cursor.
 *
 * A delivery is recognised by a mark in the text, "[[SSSSSSSSS.TTTTTTTTTTTTTTTT.WWWWWW]]": number of the message,
 * CLOCK_MONOTONIC in microseconds at which it was sent, and for whom it is (999999: everybody). Each client checks
 * that numbers come in order, without holes, once, and that they are for it.
 *
 * Commands on stdin, one a line, each answered by a line of JSON on stdout:
 *     connect N AT_ONCE    open clients until there are N, with AT_ONCE in progress at a time
 *     base S               every client expects number S next
 *     reset                forget what was counted
 *     stats                what was counted since
 *     close                close all clients
 * and, unasked, {"all": S} whenever every client has received number S.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MARK = 37, CARRY = MARK - 1, HEAD_LIMIT = 16384, BUFFER = 1 << 18, EVERYBODY = 999999, COUNTS = 1 << 20 };
/* As transports.js: after so many bytes, the first time by up to half of them sooner, and not more often than so many
 * microseconds. */
enum { ACK_BYTES = 131072, ACK_LEAST = 60000, SAMPLES = 1 << 23 };
/* Microseconds between two looks. A server would pay for waking a client that sleeps on the same machine, once for each
 * delivery; one on another machine costs it nothing. So the load is not woken by what comes while it naps. */
enum { NAP = 200 };
enum state { UNUSED, CONNECTING, HEAD, LIVE, CLOSED };

struct client {
    int fd;
    enum state state;
    uint32_t expected;
    char *head; /* What came until it was live. */
    size_t head_length;
    int head_done;
    uint64_t started;
    /* The end of what was read, if a mark may begin in it. */
    unsigned char carry[CARRY];
    uint8_t carried;
    /* WebSocket: the header being read, and what is left of the frame. */
    unsigned char header[10];
    uint8_t header_length, opcode;
    uint64_t left;
    unsigned char control[125];
    uint8_t control_length;
    uint64_t unacknowledged, acknowledged_at;
};

static struct client *clients;
static unsigned char **requests;
static uint32_t *request_lengths;
static size_t capacity;
static int epoll, port, framed, acknowledges, socket_io;
static const char *ready;
static unsigned char buffer[BUFFER];

static size_t opened, goal, at_once, connecting, live, failed;
static uint64_t connect_started;
static char first_failure[128];
static uint32_t *connect_times;
static size_t connect_count;

static uint64_t delivered, lost, duplicate, foreign, ended, bytes;
static uint32_t *counts, *samples;
static size_t sample_count;

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000 + time.tv_nsec / 1000;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int by_size(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double percentile(const uint32_t *sorted, size_t count, double part) {
    return count ? sorted[(size_t)(part * (count - 1))] / 1000.0 : 0;
}

/* ------------------------------------------------------------------ marks */

static void mark(struct client *client, const unsigned char *text, uint64_t at) {
    uint32_t number = strtoul((const char *)text + 2, NULL, 10);
    uint64_t sent = strtoull((const char *)text + 12, NULL, 10);
    uint32_t who = strtoul((const char *)text + 29, NULL, 10);
    if (who != EVERYBODY && who != (uint32_t)(client - clients)) foreign++;
    if (number < client->expected) {
        duplicate++;
        return;
    }
    if (number > client->expected) lost += number - client->expected;
    client->expected = number + 1;
    delivered++;
    if (sample_count < SAMPLES) samples[sample_count++] = at > sent ? at - sent : 0;
    uint32_t *count = &counts[number % COUNTS];
    if (++*count == live) {
        *count = 0;
        printf("{\"all\": %u}\n", number);
    }
}

static int is_mark(const unsigned char *text) {
    return text[0] == '[' && text[1] == '[' && text[11] == '.' && text[28] == '.' && text[35] == ']' && text[36] == ']';
}

static void scan(struct client *client, const unsigned char *text, size_t length, uint64_t at) {
    const unsigned char *end = text + length, *after = text;
    if (client->carried) {
        unsigned char joined[2 * CARRY];
        size_t add = length < CARRY ? length : CARRY, total = client->carried + add;
        memcpy(joined, client->carry, client->carried);
        memcpy(joined + client->carried, text, add);
        for (size_t i = 0; i < client->carried && i + MARK <= total; i++)
            if (is_mark(joined + i)) {
                mark(client, joined + i, at);
                after = text + (i + MARK - client->carried);
                client->carried = 0;
                break;
            }
        if (client->carried && length < CARRY) { /* Still not enough to tell. */
            size_t keep = total < CARRY ? total : CARRY;
            memcpy(client->carry, joined + total - keep, keep);
            client->carried = keep;
            return;
        }
    }
    const unsigned char *found = after;
    while (end - found >= MARK && (found = memchr(found, '[', end - found)) != NULL) {
        if (end - found >= MARK && is_mark(found)) {
            mark(client, found, at);
            found = after = found + MARK;
        } else {
            found++;
        }
    }
    if (end - after > CARRY) after = end - CARRY;
    const unsigned char *bracket = memchr(after, '[', end - after);
    client->carried = bracket ? end - bracket : 0;
    if (bracket) memcpy(client->carry, bracket, client->carried);
}

/* ------------------------------------------------------------------ WebSocket */

static void send_frame(struct client *client, int opcode, const void *payload, size_t length) {
    unsigned char frame[8 + 4200] = {0x80 | opcode};
    size_t at = 2;
    if (length > 4096) return;
    if (length < 126) {
        frame[1] = 0x80 | length;
    } else {
        frame[1] = 0x80 | 126;
        frame[2] = length >> 8;
        frame[3] = length;
        at = 4;
    }
    memset(frame + at, 0, 4); /* A mask of zeros changes nothing, and is a mask. */
    memcpy(frame + at + 4, payload, length);
    if (send(client->fd, frame, at + 4 + length, MSG_NOSIGNAL) < 0 && errno != EPIPE && errno != ECONNRESET) die("send");
}

static void acknowledge(struct client *client, const unsigned char *text, size_t length, uint64_t at) {
    static const char key[] = "\"cursor\":\"";
    const unsigned char *found = memmem(text, length, key, sizeof key - 1);
    if (!found) return;
    found += sizeof key - 1;
    const unsigned char *stop = memchr(found, '"', text + length - found);
    if (!stop) return;
    char answer[4096];
    int size = snprintf(answer, sizeof answer, "{\"type\":\"ack\",\"cursor\":\"%.*s\"}", (int)(stop - found), found);
    send_frame(client, 1, answer, size);
    client->unacknowledged = 0;
    client->acknowledged_at = at;
}

static void payload(struct client *client, const unsigned char *text, size_t length, uint64_t at) {
    if (client->opcode >= 8) {
        size_t room = sizeof client->control - client->control_length;
        memcpy(client->control + client->control_length, text, length < room ? length : room);
        client->control_length += length < room ? length : room;
        return;
    }
    scan(client, text, length, at);
    if (socket_io && length == client->left && length == 1 && text[0] == '2') send_frame(client, 1, "3", 1);
    if (acknowledges) {
        client->unacknowledged += length;
        uint64_t since = at - client->acknowledged_at;
        if (client->unacknowledged > ACK_BYTES && since > ACK_LEAST)
            acknowledge(client, text, length, at);
    }
}

static void frames(struct client *client, const unsigned char *text, size_t length, uint64_t at) {
    while (length) {
        if (client->left == 0) {
            client->header[client->header_length++] = *text++;
            length--;
            if (client->header_length < 2) continue;
            unsigned size = client->header[1] & 127, extra = size == 127 ? 8 : size == 126 ? 2 : 0;
            if (client->header_length < 2 + extra) continue;
            client->opcode = client->header[0] & 15;
            client->left = extra ? 0 : size;
            for (unsigned i = 0; i < extra; i++) client->left = client->left << 8 | client->header[2 + i];
            client->header_length = client->control_length = 0;
        } else {
            size_t part = length < client->left ? length : client->left;
            payload(client, text, part, at);
            text += part;
            length -= part;
            client->left -= part;
        }
        if (client->left == 0 && client->header_length == 0 && client->opcode == 9) {
            send_frame(client, 10, client->control, client->control_length);
            client->opcode = 0;
        }
    }
}

/* ------------------------------------------------------------------ clients */

static void open_next(void);

static void connected(struct client *client, const char *failure) {
    connecting--;
    free(client->head);
    client->head = NULL;
    if (failure) {
        if (!failed++) snprintf(first_failure, sizeof first_failure, "%s", failure);
        close(client->fd);
        client->state = CLOSED;
    } else {
        client->state = LIVE;
        live++;
        connect_times[connect_count++] = now() - client->started;
    }
    if (opened < goal) {
        open_next();
    } else if (!connecting) {
        qsort(connect_times, connect_count, sizeof *connect_times, by_size);
        printf("{\"connected\": %zu, \"failed\": %zu, \"failure\": \"%s\", \"seconds\": %.6f, \"p50\": %.3f, "
               "\"p99\": %.3f}\n",
               live, failed, first_failure, (now() - connect_started) / 1e6,
               percentile(connect_times, connect_count, 0.5), percentile(connect_times, connect_count, 0.99));
    }
}

static void open_next(void) {
    struct client *client = &clients[opened++];
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    memset(client, 0, sizeof *client);
    client->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (client->fd < 0) die("socket");
    int yes = 1;
    setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    client->state = CONNECTING;
    client->started = client->acknowledged_at = now();
    client->unacknowledged = random() % (ACK_BYTES / 2);
    client->head = malloc(HEAD_LIMIT);
    connecting++;
    if (connect(client->fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS) die("connect");
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = client};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, client->fd, &event) < 0) die("epoll_ctl");
}

static void writable(struct client *client) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(client->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) return connected(client, strerror(error));
    size_t index = client - clients;
    if (send(client->fd, requests[index], request_lengths[index], MSG_NOSIGNAL) != request_lengths[index])
        return connected(client, "the request could not be sent in one piece");
    client->state = HEAD;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
    epoll_ctl(epoll, EPOLL_CTL_MOD, client->fd, &event);
}

static void body(struct client *client, const unsigned char *text, size_t length, uint64_t at) {
    if (framed)
        frames(client, text, length, at);
    else
        scan(client, text, length, at);
}

/* Until READY has come, everything is kept, because it may come in any number of pieces. */
static void head(struct client *client, size_t length, uint64_t at) {
    if (client->head_length + length >= HEAD_LIMIT) return connected(client, "no end of the answer's head");
    memcpy(client->head + client->head_length, buffer, length);
    client->head_length += length;
    client->head[client->head_length] = 0;
    char *end = memmem(client->head, client->head_length, "\r\n\r\n", 4);
    if (!end) return;
    end += 4;
    if (memcmp(client->head + 8, framed ? " 101" : " 200", 4)) {
        char status[64];
        snprintf(status, sizeof status, "%.*s", (int)strcspn(client->head, "\r"), client->head);
        return connected(client, status);
    }
    size_t rest = client->head + client->head_length - end, fresh = rest < length ? rest : length;
    if (!client->head_done) {
        client->head_done = 1;
        if (socket_io) send_frame(client, 1, "40", 2);
    }
    int is_ready = !*ready || memmem(end, rest, ready, strlen(ready));
    body(client, buffer + length - fresh, fresh, at);
    if (is_ready) connected(client, NULL);
}

static void readable(struct client *client) {
    ssize_t length = recv(client->fd, buffer, BUFFER, 0);
    if (length < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (length <= 0) {
        if (client->state != LIVE) return connected(client, length ? strerror(errno) : "closed by the server");
        close(client->fd);
        client->state = CLOSED;
        ended++;
        live--;
        return;
    }
    uint64_t at = now();
    bytes += length;
    if (client->state == HEAD)
        head(client, length, at);
    else
        body(client, buffer, length, at);
}

/* ------------------------------------------------------------------ commands */

static void command(char *line) {
    size_t number, parallel;
    if (sscanf(line, "connect %zu %zu", &number, &parallel) == 2 && number > opened && number <= capacity) {
        goal = number;
        at_once = parallel;
        failed = connect_count = 0;
        first_failure[0] = 0;
        connect_started = now();
        while (connecting < at_once && opened < goal) open_next();
        return;
    }
    if (sscanf(line, "base %zu", &number) == 1) {
        for (size_t i = 0; i < opened; i++) clients[i].expected = number;
    } else if (!strcmp(line, "reset")) {
        delivered = lost = duplicate = foreign = bytes = sample_count = 0;
    } else if (!strcmp(line, "stats")) {
        qsort(samples, sample_count, sizeof *samples, by_size);
        printf("{\"delivered\": %lu, \"lost\": %lu, \"duplicate\": %lu, \"foreign\": %lu, \"ended\": %lu, \"bytes\": %lu, "
               "\"p50\": %.3f, \"p99\": %.3f, \"longest\": %.3f}\n",
               delivered, lost, duplicate, foreign, ended, bytes, percentile(samples, sample_count, 0.5),
               percentile(samples, sample_count, 0.99), percentile(samples, sample_count, 1));
        return;
    } else if (!strcmp(line, "close")) {
        for (size_t i = 0; i < opened; i++)
            if (clients[i].state != CLOSED) close(clients[i].fd);
        opened = live = connecting = ended = 0;
        memset(counts, 0, COUNTS * sizeof *counts);
    } else {
        fprintf(stderr, "not a command: %s\n", line);
        exit(1);
    }
    printf("{\"done\": \"%s\"}\n", line);
}

static void commands(void) {
    static char line[256];
    static size_t length;
    char byte[256];
    ssize_t got = read(0, byte, sizeof byte);
    if (got <= 0) exit(0);
    for (ssize_t i = 0; i < got; i++) {
        if (byte[i] != '\n') {
            if (length < sizeof line - 1) line[length++] = byte[i];
            continue;
        }
        line[length] = 0;
        length = 0;
        command(line);
    }
}

static void read_requests(const char *path) {
    FILE *file = fopen(path, "rb");
    uint32_t length;
    if (!file) die(path);
    while (fread(&length, sizeof length, 1, file) == 1) {
        requests = realloc(requests, (capacity + 1) * sizeof *requests);
        request_lengths = realloc(request_lengths, (capacity + 1) * sizeof *request_lengths);
        requests[capacity] = malloc(length);
        request_lengths[capacity] = length;
        if (fread(requests[capacity++], 1, length, file) != length) die(path);
    }
    fclose(file);
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: load PORT PROTOCOL READY REQUESTS\n");
        return 2;
    }
    port = atoi(argv[1]);
    framed = strcmp(argv[2], "sse") != 0;
    acknowledges = !strcmp(argv[2], "ack");
    socket_io = !strcmp(argv[2], "sio");
    ready = argv[3];
    read_requests(argv[4]);
    clients = calloc(capacity, sizeof *clients);
    connect_times = calloc(capacity, sizeof *connect_times);
    counts = calloc(COUNTS, sizeof *counts);
    samples = malloc(SAMPLES * sizeof *samples);
    setvbuf(stdout, NULL, _IOLBF, 0);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[512];
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &event) < 0) die("epoll_ctl");
    for (;;) {
        int count = epoll_wait(epoll, events, 512, -1);
        for (int i = 0; i < count; i++) {
            struct client *client = events[i].data.ptr;
            if (!client)
                commands();
            else if (client->state == CONNECTING)
                writable(client);
            else if (client->state == HEAD || client->state == LIVE)
                readable(client);
        }
        usleep(NAP);
    }
}
