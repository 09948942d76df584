// The floor: an echo server with its epoll hard-coded, which no server program can get under on this kernel. It has no
// services, no timeouts, no backpressure, no drain, and it trusts its clients: a slow reader holds up everybody.
//
//     cc -O2 -o floor-level floor.c            level-triggered
//     cc -O2 -DET -o floor-edge floor.c        edge-triggered
//
// It takes no argument, listens on a free port of 127.0.0.1 and says which on stdout, in the words of `eagain serve`.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#ifdef ET
enum { edge = 1, interest = EPOLLIN | EPOLLRDHUP | EPOLLET };
#else
enum { edge = 0, interest = EPOLLIN };
#endif

static char buffer[128 * 1024]; // as large as the receive buffer that it is compared with
static struct epoll_event ready[1024];

static void die(const char *what) { perror(what), exit(1); }

static int send_all(int client, size_t length) {
    for (size_t sent = 0; sent < length;) {
        ssize_t took = send(client, buffer + sent, length - sent, MSG_NOSIGNAL);
        if (took < 0 && errno != EAGAIN) return -1;
        if (took < 0) poll(&(struct pollfd){.fd = client, .events = POLLOUT}, 1, -1);
        else sent += took;
    }
    return 0;
}

static void echo(int client, uint32_t events) {
    for (;;) {
        ssize_t got = recv(client, buffer, sizeof buffer, 0);
        if (got < 0 && errno == EAGAIN) return;
        if (got <= 0 || send_all(client, got) < 0) {
            close(client); // the only descriptor of this socket, so epoll forgets it too
            return;
        }
        // Level: what is left is reported again. Edge: a short read was all, unless the end came with it.
        if (!edge || (got < (ssize_t)sizeof buffer && !(events & EPOLLRDHUP))) return;
    }
}

static void accept_all(int epoll, int listener) {
    for (int client; (client = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        struct epoll_event event = {.events = interest, .data.fd = client};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, client, &event)) die("epoll_ctl");
    }
    if (errno != EAGAIN && errno != ECONNABORTED) die("accept4");
}

int main(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1, epoll = epoll_create1(0);
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); // accepted sockets inherit it
    if (bind(listener, (void *)&address, length) || listen(listener, 65535)) die("listen"); // clipped to somaxconn
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event)) die("epoll_ctl");
    if (getsockname(listener, (void *)&address, &length)) die("getsockname");
    printf("listening echo 127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        int count = epoll_wait(epoll, ready, 1024, -1);
        for (int i = 0; i < count; i++) {
            if (ready[i].data.fd == listener) accept_all(epoll, listener);
            else echo(ready[i].data.fd, ready[i].events);
        }
    }
}
