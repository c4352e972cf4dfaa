// labload's connections: non-blocking ones by the hundred, and blocking ones for single questions.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "labload.h"
#include "pattern.h"

#define NOT_ADDED 0xffffffffu
#define MAX_HEAD 2048

bool parse_address(const char *text, int port, union Address *out) {
  memset(out, 0, sizeof *out);
  if (inet_pton(AF_INET, text, &out->v4.sin_addr) == 1) {
    out->v4.sin_family = AF_INET;
    out->v4.sin_port = htons((uint16_t)port);
    return true;
  }
  if (inet_pton(AF_INET6, text, &out->v6.sin6_addr) == 1) {
    out->v6.sin6_family = AF_INET6;
    out->v6.sin6_port = htons((uint16_t)port);
    return true;
  }
  return false;
}

static socklen_t address_length(const union Address *a) {
  return a->any.sa_family == AF_INET ? sizeof a->v4 : sizeof a->v6;
}

// --port overrides; --spread K: destination, destination + 1, ... destination + K - 1
static union Address destination_for(int port, unsigned index) {
  union Address d = options.destination;
  uint16_t wanted = htons((uint16_t)(options.port ? options.port : port));
  unsigned step = index % (unsigned)options.spread;
  if (d.any.sa_family == AF_INET) {
    d.v4.sin_port = wanted;
    d.v4.sin_addr.s_addr = htonl(ntohl(d.v4.sin_addr.s_addr) + step);
  } else {
    d.v6.sin6_port = wanted;
    d.v6.sin6_addr.s6_addr[15] = (uint8_t)(d.v6.sin6_addr.s6_addr[15] + step);
  }
  return d;
}

