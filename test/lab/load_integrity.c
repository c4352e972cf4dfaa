// labload integrity: many connections of random sizes with random stalls, every byte checked.
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "labload.h"
#include "pattern.h"

enum Kind { DOWNLOAD, UPLOAD, BOTH_WAYS };

// Reads stay below PATTERN_TAIL, so that one memcmp() compares them.
#define MAX_READ 200000u
#define MAX_SEND 262144u

static struct {
  uint64_t bytes, good, corrupt, truncated, failed, stalls;
  int errors[ERRNO_COUNT];
  char first_problem[160];
} totals;

static uint64_t pick_size(void) {
  switch (random_number() % 6) {
    case 0: return 0;
    case 1: return random_number() % 64;
    case 2: return random_number() % 4096;
    case 3: return random_number() % 131072;
    default: return random_number() % (options.max_size + 1);
  }
}

static void finish(struct Load *l) {
  l->is_finished = true;
  load_close(l);
}

static void note_problem(struct Load *l, const char *why, int error) {
  if (totals.first_problem[0] == 0)
    snprintf(totals.first_problem, sizeof totals.first_problem,
             "conn %u kind %d want %llu sent %llu got %llu: %s %s", l->index, l->kind,
             (ull)l->want, (ull)l->sent, (ull)l->got, why, error_name(error));
  finish(l);
}

static void fail(struct Load *l, int error, const char *why) {
  totals.failed++;
  totals.errors[error % ERRNO_COUNT]++;
  note_problem(l, why, error);
}

static void truncated(struct Load *l, const char *why) {
  totals.truncated++;
  note_problem(l, why, 0);
}

static void corrupt(struct Load *l, const char *why) {
  totals.corrupt++;
  note_problem(l, why, 0);
}

static void start(struct Load *l, unsigned index) {
  static const int ports[] = {[DOWNLOAD] = 9005, [UPLOAD] = 9006, [BOTH_WAYS] = 9003};
  memset(l, 0, sizeof *l);
  l->index = index;
  l->kind = options.kinds[index % strlen(options.kinds)] - '0';
  l->want = pick_size();
  l->offset = random_number() % PATTERN_PERIOD;
  l->progress_ns = monotonic_ns();
  if (load_start(l, ports[l->kind]))
    fail(l, l->error, "connect");
}

static bool wants_room(const struct Load *l) {
  return l->kind == DOWNLOAD ? l->line_sent < l->line_length : !l->sent_fin;
}

static void become_ready(struct Load *l) {
  l->progress_ns = monotonic_ns();
  if (l->kind == DOWNLOAD)
    l->line_length =
        snprintf(l->line, sizeof l->line, "%llu %llu\n", (ull)l->want, (ull)l->offset);
  load_watch(l, EPOLLIN | EPOLLOUT);
}

static void send_request_line(struct Load *l) {
  while (l->line_sent < l->line_length) {
    ssize_t sent = send(l->fd, l->line + l->line_sent, (size_t)(l->line_length - l->line_sent),
                        MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno != EAGAIN)
        fail(l, errno, "send line");
      return;
    }
    l->line_sent += (int)sent;
  }
}

static void send_some(struct Load *l) {
  uint64_t left = l->want - l->sent, size = random_number() % MAX_SEND + 1;
  if (size > left)
    size = left;
  if (size != 0) {
    const unsigned char *from = pattern + (l->offset + l->sent) % PATTERN_PERIOD;
    ssize_t sent = send(l->fd, from, size, MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno != EAGAIN)
        fail(l, errno, "send");
      return;
    }
    l->sent += (uint64_t)sent;
    totals.bytes += (uint64_t)sent;
    l->progress_ns = monotonic_ns();
  }
  if (l->sent == l->want) {
    l->sent_fin = true;
    shutdown(l->fd, SHUT_WR);
  }
}

static void check_received(struct Load *l, size_t count) {
  l->progress_ns = monotonic_ns();
  if (l->kind == UPLOAD) {
    if ((size_t)l->reply_length + count >= sizeof l->reply) {
      corrupt(l, "reply too long");
      return;
    }
    memcpy(l->reply + l->reply_length, read_buffer, count);
    l->reply_length += (int)count;
    return;
  }
  if (l->got + count > l->want) {
    l->got += count;
    corrupt(l, "too many bytes");
    return;
  }
  const unsigned char *expected = pattern + (l->offset + l->got) % PATTERN_PERIOD;
  if (memcmp(read_buffer, expected, count)) {
    for (size_t i = 0; read_buffer[i] == expected[i]; i++)
      l->got++;
    corrupt(l, "byte differs");
    return;
  }
  l->got += count;
  totals.bytes += count;
}

// FNV-1a of `count` pattern bytes.
static uint64_t pattern_hash(uint64_t offset, uint64_t count) {
  uint64_t hash = FNV_OFFSET_BASIS;
  while (count != 0) {
    uint64_t part = PATTERN_PERIOD - offset < count ? PATTERN_PERIOD - offset : count;
    hash = fnv1a(hash, pattern + offset, part);
    count -= part;
    offset = 0;
  }
  return hash;
}

