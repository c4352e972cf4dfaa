// labload: load generator and checker for a TCP tunnel whose far side is labproxy (see labproxy.c).
//
// One JSON line on stdout; exit code 0 only if all went right.
//
//   up, down   n streams to 9001, from 9002, for t seconds     bidir  n of each at once
//   crr        connect, line, 1 KiB reply, EOF, close; -c at a time
//   rtt        ping-pong of --size bytes on one connection
//   idle       opens n, echoes a byte on each (echo1), holds t seconds, echoes again (echo2)
//   stall      opens n downloads from 9002, reads none of them for t seconds, then --size bytes of each
//   resets     for t seconds, -c at a time: RST by the origin, RST by the client on an idle and on a
//              busy connection, refusal by the proxy; counts what did not end so
//   integrity  --conns connections, -c at a time, of 0 to --max-size bytes with random stalls, every
//              byte checked; --kinds 0 download, 1 upload, 2 echo (1 and 2 rely on half-close)
//   halfclose  half-close and reset, both ways, and replies that come with or before data
//   refused    connect() to the ports that refuse: errno, milliseconds, what a first read sees
//   stats      labproxy's counters
//
// --proxy HOST:PORT: labload speaks CONNECT itself. --spread K: K consecutive addresses in turn.
// --copy: really copies what it reads; without it MSG_TRUNC keeps the client cheap.
#define _GNU_SOURCE
#include "labload.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>

#include "pattern.h"

struct Options options = {
    .kinds = "012",
    .streams = 1,
    .concurrency = 1,
    .spread = 1,
    .connections = 200,
    .message_size = 1,
    .stall_ms = 40,
    .timeout_s = 20,
    .seconds = 5,
    .max_size = 8u << 20,
    .seed = 1,
};
const unsigned char *pattern;
unsigned char *read_buffer;
int epoll;

double now(void) {
  return (double)monotonic_ns() / 1e9;
}

double cpu_seconds(void) {
  struct rusage r;
  getrusage(RUSAGE_SELF, &r);
  return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) +
         (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

uint64_t random_number(void) {
  static uint64_t x;
  if (x == 0)
    x = options.seed * 0x9E3779B97F4A7C15ull + 1;
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  return x * 2685821657736338717ull >> 11;
}

const char *error_name(int error) {
  return error ? strerrorname_np(error) : "OK";
}

static int compare_times(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return x < y ? -1 : x > y;
}

void sort_times(uint32_t *times, size_t count) {
  qsort(times, count, sizeof *times, compare_times);
}

void print_errors(const int *counts) {
  const char *comma = "";
  printf(",\"errors\":{");
  for (int i = 1; i < ERRNO_COUNT; i++) {
    if (counts[i] == 0)
      continue;
    printf("%s\"%s\":%d", comma, strerrorname_np(i), counts[i]);
    comma = ",";
  }
  printf("}");
}

void print_end(double cpu_before) {
  printf(",\"client_cpu_s\":%.3f}\n", cpu_seconds() - cpu_before);
}

static int usage(void) {
  fputs(
      "usage: labload up|down|bidir|crr|rtt|idle|stall|resets|integrity|halfclose|refused|stats\n"
      "  --dst IP [--port P] [-n streams] [-t secs] [-c concurrency] [--proxy host:port]\n"
      "  [--spread K] [--copy] [--size B] [--conns N] [--max-size B] [--seed N] [--kinds 012]\n"
      "  [--stall-ms N] [--timeout S]\n",
      stderr);
  return 2;
}

static bool parse_proxy(const char *text) {
  char host[128];
  snprintf(host, sizeof host, "%s", text);
  char *colon = strrchr(host, ':');
  if (!colon)
    return false;
  *colon = 0;
  char *address = host;
  if (address[0] == '[') {
    address++;
    address[strcspn(address, "]")] = 0;
  }
  options.has_proxy = parse_address(address, atoi(colon + 1), &options.proxy);
  return options.has_proxy;
}

static bool parse_option(const char *name, const char *value) {
  struct {
    const char *name;
    int *value;
  } integers[] = {
      {"--port", &options.port},         {"-n", &options.streams},
      {"-c", &options.concurrency},      {"--spread", &options.spread},
      {"--size", &options.message_size}, {"--conns", &options.connections},
      {"--stall-ms", &options.stall_ms}, {"--timeout", &options.timeout_s},
  };
  for (size_t i = 0; i < sizeof integers / sizeof *integers; i++) {
    if (strcmp(name, integers[i].name))
      continue;
    *integers[i].value = atoi(value);
    return true;
  }
  if (!strcmp(name, "--dst"))
    return parse_address(value, 0, &options.destination);
  if (!strcmp(name, "--proxy"))
    return parse_proxy(value);
  if (!strcmp(name, "-t"))
    options.seconds = atof(value);
  else if (!strcmp(name, "--max-size"))
    options.max_size = strtoull(value, NULL, 10);
  else if (!strcmp(name, "--seed"))
    options.seed = strtoull(value, NULL, 10);
  else if (!strcmp(name, "--kinds"))
    options.kinds = value;
  else
    return false;
  return true;
}

static bool parse_arguments(int argc, char **argv) {
  if (argc < 2)
    return false;
  options.mode = argv[1];
  for (int i = 2; i < argc; i++) {
    if (!strcmp(argv[i], "--copy")) {
      options.copies = true;
      continue;
    }
    if (i + 1 >= argc || !parse_option(argv[i], argv[i + 1]))
      return false;
    i++;
  }
  return options.destination.any.sa_family != 0 && options.streams > 0 &&
         options.concurrency > 0 && options.spread > 0;
}

int main(int argc, char **argv) {
  static const struct {
    const char *name;
    int (*run)(void);
  } modes[] = {
      {"up", mode_bulk},       {"down", mode_bulk},           {"bidir", mode_bulk},
      {"crr", mode_crr},       {"rtt", mode_rtt},             {"idle", mode_idle},
      {"stall", mode_stall},   {"resets", mode_resets},       {"refused", mode_refused},
      {"stats", mode_stats},   {"integrity", mode_integrity}, {"halfclose", mode_halfclose},
  };
  if (!parse_arguments(argc, argv))
    return usage();
  signal(SIGPIPE, SIG_IGN);
  raise_open_files();
  pattern = pattern_new();
  read_buffer =
      mmap(NULL, READ_BUFFER_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  epoll = epoll_create1(EPOLL_CLOEXEC);
  for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
    if (!strcmp(options.mode, modes[i].name))
      return modes[i].run();
  return usage();
}
