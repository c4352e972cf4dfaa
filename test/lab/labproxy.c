// labproxy: an upstream proxy and the origin behind it in one process, for tests and benchmarks.
//
// It speaks HTTP CONNECT and SOCKS5 on one port, told apart by the first byte, and then plays the
// origin itself: the host of the target is ignored, its port picks the behaviour.
//
//   9001  discards; on the client's FIN closes, so EOF at the client says that all arrived
//   9002  endless source until the client closes or half-closes
//   9003  (and any other port) echo; on the client's FIN flushes, then closes
//   9004  reads one line, sends 1024 bytes, closes
//   9005  line "N [OFFSET]\n": N pattern bytes, FIN, then waits for the client's FIN
//   9006  reads to the client's FIN, answers FNV-1a-64 of it all in hex, closes
//   9007  sends 65536 pattern bytes and FIN, then counts what still comes (stats: hc_bytes)
//   9008  a line: one JSON line of counters
//   9010  502                              9017  403
//   9011  takes the CONNECT, never answers 9012  200, then RST at once
//   9013  closes without an answer         9014  the 200 a byte at a time, then echo
//   9015  HTTP/1.0 200, Content-Length, long headers, "BANNER hello\r\n" in the same write, echo
//   9016  200 after 400 ms, then echo      9018  200; RST at the client's first byte
//   9019  403 after 400 ms                 9020  "100 Continue", then the 200, then echo
//   9021  200 and headers without end      9022  an SSH banner in place of an HTTP reply
//   9023  half a reply head, then silence  9024  204, then echo
//   9025  407 that offers NTLM, Negotiate  9026  504
//
// With -v each target is a line "connect http HOST PORT", each HTTP refusal a line
// "answer STATUS PORT NANOSECONDS" (CLOCK_MONOTONIC, after the answer was sent).
// -D MS plays a proxy whose round trip is MS away, where only the set-up is of interest: the answer to
// CONNECT comes one round trip after the request and no earlier than two after accept(), which took
// no time here and one round trip there. So a connection that was opened ahead saves MS, as it would.
// Bytes that follow are not delayed.
//
// SIGUSR1 prints the counters to stderr.
#define _GNU_SOURCE
#include "labproxy.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pattern.h"

#define MAX_THREADS 64
#define READ_SIZE 262144
#define DISCARD_SIZE (4u << 20)
#define NOT_ADDED 0xffffffffu

__thread struct Worker *worker;
const unsigned char *pattern;
bool is_verbose;
char *expected_credentials;
unsigned distance_ms;

static struct Worker workers[MAX_THREADS];
static int thread_count = 1;
static const char *listen_address;

uint64_t now_ms(void) {
  return monotonic_ns() / 1000000;
}

static void watch(struct Connection *c, uint32_t events) {
  if (c->dead || c->events == events)
    return;
  struct epoll_event e = {.events = events, .data.ptr = c};
  epoll_ctl(worker->epoll, c->events == NOT_ADDED ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, c->fd, &e);
  c->events = events;
}

void close_connection(struct Connection *c, bool reset) {
  if (c->dead)
    return;
  c->dead = true;
  if (reset) {
    struct linger at_once = {1, 0};
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  }
  close(c->fd);
  free(c->handshake);
  free(c->pending);
  c->handshake = c->pending = NULL;
  worker->stats.active--;
  if (c->state != DELAYED) {  // a delayed one is still in that list, which frees it
    c->next = worker->dead;
    worker->dead = c;
  }
}

void delay_answer(struct Connection *c, uint64_t ms) {
  c->state = DELAYED;
  c->due_ms = now_ms() + ms;
  c->next = worker->delayed;
  worker->delayed = c;
}

void send_bytes(struct Connection *c, const void *bytes, size_t count) {
  if (c->dead || count == 0)
    return;
  if (c->pending_length == 0) {
    ssize_t sent = send(c->fd, bytes, count, MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno != EAGAIN) {
        close_connection(c, false);
        return;
      }
      sent = 0;
    }
    worker->stats.out += (uint64_t)sent;
    bytes = (const char *)bytes + sent;
    count -= (size_t)sent;
    if (count == 0)
      return;
  }
  if (c->pending_offset != 0) {
    memmove(c->pending, c->pending + c->pending_offset, c->pending_length);
    c->pending_offset = 0;
  }
  c->pending = realloc(c->pending, c->pending_length + count);
  memcpy(c->pending + c->pending_length, bytes, count);
  c->pending_length += count;
}

