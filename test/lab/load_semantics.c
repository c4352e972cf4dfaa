// labload halfclose, refused, stats: what a program sees of closes, resets and refusals.
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "labload.h"
#include "pattern.h"

#define RESULT_SIZE 96
#define BUFFER_SIZE (4u << 20)
#define LONG_DOWNLOAD 8388608
#define AFTER_FIN_WRITES 32
#define AFTER_FIN_SIZE 8192

static char *buffer;

static bool get_stats(char *text, size_t size) {
  double ms;
  int error, fd = blocking_connect(9008, 5, &ms, &error);
  if (fd < 0)
    return false;
  ssize_t got = send_all(fd, "s\n", 2) ? -1 : read_all(fd, text, size - 1);
  close(fd);
  if (got < 1)
    return false;
  text[got] = 0;
  text[strcspn(text, "\n")] = 0;
  return true;
}

// One of labproxy's counters now; -1 when it cannot be had.
static long long counter(const char *name) {
  char text[1024], key[64];
  if (!get_stats(text, sizeof text))
    return -1;
  snprintf(key, sizeof key, "\"%s\":", name);
  const char *at = strstr(text, key);
  return at ? atoll(at + strlen(key)) : -1;
}

// Connects or says in `result` why not.
static int open_for(int port, int timeout_s, char *result) {
  double ms;
  int error, fd = blocking_connect(port, timeout_s, &ms, &error);
  if (fd < 0)
    snprintf(result, RESULT_SIZE, "connect %s", error_name(error));
  return fd;
}

static void client_fin_then_reply(char *result) {
  int fd = open_for(9006, 10, result);
  if (fd < 0)
    return;
  char expected[32];
  size_t size = PATTERN_TAIL;
  uint64_t hash = fnv1a(fnv1a(FNV_OFFSET_BASIS, pattern, size), pattern + size, size);
  snprintf(expected, sizeof expected, "%016llx\n", (ull)hash);
  if (send_all(fd, pattern, 2 * size)) {
    snprintf(result, RESULT_SIZE, "send %s", error_name(errno));
  } else {
    shutdown(fd, SHUT_WR);
    ssize_t got = read_all(fd, buffer, 64);
    if (got != 17 || memcmp(buffer, expected, 17))
      snprintf(result, RESULT_SIZE, "reply %zd bytes %s", got,
               got < 0 ? error_name(errno) : "wrong");
  }
  close(fd);
}

static void client_fin_long_download(char *result) {
  int fd = open_for(9005, 10, result);
  if (fd < 0)
    return;
  char line[32];
  int n = snprintf(line, sizeof line, "%d 0\n", LONG_DOWNLOAD);
  send_all(fd, line, (size_t)n);
  shutdown(fd, SHUT_WR);
  usleep(1500000);
  uint64_t total = 0;
  ssize_t got;
  while ((got = recv(fd, buffer, 262144, 0)) > 0) {
    total += (uint64_t)got;
    if (total < 1048576)
      usleep(20000);
  }
  if (total != LONG_DOWNLOAD || got < 0)
    snprintf(result, RESULT_SIZE, "got %llu of %d, %s", (ull)total, LONG_DOWNLOAD,
             got < 0 ? error_name(errno) : "EOF");
  close(fd);
}

static void origin_fin_client_sends(char *result) {
  long long before = counter("hc_bytes");
  int fd = open_for(9007, 10, result);
  if (fd < 0)
    return;
  ssize_t got = read_all(fd, buffer, 1u << 20);
  if (got != 65536) {
    snprintf(result, RESULT_SIZE, "read %zd of 65536 %s", got, got < 0 ? error_name(errno) : "");
  } else {
    usleep(1200000);
    int error = 0;
    for (int i = 0; i < AFTER_FIN_WRITES && !error; i++) {
      error = send_all(fd, pattern, AFTER_FIN_SIZE) ? errno : 0;
      usleep(2000);
    }
    shutdown(fd, SHUT_WR);
    long long expected = AFTER_FIN_WRITES * AFTER_FIN_SIZE, received = -1;
    for (double end = now() + 5; now() < end && received != expected; usleep(50000))
      received = counter("hc_bytes") - before;
    if (error || received != expected)
      snprintf(result, RESULT_SIZE, "after origin FIN: send %s, origin received %lld of %lld",
               error_name(error), received, expected);
  }
  close(fd);
}

static void origin_rst_app_sees(char *result) {
  int fd = open_for(9018, 5, result);
  if (fd < 0)
    return;
  send_all(fd, "x", 1);
  ssize_t got = recv(fd, buffer, 10, 0);
  snprintf(result, RESULT_SIZE, "%s", got < 0 ? error_name(errno) : got ? "data" : "EOF");
  close(fd);
}

