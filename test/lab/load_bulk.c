// labload up, down, bidir, stall: how many bytes go through in a given time, and when nobody reads.
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "labload.h"
#include "pattern.h"

#define SEND_SIZE 262144
#define DRAIN_SECONDS 10

struct Bulk {
  struct Load *all;
  int count, live, live_up, broken;
  uint64_t up, down;
  bool is_draining;  // the time is over, uploads have sent their FIN
  double last_close;
};

static void drop(struct Bulk *b, struct Load *l, int error) {
  l->error = error;
  l->is_alive = false;
  load_close(l);
  b->live--;
  b->live_up -= l->kind;
  b->broken += error != 0;
}

static void read_download(struct Bulk *b, struct Load *l) {
  ssize_t got = recv(l->fd, read_buffer, READ_BUFFER_SIZE, options.copies ? 0 : MSG_TRUNC);
  if (got > 0)
    b->down += (uint64_t)got;
  else if (got == 0)
    drop(b, l, EPIPE);
  else if (errno != EAGAIN)
    drop(b, l, errno);
}

static void send_upload(struct Bulk *b, struct Load *l) {
  for (int i = 0; i < 4; i++) {
    ssize_t sent = send(l->fd, pattern, SEND_SIZE, MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno != EAGAIN)
        drop(b, l, errno);
      return;
    }
    b->up += (uint64_t)sent;
    if (sent < SEND_SIZE)
      return;
  }
}

static void await_close(struct Bulk *b, struct Load *l) {
  ssize_t got = recv(l->fd, read_buffer, 65536, 0);
  if (got == 0) {
    b->last_close = now();
    drop(b, l, 0);
  } else if (got < 0 && errno != EAGAIN) {
    drop(b, l, errno);
  }
}

static void end_of_time(struct Bulk *b) {
  b->is_draining = true;
  b->last_close = now();
  for (int i = 0; i < b->count; i++) {
    struct Load *l = &b->all[i];
    if (!l->is_alive)
      continue;
    if (l->kind) {
      shutdown(l->fd, SHUT_WR);
      load_watch(l, EPOLLIN);
    } else {
      drop(b, l, 0);
    }
  }
}

int mode_bulk(void) {
  bool is_up = !strcmp(options.mode, "up"), is_down = !strcmp(options.mode, "down");
  struct Bulk b = {.count = is_up || is_down ? options.streams : 2 * options.streams};
  b.all = calloc((size_t)b.count, sizeof *b.all);
  int *ports = calloc((size_t)b.count, sizeof *ports);
  for (int i = 0; i < b.count; i++) {
    b.all[i].kind = is_up ? 1 : is_down ? 0 : i & 1;
    ports[i] = b.all[i].kind ? 9001 : 9002;
  }
  int ready = b.live = load_connect_all(b.all, b.count, ports, 256);
  double cpu = cpu_seconds(), start = now(), end = start + options.seconds;
  uint64_t up_in_time = 0;
  for (int i = 0; i < b.count; i++) {
    if (!b.all[i].is_alive)
      continue;
    load_watch(&b.all[i], b.all[i].kind ? EPOLLOUT : EPOLLIN);
    b.live_up += b.all[i].kind;
  }
  struct epoll_event events[256];
  while (b.live) {
    double t = now();
    if (!b.is_draining && t >= end) {
      up_in_time = b.up;
      end_of_time(&b);
      continue;
    }
    if (b.is_draining && t > end + DRAIN_SECONDS)
      break;
    int n = epoll_wait(epoll, events, 256, b.is_draining ? 50 : (int)((end - t) * 1000) + 1);
    for (int i = 0; i < n; i++) {
      struct Load *l = events[i].data.ptr;
      if (!l->is_alive)
        continue;
      if (!l->kind)
        read_download(&b, l);
      else if (!b.is_draining)
        send_upload(&b, l);
      else
        await_close(&b, l);
    }
  }
  // Uploads count until the last one was acknowledged by the origin's close.
  double up_seconds = b.live_up ? options.seconds : b.last_close - start;
  if (b.live_up)
    b.up = up_in_time;
  if (up_seconds < 0.001)
    up_seconds = options.seconds;
  double up_gbps = (double)b.up * 8 / up_seconds / 1e9;
  double down_gbps = (double)b.down * 8 / options.seconds / 1e9;
  printf("{\"mode\":\"%s\",\"streams\":%d,\"ready\":%d,\"secs\":%.3f", options.mode,
         options.streams, ready, options.seconds);
  if (!is_down)
    printf(",\"up_bytes\":%llu,\"up_gbps\":%.4f,\"drain_s\":%.3f,\"not_drained\":%d", (ull)b.up,
           up_gbps, b.last_close - start - options.seconds, b.live_up);
  if (!is_up)
    printf(",\"down_bytes\":%llu,\"down_gbps\":%.4f", (ull)b.down, down_gbps);
  printf(",\"bytes\":%llu,\"gbps\":%.4f,\"broken\":%d", (ull)(b.up + b.down), up_gbps + down_gbps,
         b.broken);
  print_load_errors(b.all, b.count);
  print_end(cpu);
  return ready == b.count && !b.broken && !b.live_up ? 0 : 1;
}

// Reads options.message_size bytes of each. @return how many delivered them
static int resume_each(struct Load *all, int count) {
  struct epoll_event events[256];
  int good = 0, live = 0;
  double end = now() + options.timeout_s;
  for (int i = 0; i < count; i++) {
    if (!all[i].is_alive)
      continue;
    load_watch(&all[i], EPOLLIN);
    live++;
  }
  while (live && now() < end) {
    int n = epoll_wait(epoll, events, 256, 200);
    for (int i = 0; i < n; i++) {
      struct Load *l = events[i].data.ptr;
      ssize_t got = recv(l->fd, read_buffer, READ_BUFFER_SIZE, MSG_TRUNC);
      if (got < 0 && errno == EAGAIN)
        continue;
      if (got <= 0) {
        l->error = got < 0 ? errno : EPIPE;
      } else {
        l->got += (uint64_t)got;
        if (l->got < (uint64_t)options.message_size)
          continue;
        good++;
      }
      live--;
      l->is_alive = false;
      load_close(l);
    }
  }
  for (int i = 0; i < count; i++)
    if (all[i].is_alive)
      all[i].error = ETIMEDOUT;
  return good;
}

int mode_stall(void) {
  int n = options.streams;
  struct Load *all = calloc((size_t)n, sizeof *all);
  int *ports = calloc((size_t)n, sizeof *ports);
  for (int i = 0; i < n; i++)
    ports[i] = 9002;
  double cpu = cpu_seconds(), start = now();
  int connected = load_connect_all(all, n, ports, 256);
  double opened = now();
  fprintf(stderr, "labload: holding %d\n", connected);
  fflush(stderr);
  while (now() < opened + options.seconds)
    usleep(10000);
  double resumed = now();
  int good = resume_each(all, n);
  printf("{\"mode\":\"stall\",\"n\":%d,\"connected\":%d,\"resumed\":%d,\"open_s\":%.3f,"
         "\"hold_s\":%.1f,\"resume_s\":%.3f",
         n, connected, good, opened - start, options.seconds, now() - resumed);
  print_load_errors(all, n);
  print_end(cpu);
  return good == n ? 0 : 1;
}