// True when nothing is pending any more.
static bool flush(struct Connection *c) {
  while (c->pending_length != 0) {
    ssize_t sent = send(c->fd, c->pending + c->pending_offset, c->pending_length, MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno != EAGAIN)
        close_connection(c, false);
      return false;
    }
    worker->stats.out += (uint64_t)sent;
    c->pending_offset += (size_t)sent;
    c->pending_length -= (size_t)sent;
  }
  free(c->pending);
  c->pending = NULL;
  c->pending_offset = 0;
  return true;
}

void stats_text(char *text, size_t size) {
  struct Stats s = {0};
  for (int i = 0; i < thread_count; i++)
    for (size_t k = 0; k < sizeof s / sizeof(uint64_t); k++)
      ((uint64_t *)&s)[k] += ((volatile uint64_t *)&workers[i].stats)[k];
  typedef unsigned long long ull;
  snprintf(text, size,
           "{\"accepted\":%llu,\"connects\":%llu,\"active\":%llu,\"in\":%llu,\"out\":%llu,"
           "\"refused\":%llu,\"authfail\":%llu,\"rst_seen\":%llu,\"eof_seen\":%llu,"
           "\"hc_bytes\":%llu,\"lines\":%llu,\"bad\":%llu}\n",
           (ull)s.accepted, (ull)s.connects, (ull)s.active, (ull)s.in, (ull)s.out, (ull)s.refused,
           (ull)s.authfail, (ull)s.rst_seen, (ull)s.eof_seen, (ull)s.hc_bytes, (ull)s.lines,
           (ull)s.bad);
}

void feed(struct Connection *c, const unsigned char *bytes, size_t count) {
  if (c->dead || c->close_when_sent || count == 0)
    return;
  if (c->state <= DELAYED)
    handshake_feed(c, bytes, count);
  else
    origin_feed(c, bytes, count);
}

static void read_some(struct Connection *c) {
  for (int reads = 0; reads < 8; reads++) {
    bool drop = c->state == DISCARD || c->state == DRAIN || c->state == SOURCE;
    ssize_t got =
        recv(c->fd, worker->buffer, drop ? DISCARD_SIZE : READ_SIZE, drop ? MSG_TRUNC : 0);
    if (got < 0) {
      if (errno == EAGAIN)
        return;
      if (errno == ECONNRESET)
        worker->stats.rst_seen++;
      close_connection(c, false);
      return;
    }
    if (got == 0) {
      if (!c->close_when_sent) {
        worker->stats.eof_seen++;
        c->saw_eof = true;
        origin_eof(c);
      }
      return;
    }
    worker->stats.in += (uint64_t)got;
    if (!drop)
      feed(c, worker->buffer, (size_t)got);
    if (c->dead || c->pending_length != 0 || c->close_when_sent || c->state == DELAYED)
      return;
    if (got < 65536)  // the queue is most likely empty; level-triggered epoll tells of more
      return;
  }
}

static void handle(struct Connection *c, uint32_t events) {
  if (c->dead)
    return;
  if (c->state == DELAYED) {
    if (events & (EPOLLHUP | EPOLLERR))
      watch(c, 0);
    return;
  }
  if (c->pending_length != 0 && !flush(c)) {
    watch(c, EPOLLOUT);
    return;
  }
  if (!c->close_when_sent && !c->saw_eof &&
      (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
    read_some(c);
  if (c->dead)
    return;
  if (c->pending_length != 0) {
    watch(c, EPOLLOUT);
    return;
  }
  if (c->close_when_sent) {
    close_connection(c, false);
    return;
  }
  if (c->state == DELAYED) {
    watch(c, 0);
    return;
  }
  bool wants_room = origin_send(c);
  watch(c, (c->saw_eof ? 0u : EPOLLIN | EPOLLRDHUP) | (wants_room ? EPOLLOUT : 0u));
}

static int listen_on(int port) {
  char service[8];
  snprintf(service, sizeof service, "%d", port);
  struct addrinfo *address;
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                           .ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV};
  int failure = getaddrinfo(listen_address, service, &hints, &address);
  if (failure) {
    fprintf(stderr, "labproxy: %s: %s\n", listen_address, gai_strerror(failure));
    exit(1);
  }
  int fd = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  int one = 1, zero = 0;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);  // accepted sockets inherit it
  if (address->ai_family == AF_INET6)
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
  if (bind(fd, address->ai_addr, address->ai_addrlen) || listen(fd, 65535)) {
    fprintf(stderr, "labproxy: bind %s:%d: %s\n", listen_address, port, strerror(errno));
    exit(1);
  }
  freeaddrinfo(address);
  return fd;
}

static void add_listener(struct Worker *w, int port, int listener) {
  struct Connection *l = calloc(1, sizeof *l);
  l->fd = listen_on(port);
  l->listener = listener;
  struct epoll_event e = {.events = EPOLLIN, .data.ptr = l};
  epoll_ctl(w->epoll, EPOLL_CTL_ADD, l->fd, &e);
}

