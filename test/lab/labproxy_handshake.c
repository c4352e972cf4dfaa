// The proxy side of labproxy: HTTP CONNECT and SOCKS5 requests, and the answers each port asks for.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "labproxy.h"
#include "pattern.h"

#define MAX_HEAD 65536
#define DELAY_MS 400

static const char ok_reply[] = "HTTP/1.1 200 Connection established\r\n\r\n";

static void send_long_reply(struct Connection *c) {
  char text[4096];
  int n = snprintf(text, sizeof text, "HTTP/1.0 200 OK\r\nContent-Length: 7\r\nVia: 1.1 lab\r\n");
  for (int i = 0; i < 20; i++)
    n += snprintf(text + n, sizeof text - (size_t)n, "X-Filler-%d: %064d\r\n", i, i);
  n += snprintf(text + n, sizeof text - (size_t)n, "\r\nBANNER hello\r\n");
  send_bytes(c, text, (size_t)n);
}

static void send_success(struct Connection *c) {
  static const char socks[] = "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00" "BANNER hello\r\n";
  static const char with_100[] = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
  static const char no_content[] = "HTTP/1.1 204 No Content\r\n\r\n";
  if (c->is_socks)
    send_bytes(c, socks, c->port == 9015 ? sizeof socks - 1 : 10);
  else if (c->port == 9014)
    for (const char *byte = ok_reply; *byte; byte++)
      send_bytes(c, byte, 1);
  else if (c->port == 9015)
    send_long_reply(c);
  else if (c->port == 9020)
    send_bytes(c, with_100, sizeof with_100 - 1);
  else if (c->port == 9024)
    send_bytes(c, no_content, sizeof no_content - 1);
  else
    send_bytes(c, ok_reply, sizeof ok_reply - 1);
}

static void send_refusal(struct Connection *c, const char *status, const char *header) {
  char text[512];
  int n = snprintf(text, sizeof text,
                   "HTTP/1.1 %s\r\n%sContent-Length: 0\r\nConnection: close\r\n\r\n", status,
                   header);
  c->close_when_sent = true;
  send_bytes(c, text, (size_t)n);
  if (is_verbose) {
    printf("answer %.3s %d %llu\n", status, c->port, (unsigned long long)monotonic_ns());
    fflush(stdout);
  }
}

static void refuse(struct Connection *c, int socks_code, const char *status, const char *header) {
  worker->stats.refused++;
  if (!c->is_socks) {
    send_refusal(c, status, header);
    return;
  }
  char reply[10] = {5, (char)socks_code, 0, 1};
  send_bytes(c, reply, sizeof reply);
  c->close_when_sent = true;
}

static void answer_port(struct Connection *c, int port) {
  static const char ssh_banner[] = "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n";
  switch (port) {
    case 9010: refuse(c, 5, "502 Bad Gateway", ""); return;
    case 9017: refuse(c, 2, "403 Forbidden", ""); return;
    case 9025:
      refuse(c, 2, "407 Proxy Authentication Required",
             "Proxy-Authenticate: NTLM\r\nProxy-Authenticate: Negotiate\r\n");
      return;
    case 9026: refuse(c, 4, "504 Gateway Timeout", ""); return;
    case 9011: c->state = HANG; return;
    case 9012:
      send_success(c);
      close_connection(c, true);
      return;
    case 9013: close_connection(c, false); return;
    case 9016:
    case 9019: delay_answer(c, DELAY_MS); return;
    case 9021:
      send_bytes(c, ok_reply, sizeof ok_reply - 3);  // without the empty line
      c->state = ENDLESS_HEAD;
      return;
    case 9022:
      send_bytes(c, ssh_banner, sizeof ssh_banner - 1);
      c->state = HANG;
      return;
    case 9023:
      send_bytes(c, ok_reply, sizeof ok_reply / 2);
      c->state = HANG;
      return;
    default: send_success(c); origin_begin(c, port);
  }
}

// How much longer the answer of a proxy at distance_ms would take.
static uint64_t distance_left_ms(const struct Connection *c) {
  uint64_t age = now_ms() - c->accepted_ms;
  return age < distance_ms ? 2 * distance_ms - age : distance_ms;
}

static void answer(struct Connection *c, const char *host, int port) {
  worker->stats.connects++;
  c->port = (uint16_t)port;
  if (is_verbose) {
    printf("connect %s %s %d\n", c->is_socks ? "socks5" : "http", host, port);
    fflush(stdout);
  }
  if (distance_ms)
    delay_answer(c, distance_left_ms(c));
  else
    answer_port(c, port);
}

void answer_delayed(struct Connection *c) {
  c->state = ECHO;
  if (c->accepted_ms) {
    c->accepted_ms = 0;
    answer_port(c, c->port);
    return;
  }
  if (c->port == 9019)
    refuse(c, 2, "403 Forbidden", "");
  else
    send_success(c);
}