static int connect_request(const union Address *d, char *text, size_t size) {
  char host[64], authority[80];
  if (d->any.sa_family == AF_INET) {
    inet_ntop(AF_INET, &d->v4.sin_addr, host, sizeof host);
    snprintf(authority, sizeof authority, "%s:%d", host, ntohs(d->v4.sin_port));
  } else {
    inet_ntop(AF_INET6, &d->v6.sin6_addr, host, sizeof host);
    snprintf(authority, sizeof authority, "[%s]:%d", host, ntohs(d->v6.sin6_port));
  }
  return snprintf(text, size, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", authority, authority);
}

static bool is_success(const char *reply) {
  return !strncmp(reply, "HTTP/1.", 7) && !strncmp(reply + 8, " 200", 4);
}

void load_watch(struct Load *l, uint32_t events) {
  if (l->events == events)
    return;
  struct epoll_event e = {.events = events, .data.ptr = l};
  epoll_ctl(epoll, l->events == NOT_ADDED ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, l->fd, &e);
  l->events = events;
}

int load_start(struct Load *l, int port) {
  l->destination = destination_for(port, l->index);
  l->events = NOT_ADDED;
  l->error = 0;
  l->started_ns = monotonic_ns();
  const union Address *to = options.has_proxy ? &options.proxy : &l->destination;
  l->fd = socket(to->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (l->fd < 0) {
    l->error = errno;
    return -1;
  }
  int one = 1;
  setsockopt(l->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (connect(l->fd, &to->any, address_length(to)) && errno != EINPROGRESS) {
    l->error = errno;
    close(l->fd);
    l->fd = -1;
    return -1;
  }
  l->state = CONNECTING;
  load_watch(l, EPOLLOUT);
  return 0;
}

void load_close(struct Load *l) {
  if (l->fd >= 0)
    close(l->fd);
  l->fd = -1;
  l->state = CLOSED;
}

static int fail(struct Load *l, int error) {
  l->error = error;
  return -1;
}

static int step_connecting(struct Load *l) {
  int error = 0;
  socklen_t length = sizeof error;
  getsockopt(l->fd, SOL_SOCKET, SO_ERROR, &error, &length);
  if (error)
    return fail(l, error);
  if (!options.has_proxy) {
    l->state = READY;
    return 1;
  }
  char request[256];
  int n = connect_request(&l->destination, request, sizeof request);
  if (send(l->fd, request, (size_t)n, MSG_NOSIGNAL) != n)
    return fail(l, errno);
  l->state = AWAIT_REPLY;
  load_watch(l, EPOLLIN);
  return 0;
}

int load_step(struct Load *l) {
  if (l->state == CONNECTING)
    return step_connecting(l);
  char reply[MAX_HEAD + 1];
  ssize_t got = recv(l->fd, reply, MAX_HEAD, MSG_PEEK);
  if (got < 0)
    return errno == EAGAIN ? 0 : fail(l, errno);
  if (got == 0)
    return fail(l, ECONNRESET);
  reply[got] = 0;
  const char *end = strstr(reply, "\r\n\r\n");
  if (!end)
    return 0;
  if (recv(l->fd, reply, (size_t)(end + 4 - reply), 0) < 0)
    return fail(l, errno);
  if (!is_success(reply))
    return fail(l, ECONNREFUSED);
  l->state = READY;
  return 1;
}

int load_connect_all(struct Load *all, int count, const int *ports, int window) {
  struct epoll_event events[256];
  int started = 0, settled = 0, ready = 0;
  double end = now() + options.timeout_s;
  while (settled < count && now() < end) {
    for (; started < count && started - settled < window; started++) {
      struct Load *l = &all[started];
      l->index = (unsigned)started;
      if (load_start(l, ports[started])) {
        l->state = CLOSED;
        settled++;
      }
    }
    int n = epoll_wait(epoll, events, 256, 200);
    for (int i = 0; i < n; i++) {
      struct Load *l = events[i].data.ptr;
      int outcome = load_step(l);
      if (outcome == 0)
        continue;
      settled++;
      if (outcome < 0) {
        load_close(l);
        continue;
      }
      load_watch(l, 0);
      ready++;
      l->is_alive = true;
    }
  }
  for (int i = 0; i < count; i++) {
    struct Load *l = &all[i];
    if (i >= started)
      l->fd = -1;
    else if (l->state == READY || l->state == CLOSED)
      continue;
    l->error = ETIMEDOUT;
    load_close(l);
  }
  return ready;
}

void print_load_errors(const struct Load *all, int count) {
  int counts[ERRNO_COUNT] = {0};
  for (int i = 0; i < count; i++)
    if (all[i].error > 0)
      counts[all[i].error % ERRNO_COUNT]++;
  print_errors(counts);
}

// CONNECT on a blocking socket. @return 0 or an errno
static int blocking_handshake(int fd, const union Address *d) {
  char text[MAX_HEAD + 1];
  int n = connect_request(d, text, sizeof text);
  if (send(fd, text, (size_t)n, MSG_NOSIGNAL) != n)
    return errno;
  for (int got = 0; got < MAX_HEAD;) {
    ssize_t r = recv(fd, text + got, 1, 0);
    if (r == 0)
      return ECONNRESET;
    if (r < 0)
      return errno == EAGAIN ? ETIMEDOUT : errno;
    got++;
    if (got >= 4 && !memcmp(text + got - 4, "\r\n\r\n", 4)) {
      text[got] = 0;
      return is_success(text) ? 0 : ECONNREFUSED;
    }
  }
  return EPROTO;
}

int blocking_connect(int port, int timeout_s, double *ms, int *error) {
  union Address d = destination_for(port, 0);
  const union Address *to = options.has_proxy ? &options.proxy : &d;
  double start = now();
  int one = 1, fd = socket(to->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct timeval timeout = {timeout_s, 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  *error = 0;
  if (connect(fd, &to->any, address_length(to)))
    *error = errno == EINPROGRESS ? ETIMEDOUT : errno;
  else if (options.has_proxy)
    *error = blocking_handshake(fd, &d);
  *ms = (now() - start) * 1000;
  if (*error == 0)
    return fd;
  close(fd);
  return -1;
}

ssize_t read_all(int fd, void *bytes, size_t count) {
  size_t got = 0;
  while (got < count) {
    ssize_t r = recv(fd, (char *)bytes + got, count - got, 0);
    if (r < 0)
      return -1;
    if (r == 0)
      break;
    got += (size_t)r;
  }
  return (ssize_t)got;
}

int send_all(int fd, const void *bytes, size_t count) {
  size_t sent = 0;
  while (sent < count) {
    ssize_t r = send(fd, (const char *)bytes + sent, count - sent, MSG_NOSIGNAL);
    if (r < 0)
      return -1;
    sent += (size_t)r;
  }
  return 0;
}
