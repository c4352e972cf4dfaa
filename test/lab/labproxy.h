// What the parts of labproxy share: a connection, its states, and the functions that cross files.
#ifndef PROXYVPN_TEST_LAB_LABPROXY_H
#define PROXYVPN_TEST_LAB_LABPROXY_H

#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>

enum State {
  // Proxy handshake (labproxy_handshake.c).
  FIRST_BYTE,
  HTTP_HEAD,
  SOCKS_GREETING,
  SOCKS_REQUEST,
  HANG,
  DELAYED,
  // Origin (labproxy_origin.c).
  DISCARD,
  SOURCE,
  ECHO,
  AWAIT_LINE,
  AWAIT_STATS_LINE,
  AWAIT_COUNT,
  SEND_PATTERN,
  SEND_THEN_COUNT,
  COUNT_BYTES,
  HASH,
  DRAIN,
  RESET_ON_BYTE,
  ENDLESS_HEAD,
};

struct Connection {
  int fd;
  // 0: a connection; 1: the proxy's listener; else the listener of an origin port (-d).
  int listener;
  enum State state;
  bool close_when_sent, dead, is_socks, saw_eof;
  uint16_t port;
  uint32_t events;
  unsigned char *handshake;
  size_t handshake_length, handshake_capacity;
  unsigned char *pending;  // output the socket did not take
  size_t pending_length, pending_offset;
  uint64_t count, offset, hash, due_ms;
  uint64_t accepted_ms;  // 0 once the delay of -D is over
  char line[48];
  size_t line_length;
  struct Connection *next;  // in the list of delayed or of dead connections
};

// Every member is a uint64_t: stats_text() adds the threads' up as arrays.
struct Stats {
  uint64_t accepted, connects, active, in, out, refused, authfail, rst_seen, eof_seen, hc_bytes,
      lines, bad;
};

struct Worker {
  int epoll;
  struct Stats stats;
  struct Connection *delayed, *dead;
  unsigned char *buffer;
};

extern __thread struct Worker *worker;
extern const unsigned char *pattern;
extern bool is_verbose;
extern char *expected_credentials;  // base64 of user:pass, or NULL
extern unsigned distance_ms;        // -D; 0 = next door

// labproxy.c
void send_bytes(struct Connection *c, const void *bytes, size_t count);
void close_connection(struct Connection *c, bool reset);
void delay_answer(struct Connection *c, uint64_t ms);
uint64_t now_ms(void);
void stats_text(char *text, size_t size);

// labproxy_handshake.c
void handshake_feed(struct Connection *c, const unsigned char *bytes, size_t count);
void answer_delayed(struct Connection *c);

// labproxy_origin.c
void origin_begin(struct Connection *c, int port);
void origin_feed(struct Connection *c, const unsigned char *bytes, size_t count);
void origin_eof(struct Connection *c);
// True when it waits for room in the socket.
bool origin_send(struct Connection *c);

// Bytes from the peer, whatever the state.
void feed(struct Connection *c, const unsigned char *bytes, size_t count);

#endif
