// The origin side of labproxy: what each port does with its bytes, its end of file and its output.
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "labproxy.h"
#include "pattern.h"

#define SEND_SIZE 262144
#define HALF_CLOSE_BYTES 65536

void origin_begin(struct Connection *c, int port) {
  c->port = (uint16_t)port;
  switch (port) {
    case 9001: c->state = DISCARD; return;
    case 9002: c->state = SOURCE; return;
    case 9004: c->state = AWAIT_LINE; return;
    case 9005: c->state = AWAIT_COUNT; return;
    case 9006:
      c->state = HASH;
      c->hash = FNV_OFFSET_BASIS;
      return;
    case 9007:
      c->state = SEND_THEN_COUNT;
      c->count = HALF_CLOSE_BYTES;
      return;
    case 9008: c->state = AWAIT_STATS_LINE; return;
    case 9018: c->state = RESET_ON_BYTE; return;
    default: c->state = ECHO; return;
  }
}

static void read_count(struct Connection *c, const unsigned char *bytes, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (bytes[i] == '\n') {
      char *rest;
      c->line[c->line_length] = 0;
      c->count = strtoull(c->line, &rest, 10);
      c->offset = strtoull(rest, NULL, 10) % PATTERN_PERIOD;
      c->state = SEND_PATTERN;
      return;
    }
    if (c->line_length < sizeof c->line - 1)
      c->line[c->line_length++] = (char)bytes[i];
  }
}

static void answer_line(struct Connection *c) {
  worker->stats.lines++;
  if (c->state == AWAIT_STATS_LINE) {
    char text[1024];
    stats_text(text, sizeof text);
    send_bytes(c, text, strlen(text));
  } else {
    send_bytes(c, pattern, 1024);
  }
  c->close_when_sent = true;
}

void origin_feed(struct Connection *c, const unsigned char *bytes, size_t count) {
  switch (c->state) {
    case ECHO: send_bytes(c, bytes, count); return;
    case COUNT_BYTES: worker->stats.hc_bytes += count; return;
    case RESET_ON_BYTE: close_connection(c, true); return;
    case AWAIT_COUNT: read_count(c, bytes, count); return;
    case HASH: c->hash = fnv1a(c->hash, bytes, count); return;
    case AWAIT_LINE:
    case AWAIT_STATS_LINE:
      if (memchr(bytes, '\n', count))
        answer_line(c);
      return;
    default: return;
  }
}

void origin_eof(struct Connection *c) {
  switch (c->state) {
    case HASH: {
      char text[32];
      int n = snprintf(text, sizeof text, "%016llx\n", (unsigned long long)c->hash);
      send_bytes(c, text, (size_t)n);
      c->close_when_sent = true;
      return;
    }
    case SEND_PATTERN:
    case SEND_THEN_COUNT: return;  // goes on sending
    case ECHO: c->close_when_sent = true; return;
    default: close_connection(c, false); return;
  }
}

static bool send_endlessly(struct Connection *c) {
  for (int i = 0; i < 4; i++) {
    ssize_t sent = send(c->fd, pattern, SEND_SIZE, MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno != EAGAIN)
        close_connection(c, false);
      return true;
    }
    worker->stats.out += (uint64_t)sent;
    if (sent < SEND_SIZE)
      return true;
  }
  return true;
}

static bool send_endless_head(struct Connection *c) {
  static const char header[] = "X-Endless: and another one, and another one, and another one\r\n";
  for (int i = 0; i < 64; i++) {
    if (c->pending_length != 0)
      return true;
    send_bytes(c, header, sizeof header - 1);
    if (c->dead)
      return false;
  }
  return true;
}

static bool send_pattern(struct Connection *c) {
  while (c->count != 0) {
    size_t size = c->count < SEND_SIZE ? c->count : SEND_SIZE;
    ssize_t sent = send(c->fd, pattern + c->offset, size, MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EAGAIN)
        return true;
      close_connection(c, false);
      return false;
    }
    worker->stats.out += (uint64_t)sent;
    c->count -= (uint64_t)sent;
    c->offset = (c->offset + (uint64_t)sent) % PATTERN_PERIOD;
  }
  shutdown(c->fd, SHUT_WR);
  if (c->state == SEND_THEN_COUNT)
    c->state = COUNT_BYTES;
  else if (c->saw_eof)
    close_connection(c, false);
  else
    c->state = DRAIN;
  return false;
}

bool origin_send(struct Connection *c) {
  switch (c->state) {
    case SOURCE: return send_endlessly(c);
    case ENDLESS_HEAD: return send_endless_head(c);
    case SEND_PATTERN:
    case SEND_THEN_COUNT: return send_pattern(c);
    default: return false;
  }
}