static void client_rst_origin_sees(char *result) {
  long long resets = counter("rst_seen");
  int fd = open_for(9003, 5, result);
  if (fd < 0)
    return;
  struct linger at_once = {1, 0};
  send_all(fd, "x", 1);
  read_all(fd, buffer, 1);
  long long ends = counter("eof_seen");
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  close(fd);
  strcpy(result, "nothing");
  for (double end = now() + 2; now() < end && !strcmp(result, "nothing"); usleep(50000)) {
    if (counter("rst_seen") > resets)
      strcpy(result, "RST");
    else if (counter("eof_seen") > ends)
      strcpy(result, "FIN");
  }
}

static void server_first_coalesced(char *result) {
  static const char banner[] = "BANNER hello\r\n";
  int fd = open_for(9015, 5, result);
  if (fd < 0)
    return;
  ssize_t got = read_all(fd, buffer, sizeof banner - 1);
  if (got != sizeof banner - 1 || memcmp(buffer, banner, sizeof banner - 1))
    snprintf(result, RESULT_SIZE, "got %zd bytes %s", got, got < 0 ? error_name(errno) : "");
  close(fd);
}

static void slow_connect_early_data(char *result) {
  double ms;
  int error, fd = blocking_connect(9016, 5, &ms, &error);
  if (fd < 0) {
    snprintf(result, RESULT_SIZE, "connect %s", error_name(error));
    return;
  }
  send_all(fd, "early", 5);
  ssize_t got = read_all(fd, buffer, 5);
  if (got != 5 || memcmp(buffer, "early", 5))
    snprintf(result, RESULT_SIZE, "got %zd %s", got, got < 0 ? error_name(errno) : "");
  else
    snprintf(result, RESULT_SIZE, "ok connect=%.0fms", ms);
  close(fd);
}

static void client_close_mid_stream(char *result) {
  long long before = counter("active");
  int fd = open_for(9002, 5, result);
  if (fd < 0)
    return;
  read_all(fd, buffer, 1u << 20);
  close(fd);
  double start = now();
  long long more;
  do {
    usleep(50000);
    more = counter("active") - before;
  } while (more > 0 && now() - start < 5);
  if (more > 0)
    snprintf(result, RESULT_SIZE, "origin still open after 5 s");
  else
    snprintf(result, RESULT_SIZE, "ok %.0fms", (now() - start) * 1000);
}

int mode_halfclose(void) {
  static const struct {
    const char *name;
    void (*run)(char *result);
    bool must_be_ok;
  } cases[] = {
      {"client_fin_then_reply", client_fin_then_reply, true},
      {"client_fin_long_download", client_fin_long_download, true},
      {"origin_fin_client_sends", origin_fin_client_sends, true},
      {"origin_rst_app_sees", origin_rst_app_sees, false},
      {"client_rst_origin_sees", client_rst_origin_sees, false},
      {"server_first_coalesced", server_first_coalesced, false},
      {"slow_connect_early_data", slow_connect_early_data, false},
      {"client_close_mid_stream", client_close_mid_stream, false},
  };
  bool is_bad = false;
  buffer = malloc(BUFFER_SIZE);
  printf("{\"mode\":\"halfclose\"");
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char result[RESULT_SIZE] = "ok";
    cases[i].run(result);
    printf(",\"%s\":\"%s\"", cases[i].name, result);
    is_bad |= cases[i].must_be_ok && strcmp(result, "ok");
  }
  printf("}\n");
  return is_bad;
}

static void print_refusal(int port) {
  double ms;
  int error, fd = blocking_connect(port, (int)options.seconds, &ms, &error);
  printf(",\"%d\":{\"connect\":\"%s\",\"connect_ms\":%.2f", port, error_name(error), ms);
  if (fd >= 0) {
    char byte;
    double start = now();
    ssize_t got = recv(fd, &byte, 1, 0);
    int read_error = errno;
    const char *first_read = got > 0 ? "data" : got == 0 ? "EOF" : error_name(read_error);
    if (got < 0 && read_error == EAGAIN)
      first_read = "still_open";
    printf(",\"first_read\":\"%s\",\"first_read_ms\":%.2f", first_read, (now() - start) * 1000);
    close(fd);
  }
  printf(",\"ended_ns\":%llu}", (ull)monotonic_ns());
}

int mode_refused(void) {
  static const int ports[] = {9010, 9012, 9013, 9017, 9011};
  printf("{\"mode\":\"refused\"");
  if (options.port)
    print_refusal(options.port);
  else
    for (size_t i = 0; i < sizeof ports / sizeof *ports; i++)
      print_refusal(ports[i]);
  printf("}\n");
  return 0;
}

int mode_stats(void) {
  char text[1024];
  if (!get_stats(text, sizeof text))
    return 1;
  puts(text);
  return 0;
}