static void check_end(struct Load *l) {
  if (l->kind != DOWNLOAD && !l->sent_fin) {
    truncated(l, "EOF before our FIN");
    return;
  }
  if (l->kind == UPLOAD) {
    char expected[32];
    snprintf(expected, sizeof expected, "%016llx\n", (ull)pattern_hash(l->offset, l->want));
    l->reply[l->reply_length] = 0;
    if (l->reply_length == 0) {
      truncated(l, "no hash reply");
      return;
    }
    if (strcmp(expected, l->reply)) {
      corrupt(l, "hash differs");
      return;
    }
  } else if (l->got != l->want) {
    truncated(l, "short: EOF early");
    return;
  }
  totals.good++;
  finish(l);
}

static void read_some(struct Load *l) {
  ssize_t got = recv(l->fd, read_buffer, random_number() % MAX_READ + 1, 0);
  if (got > 0)
    check_received(l, (size_t)got);
  else if (got == 0)
    check_end(l);
  else if (errno != EAGAIN)
    fail(l, errno, "recv");
}

static void maybe_stall(struct Load *l) {
  if (options.stall_ms == 0 || random_number() % 40 != 0)
    return;
  l->wake = now() + (double)(random_number() % (uint64_t)(options.stall_ms * 1000)) / 1e6;
  totals.stalls++;
  load_watch(l, 0);
}

static void handle(struct Load *l, uint32_t events) {
  if (l->state != READY) {
    int outcome = load_step(l);
    if (outcome < 0)
      fail(l, l->error ? l->error : EIO, "connect");
    else if (outcome > 0)
      become_ready(l);
    return;
  }
  if (l->kind == DOWNLOAD)
    send_request_line(l);
  else if (!l->sent_fin && (events & EPOLLOUT))
    send_some(l);
  if (!l->is_finished && (events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP)))
    read_some(l);
  if (l->is_finished)
    return;
  load_watch(l, EPOLLIN | (wants_room(l) ? EPOLLOUT : 0u));
  maybe_stall(l);
}

// Wakes the stalled, gives up on the stuck, starts new ones. @return how many live
static int tend(struct Load *all, unsigned *next, double deadline, double *wait) {
  int live = 0;
  double t = now();
  for (int i = 0; i < options.concurrency; i++) {
    struct Load *l = &all[i];
    while (l->is_finished && *next < (unsigned)options.connections && t < deadline)
      start(l, (*next)++);
    if (l->is_finished)
      continue;
    live++;
    if (l->wake != 0) {
      if (l->wake <= t) {
        l->wake = 0;
        load_watch(l, EPOLLIN | (wants_room(l) ? EPOLLOUT : 0u));
      } else if (l->wake - t < *wait) {
        *wait = l->wake - t;
      }
    } else if (monotonic_ns() - l->progress_ns > (uint64_t)options.timeout_s * 1000000000ull) {
      fail(l, ETIMEDOUT, "no progress");
      live--;
    }
  }
  return live;
}

int mode_integrity(void) {
  if (options.concurrency < 2)
    options.concurrency = 32;
  struct Load *all = calloc((size_t)options.concurrency, sizeof *all);
  struct epoll_event events[256];
  unsigned next = 0;
  int live;
  double cpu = cpu_seconds(), begin = now();
  double deadline = begin + (options.seconds > 5 ? options.seconds : 55);
  for (int i = 0; i < options.concurrency; i++)
    all[i].is_finished = true;
  for (;;) {
    double wait = 0.2;
    live = tend(all, &next, deadline, &wait);
    if (live == 0 || now() > deadline)
      break;
    int n = epoll_wait(epoll, events, 256, (int)(wait * 1000) + 1);
    for (int i = 0; i < n; i++) {
      struct Load *l = events[i].data.ptr;
      bool is_over = events[i].events & (EPOLLHUP | EPOLLERR);
      if (l->is_finished || (l->wake != 0 && !is_over))
        continue;
      l->wake = 0;
      handle(l, events[i].events);
    }
  }
  printf("{\"mode\":\"integrity\",\"conns\":%d,\"started\":%u,\"ok\":%llu,\"corrupt\":%llu,"
         "\"truncated\":%llu,\"failed\":%llu,\"unfinished\":%d,\"bytes\":%llu,\"stalls\":%llu,"
         "\"secs\":%.2f,\"first_problem\":\"%s\"",
         options.connections, next, (ull)totals.good, (ull)totals.corrupt, (ull)totals.truncated,
         (ull)totals.failed, live, (ull)totals.bytes, (ull)totals.stalls, now() - begin,
         totals.first_problem);
  print_errors(totals.errors);
  print_end(cpu);
  return totals.good == (uint64_t)options.connections ? 0 : 1;
}