static void accept_some(struct Connection *listener) {
  for (int i = 0; i < 64; i++) {
    int fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
      if (errno != EAGAIN && errno != ECONNABORTED) {
        fprintf(stderr, "labproxy: accept: %s\n", strerror(errno));
        usleep(10000);
      }
      return;
    }
    struct Connection *c = calloc(1, sizeof *c);
    c->fd = fd;
    c->events = NOT_ADDED;
    c->accepted_ms = distance_ms ? now_ms() : 0;
    worker->stats.accepted++;
    worker->stats.active++;
    if (listener->listener > 1)
      origin_begin(c, listener->listener);
    handle(c, EPOLLIN);
  }
}

static void run_delayed(void) {
  uint64_t now = now_ms();
  struct Connection *c = worker->delayed;
  worker->delayed = NULL;
  while (c != NULL) {
    struct Connection *next = c->next;
    if (c->due_ms > now) {
      c->next = worker->delayed;
      worker->delayed = c;
    } else {
      answer_delayed(c);
      handle(c, EPOLLIN);
    }
    c = next;
  }
}

static void *run_worker(void *argument) {
  worker = argument;
  worker->buffer = mmap(NULL, DISCARD_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                        -1, 0);
  struct epoll_event events[256];
  const int poll_ms = distance_ms ? 1 : 5;
  for (;;) {
    int ready = epoll_wait(worker->epoll, events, 256, worker->delayed ? poll_ms : -1);
    for (int i = 0; i < ready; i++) {
      struct Connection *c = events[i].data.ptr;
      if (c->listener)
        accept_some(c);
      else
        handle(c, events[i].events);
    }
    if (worker->delayed)
      run_delayed();
    while (worker->dead) {
      struct Connection *c = worker->dead;
      worker->dead = c->next;
      free(c);
    }
  }
  return NULL;
}

static char *base64(const char *text) {
  static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  size_t length = strlen(text);
  char *out = malloc(length / 3 * 4 + 5), *o = out;
  for (size_t i = 0; i < length; i += 3) {
    unsigned second = i + 1 < length ? (unsigned char)text[i + 1] : 0;
    unsigned third = i + 2 < length ? (unsigned char)text[i + 2] : 0;
    unsigned v = (unsigned)(unsigned char)text[i] << 16 | second << 8 | third;
    *o++ = alphabet[v >> 18];
    *o++ = alphabet[v >> 12 & 63];
    *o++ = i + 1 < length ? alphabet[v >> 6 & 63] : '=';
    *o++ = i + 2 < length ? alphabet[v & 63] : '=';
  }
  *o = 0;
  return out;
}

static void print_stats(int signal_number) {
  (void)signal_number;
  char text[1024];
  stats_text(text, sizeof text);
  if (write(STDERR_FILENO, text, strlen(text)) < 0)
    return;
}

int main(int argc, char **argv) {
  static const char usage[] =
      "usage: labproxy [-t THREADS] [-a USER:PASS] [-D MS] [-d] [-v] ADDRESS PORT\n"
      "  -d  also plays the origin on ADDRESS:9001..9008, without a handshake\n"
      "  -D  answers a CONNECT as a proxy MS milliseconds of round trip away would\n";
  bool direct = false;
  for (int option; (option = getopt(argc, argv, "t:a:D:dv")) != -1;) {
    switch (option) {
      case 't': thread_count = atoi(optarg); break;
      case 'a': expected_credentials = base64(optarg); break;
      case 'D': distance_ms = (unsigned)atoi(optarg); break;
      case 'd': direct = true; break;
      case 'v': is_verbose = true; break;
      default: fputs(usage, stderr); return 2;
    }
  }
  if (argc - optind != 2 || thread_count < 1 || thread_count > MAX_THREADS) {
    fputs(usage, stderr);
    return 2;
  }
  listen_address = argv[optind];
  int port = atoi(argv[optind + 1]);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGUSR1, print_stats);
  raise_open_files();
  pattern = pattern_new();
  for (int i = 0; i < thread_count; i++) {
    workers[i].epoll = epoll_create1(EPOLL_CLOEXEC);
    add_listener(&workers[i], port, 1);
    for (int p = 9001; direct && p <= 9008; p++)
      add_listener(&workers[i], p, p);
  }
  printf("labproxy ready %s:%d threads=%d\n", listen_address, port, thread_count);
  fflush(stdout);
  pthread_t thread;
  for (int i = 1; i < thread_count; i++)
    pthread_create(&thread, NULL, run_worker, &workers[i]);
  run_worker(&workers[0]);
}
