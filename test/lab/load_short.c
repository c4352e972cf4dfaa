// labload crr, resets, rtt, idle: how fast connections come and go, how long a byte takes, how many
// are held.
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "labload.h"
#include "pattern.h"

#define REPLY_SIZE 1024
#define MAX_TIMES (1u << 22)
#define WARM_UP 20
// Enough that more is under way when the client resets.
#define BUSY_BYTES 262144

struct Rounds {
  uint64_t done, failed, short_replies;
  int live, errors[ERRNO_COUNT];
  unsigned next_index;
  uint32_t *times_us;
  size_t time_count;
  double last_done;
};

static void count_failure(struct Rounds *r, int error) {
  r->failed++;
  r->errors[error % ERRNO_COUNT]++;
}

static void start_round(struct Rounds *r, struct Load *l) {
  l->index = r->next_index++;
  l->got = 0;
  if (load_start(l, 9004))
    count_failure(r, l->error);
  else
    r->live++;
}

// True when the connection is over, well or badly.
static bool step_round(struct Rounds *r, struct Load *l) {
  if (l->state != READY) {
    int outcome = load_step(l);
    if (outcome == 0)
      return false;
    if (outcome > 0) {
      if (send(l->fd, "GET\n", 4, MSG_NOSIGNAL) == 4) {
        load_watch(l, EPOLLIN);
        return false;
      }
      l->error = errno;
    }
    count_failure(r, l->error);
    return true;
  }
  ssize_t got = recv(l->fd, read_buffer, 65536, 0);
  if (got > 0) {
    l->got += (uint64_t)got;
    return false;
  }
  if (got < 0) {
    if (errno == EAGAIN)
      return false;
    count_failure(r, errno);
  } else if (l->got != REPLY_SIZE) {
    r->short_replies++;
  } else {
    r->done++;
    r->last_done = now();
    if (r->time_count < MAX_TIMES)
      r->times_us[r->time_count++] = (uint32_t)((monotonic_ns() - l->started_ns) / 1000);
  }
  return true;
}

int mode_crr(void) {
  struct Load *all = calloc((size_t)options.concurrency, sizeof *all);
  struct Rounds r = {.times_us = malloc(MAX_TIMES * sizeof(uint32_t))};
  struct epoll_event events[256];
  double cpu = cpu_seconds(), start = now(), end = start + options.seconds;
  for (int i = 0; i < options.concurrency; i++)
    start_round(&r, &all[i]);
  while (r.live && now() < end + 3) {
    int n = epoll_wait(epoll, events, 256, 100);
    for (int i = 0; i < n; i++) {
      struct Load *l = events[i].data.ptr;
      if (!step_round(&r, l))
        continue;
      load_close(l);
      r.live--;
      if (now() < end)
        start_round(&r, l);
    }
  }
  double seconds = r.last_done > start ? r.last_done - start : options.seconds;
  sort_times(r.times_us, r.time_count);
  uint32_t *t = r.times_us;
  size_t n = r.time_count;
  printf("{\"mode\":\"crr\",\"conc\":%d,\"secs\":%.3f,\"done\":%llu,\"crr_per_s\":%.1f,"
         "\"p50_us\":%u,\"p99_us\":%u,\"max_us\":%u,\"failed\":%llu,\"short\":%llu,\"stuck\":%d",
         options.concurrency, seconds, (ull)r.done, (double)r.done / seconds, n ? t[n / 2] : 0,
         n ? t[n * 99 / 100] : 0, n ? t[n - 1] : 0, (ull)r.failed, (ull)r.short_replies, r.live);
  print_errors(r.errors);
  print_end(cpu);
  return r.failed || r.short_replies || r.live ? 1 : 0;
}

// How a connection of mode_resets ends.
enum Ending { BY_ORIGIN, BY_CLIENT_IDLE, BY_CLIENT_BUSY, REFUSED, ENDINGS };

static void start_reset(struct Rounds *r, struct Load *l) {
  static const int ports[ENDINGS] = {
      [BY_ORIGIN] = 9018, [BY_CLIENT_IDLE] = 9003, [BY_CLIENT_BUSY] = 9002, [REFUSED] = 9010};
  l->index = r->next_index++;
  l->kind = (int)(l->index % ENDINGS);
  l->got = 0;
  if (load_start(l, ports[l->kind]))
    count_failure(r, l->error);
  else
    r->live++;
}

