// What the parts of labload share: the options, non-blocking and blocking connections to labproxy.
#ifndef PROXYVPN_TEST_LAB_LABLOAD_H
#define PROXYVPN_TEST_LAB_LABLOAD_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef unsigned long long ull;

// Errno values are counted in arrays of this size.
#define ERRNO_COUNT 200
#define READ_BUFFER_SIZE (8u << 20)

union Address {
  struct sockaddr any;
  struct sockaddr_in v4;
  struct sockaddr_in6 v6;
};

struct Options {
  const char *mode, *kinds;
  union Address destination, proxy;
  bool has_proxy, copies;
  int port, streams, concurrency, spread, connections, message_size, stall_ms, timeout_s;
  double seconds;
  uint64_t max_size, seed;
};

enum LoadState { CONNECTING = 1, AWAIT_REPLY, READY, CLOSED };

struct Load {
  int fd, kind, error;
  enum LoadState state;
  bool is_alive, sent_fin, is_finished;
  unsigned index;
  union Address destination;
  uint32_t events;
  uint64_t started_ns, progress_ns, want, sent, got, offset;
  double wake;  // seconds; 0 = not stalled
  char line[64], reply[32];
  int line_length, line_sent, reply_length;
};

extern struct Options options;
extern const unsigned char *pattern;
extern unsigned char *read_buffer;
extern int epoll;

// labload.c
double now(void);
double cpu_seconds(void);
uint64_t random_number(void);
const char *error_name(int error);
void sort_times(uint32_t *times, size_t count);
// Prints ,"errors":{"ETIMEDOUT":3}
void print_errors(const int *counts);
// Prints the client's CPU time since `cpu_before` and ends the line.
void print_end(double cpu_before);

// load_connection.c
bool parse_address(const char *text, int port, union Address *out);
int load_start(struct Load *l, int port);
// 1: ready to use, 0: in progress, -1: failed (l->error)
int load_step(struct Load *l);
void load_watch(struct Load *l, uint32_t events);
void load_close(struct Load *l);
// Opens them all, `window` at a time. Returns how many are ready.
int load_connect_all(struct Load *all, int count, const int *ports, int window);
void print_load_errors(const struct Load *all, int count);
// Blocking. @return descriptor, or -1 with *error set; *ms is what connect() (and CONNECT) took
int blocking_connect(int port, int timeout_s, double *ms, int *error);
ssize_t read_all(int fd, void *bytes, size_t count);
int send_all(int fd, const void *bytes, size_t count);

// load_bulk.c load_short.c load_integrity.c load_semantics.c: the modes. Exit code.
int mode_bulk(void);
int mode_crr(void);
int mode_rtt(void);
int mode_idle(void);
int mode_stall(void);
int mode_resets(void);
int mode_integrity(void);
int mode_halfclose(void);
int mode_refused(void);
int mode_stats(void);

#endif
