/* The floor: what the kernel asks for when the same bytes go to each of many connections, and nothing else is done.
 *
 *     floor PORT
 *
 * Answers each GET with the head of an event stream. A connection that begins with "PUB\n" publishes: each message is a
 * length and a recipient (32 bits each, little endian; -1: everybody), then the bytes. Who a connection belongs to is
 * the number after "user=" in its request. No login, no log, no cursor, no heartbeat, no limits.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LIMIT = 65536, BUFFER = 1 << 20 };

static int by_user[LIMIT], everybody[LIMIT], place[LIMIT], count, publisher = -1;
static unsigned char buffer[BUFFER];
static size_t filled;

static void forget(int fd) {
    if (place[fd]) {
        int last = everybody[--count];
        everybody[place[fd] - 1] = last;
        place[last] = place[fd];
        place[fd] = 0;
    }
    if (fd == publisher) publisher = -1;
    close(fd);
}

static void publish(void) {
    size_t at = 0;
    while (filled - at >= 8) {
        uint32_t length;
        int32_t to;
        memcpy(&length, buffer + at, 4);
        memcpy(&to, buffer + at + 4, 4);
        if (filled - at - 8 < length) break;
        if (to < 0)
            for (int i = 0; i < count; i++) send(everybody[i], buffer + at + 8, length, MSG_NOSIGNAL);
        else if (by_user[to])
            send(by_user[to], buffer + at + 8, length, MSG_NOSIGNAL);
        at += 8 + length;
    }
    memmove(buffer, buffer + at, filled - at);
    filled -= at;
}

static void readable(int fd) {
    static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n\r\n";
    char request[4096];
    ssize_t length;
    if (fd == publisher) {
        length = recv(fd, buffer + filled, BUFFER - filled, 0);
        if (length <= 0) return forget(fd);
        filled += length;
        return publish();
    }
    length = recv(fd, request, sizeof request - 1, 0);
    if (length <= 0) return forget(fd);
    request[length] = 0;
    if (!strncmp(request, "PUB\n", 4)) {
        publisher = fd;
        filled = length - 4;
        memcpy(buffer, request + 4, filled);
        return publish();
    }
    char *user = strstr(request, "user=");
    if (user) by_user[atoi(user + 5) % LIMIT] = fd;
    everybody[count++] = fd;
    place[fd] = count;
    send(fd, answer, sizeof answer - 1, MSG_NOSIGNAL);
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    struct epoll_event event = {.events = EPOLLIN}, events[512];
    int yes = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), epoll = epoll_create1(0);
    if (argc != 2) return 2;
    address.sin_port = htons(atoi(argv[1]));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) return 1;
    event.data.fd = listener;
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int ready = epoll_wait(epoll, events, 512, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd != listener) {
                readable(fd);
                continue;
            }
            while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
                event.data.fd = fd;
                epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
            }
        }
    }
}