static bool is_authorized(const char *head) {
  static const char name[] = "Proxy-Authorization:";
  for (const char *line = strchr(head, '\n'); line; line = strchr(line, '\n')) {
    line++;
    if (strncasecmp(line, name, sizeof name - 1))
      continue;
    line += sizeof name - 1;
    line += strspn(line, " ");
    if (strncasecmp(line, "Basic ", 6))
      return false;
    line += 6;
    line += strspn(line, " ");
    size_t length = strcspn(line, "\r\n");
    return length == strlen(expected_credentials) && !memcmp(line, expected_credentials, length);
  }
  return false;
}

static void judge_http(struct Connection *c, char *head) {
  char target[512], version[16];
  char *colon = NULL;
  int port = 0;
  if (sscanf(head, "CONNECT %511s %15s", target, version) == 2 && !strncmp(version, "HTTP/1.", 7))
    colon = strrchr(target, ':');
  if (colon)
    port = atoi(colon + 1);
  if (port <= 0 || port > 65535) {
    worker->stats.bad++;
    send_refusal(c, "400 Bad Request", "");
    return;
  }
  *colon = 0;
  c->port = (uint16_t)port;
  if (expected_credentials && !is_authorized(head)) {
    worker->stats.authfail++;
    send_refusal(c, "407 Proxy Authentication Required",
                 "Proxy-Authenticate: Basic realm=\"lab\"\r\n");
    return;
  }
  answer(c, target, port);
}

static void keep(struct Connection *c, const unsigned char *bytes, size_t count) {
  if (c->handshake_length + count > c->handshake_capacity) {
    c->handshake_capacity = c->handshake_length + count + 512;
    c->handshake = realloc(c->handshake, c->handshake_capacity);
  }
  memcpy(c->handshake + c->handshake_length, bytes, count);
  c->handshake_length += count;
}

// The first `used` bytes are dealt with; what is behind them goes to the next state.
static void go_on_behind(struct Connection *c, size_t used) {
  unsigned char *bytes = c->handshake;
  size_t length = c->handshake_length;
  c->handshake = NULL;
  c->handshake_length = c->handshake_capacity = 0;
  if (length > used)
    feed(c, bytes + used, length - used);
  free(bytes);
}

static void feed_http(struct Connection *c, const unsigned char *bytes, size_t count) {
  size_t from = c->handshake_length > 3 ? c->handshake_length - 3 : 0;
  keep(c, bytes, count);
  unsigned char *end = memmem(c->handshake + from, c->handshake_length - from, "\r\n\r\n", 4);
  if (!end) {
    if (c->handshake_length > MAX_HEAD)
      send_refusal(c, "431 Request Header Fields Too Large", "");
    return;
  }
  size_t length = (size_t)(end + 4 - c->handshake);
  unsigned char *head = c->handshake;
  head[length - 1] = 0;
  char *text = strdup((char *)head);  // closing the connection frees what it holds
  judge_http(c, text);
  free(text);
  if (!c->dead)
    go_on_behind(c, length);
}

static void feed_socks_greeting(struct Connection *c, const unsigned char *bytes, size_t count) {
  keep(c, bytes, count);
  if (c->handshake_length < 2 || c->handshake_length < 2u + c->handshake[1])
    return;
  size_t length = 2u + c->handshake[1];
  if (expected_credentials || !memchr(c->handshake + 2, 0, c->handshake[1])) {
    worker->stats.authfail += expected_credentials != NULL;
    send_bytes(c, "\x05\xff", 2);
    c->close_when_sent = true;
    return;
  }
  send_bytes(c, "\x05\x00", 2);
  c->state = SOCKS_REQUEST;
  go_on_behind(c, length);
}

static void feed_socks_request(struct Connection *c, const unsigned char *bytes, size_t count) {
  keep(c, bytes, count);
  if (c->handshake_length < 5)
    return;
  const unsigned char *request = c->handshake;
  unsigned char kind = request[3];
  if (request[1] != 1 || (kind != 1 && kind != 3 && kind != 4)) {
    worker->stats.bad++;
    refuse(c, 7, "", "");
    return;
  }
  size_t address_length = kind == 1 ? 4 : kind == 4 ? 16 : 1u + request[4];
  if (c->handshake_length < 6 + address_length)
    return;
  char host[300];
  if (kind == 3) {
    memcpy(host, request + 5, request[4]);
    host[request[4]] = 0;
  } else {
    inet_ntop(kind == 1 ? AF_INET : AF_INET6, request + 4, host, sizeof host);
  }
  answer(c, host, request[4 + address_length] << 8 | request[5 + address_length]);
  if (!c->dead)
    go_on_behind(c, 6 + address_length);
}

void handshake_feed(struct Connection *c, const unsigned char *bytes, size_t count) {
  switch (c->state) {
    case FIRST_BYTE:
      c->is_socks = bytes[0] == 5;
      c->state = c->is_socks ? SOCKS_GREETING : HTTP_HEAD;
      handshake_feed(c, bytes, count);
      return;
    case HTTP_HEAD: feed_http(c, bytes, count); return;
    case SOCKS_GREETING: feed_socks_greeting(c, bytes, count); return;
    case SOCKS_REQUEST: feed_socks_request(c, bytes, count); return;
    default: return;
  }
}