static void reset_by_client(struct Load *l) {
  struct linger at_once = {1, 0};
  setsockopt(l->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}

// True when the connection is over, as it should or otherwise.
static bool step_reset(struct Rounds *r, struct Load *l) {
  if (l->state != READY) {
    int outcome = load_step(l);
    if (outcome == 0)
      return false;
    if (outcome < 0 && l->kind == REFUSED && l->error == ECONNREFUSED) {
      r->done++;
      return true;
    }
    if (outcome < 0 || l->kind == REFUSED) {
      count_failure(r, outcome < 0 ? l->error : EPROTO);
      return true;
    }
    if (l->kind != BY_CLIENT_BUSY && send(l->fd, "x", 1, MSG_NOSIGNAL) != 1) {
      count_failure(r, errno);
      return true;
    }
    load_watch(l, EPOLLIN);
    return false;
  }
  ssize_t got = recv(l->fd, read_buffer, 65536, 0);
  if (got < 0 && errno == EAGAIN)
    return false;
  if (got > 0) {
    l->got += (uint64_t)got;
    if (l->kind == BY_CLIENT_BUSY && l->got < BUSY_BYTES)
      return false;
    reset_by_client(l);
  }
  bool is_expected = l->kind == BY_ORIGIN ? got < 0 && errno == ECONNRESET : got > 0;
  if (is_expected)
    r->done++;
  else
    count_failure(r, got < 0 ? errno : got == 0 ? EPIPE : EBADMSG);
  return true;
}

int mode_resets(void) {
  struct Load *all = calloc((size_t)options.concurrency, sizeof *all);
  struct Rounds r = {0};
  struct epoll_event events[256];
  double cpu = cpu_seconds(), end = now() + options.seconds;
  for (int i = 0; i < options.concurrency; i++)
    start_reset(&r, &all[i]);
  while (r.live && now() < end + 3) {
    int n = epoll_wait(epoll, events, 256, 100);
    for (int i = 0; i < n; i++) {
      struct Load *l = events[i].data.ptr;
      if (!step_reset(&r, l))
        continue;
      load_close(l);
      r.live--;
      if (now() < end)
        start_reset(&r, l);
    }
  }
  printf("{\"mode\":\"resets\",\"conc\":%d,\"done\":%llu,\"failed\":%llu,\"stuck\":%d",
         options.concurrency, (ull)r.done, (ull)r.failed, r.live);
  print_errors(r.errors);
  print_end(cpu);
  return r.failed || r.live ? 1 : 0;
}

static bool ping(int fd, unsigned char *message, size_t size) {
  return send_all(fd, message, size) == 0 && read_all(fd, message, size) == (ssize_t)size;
}

int mode_rtt(void) {
  double ms, cpu = cpu_seconds();
  int error, fd = blocking_connect(9003, 5, &ms, &error);
  if (fd < 0) {
    printf("{\"mode\":\"rtt\",\"error\":\"%s\"}\n", error_name(error));
    return 1;
  }
  size_t size = (size_t)options.message_size, n = 0;
  unsigned char *message = malloc(size);
  memset(message, 'x', size);
  uint32_t *t = malloc(MAX_TIMES * sizeof *t);
  double end = now() + options.seconds, sum = 0;
  bool is_good = true;
  for (int i = 0; i < WARM_UP && is_good; i++)
    is_good = ping(fd, message, size);
  while (is_good && n < MAX_TIMES && now() < end) {
    uint64_t begin = monotonic_ns();
    is_good = ping(fd, message, size);
    t[n] = (uint32_t)(monotonic_ns() - begin);
    sum += t[n++];
  }
  error = is_good ? 0 : errno ? errno : EPIPE;
  sort_times(t, n);
  printf("{\"mode\":\"rtt\",\"size\":%d,\"count\":%zu,\"p50_us\":%.2f,\"p90_us\":%.2f,"
         "\"p99_us\":%.2f,\"max_us\":%.2f,\"mean_us\":%.2f,\"error\":\"%s\"",
         options.message_size, n, n ? t[n / 2] / 1e3 : 0, n ? t[n * 9 / 10] / 1e3 : 0,
         n ? t[n * 99 / 100] / 1e3 : 0, n ? t[n - 1] / 1e3 : 0, n ? sum / (double)n / 1e3 : 0,
         error_name(error));
  print_end(cpu);
  return error != 0 || n == 0;
}

static void lose(struct Load *l, int error) {
  l->error = error;
  l->is_alive = false;
  load_close(l);
}

// One byte there and back on each, `window` at a time. @return how many came back right
static int echo_each(struct Load *all, int count, int window) {
  struct epoll_event events[256];
  int pending = 0, good = 0, next = 0;
  double end = now() + options.timeout_s;
  while ((next < count || pending) && now() < end) {
    for (; next < count && pending < window; next++) {
      struct Load *l = &all[next];
      char byte = (char)next;
      if (!l->is_alive)
        continue;
      if (send(l->fd, &byte, 1, MSG_NOSIGNAL) != 1) {
        lose(l, errno);
        continue;
      }
      l->want = 1;
      load_watch(l, EPOLLIN);
      pending++;
    }
    int n = epoll_wait(epoll, events, 256, 200);
    for (int i = 0; i < n; i++) {
      struct Load *l = events[i].data.ptr;
      unsigned char byte;
      if (!l->is_alive)
        continue;
      ssize_t got = recv(l->fd, &byte, 1, 0);
      if (got < 0 && errno == EAGAIN)
        continue;
      pending -= l->want != 0;
      if (got == 1 && byte == (unsigned char)(l - all)) {
        good++;
        l->want = 0;
        load_watch(l, 0);
      } else {
        lose(l, got < 0 ? errno : got == 0 ? EPIPE : EBADMSG);
      }
    }
  }
  for (int i = 0; i < count; i++)
    if (all[i].is_alive && all[i].want)
      lose(&all[i], ETIMEDOUT);
  return good;
}

int mode_idle(void) {
  int n = options.streams, window = options.concurrency > 1 ? options.concurrency : 256;
  struct Load *all = calloc((size_t)n, sizeof *all);
  int *ports = calloc((size_t)n, sizeof *ports);
  for (int i = 0; i < n; i++)
    ports[i] = 9003;
  double cpu = cpu_seconds(), start = now();
  int connected = load_connect_all(all, n, ports, window);
  double opened = now();
  int first = echo_each(all, n, window);
  double echoed = now();
  fprintf(stderr, "labload: holding %d\n", first);
  fflush(stderr);
  struct timespec hold = {(time_t)options.seconds,
                          (long)((options.seconds - (double)(time_t)options.seconds) * 1e9)};
  nanosleep(&hold, NULL);
  int second = echo_each(all, n, window);
  printf("{\"mode\":\"idle\",\"n\":%d,\"connected\":%d,\"echo1\":%d,\"echo2\":%d,"
         "\"open_s\":%.3f,\"echo1_s\":%.3f,\"hold_s\":%.1f",
         n, connected, first, second, opened - start, echoed - opened, options.seconds);
  print_load_errors(all, n);
  print_end(cpu);
  return second == n ? 0 : 1;
}
