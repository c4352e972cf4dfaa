// labcores [MS]: how much each processor really does while all of them work. On a virtual machine
// the host may run somebody else on the other thread of a core: then ours stays "100 % busy", no
// time is stolen, and it does two thirds. Prints {"per_us":[...]}: rounds of a fixed loop in a
// microsecond.
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MOST = 256, BATCH = 1000, DEFAULT_MS = 60 };

static pthread_barrier_t all_are_ready;
static double window_s;

struct Worker {
  pthread_t thread;
  int processor;
  double per_us;
};

static double now_s(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

// Eight chains that need nothing of each other: they fill the units of a core, which therefore has
// nothing left to share.
static void one_batch(unsigned long chains[8]) {
#define STEP(i) __asm__ volatile("add $3, %0\n\txor $5, %0" : "+r"(chains[i]))
  for (int i = 0; i < BATCH; i++) {
    STEP(0);
    STEP(1);
    STEP(2);
    STEP(3);
    STEP(4);
    STEP(5);
    STEP(6);
    STEP(7);
  }
#undef STEP
}

static void *work(void *argument) {
  struct Worker *worker = argument;
  cpu_set_t only;
  CPU_ZERO(&only);
  CPU_SET(worker->processor, &only);
  sched_setaffinity(0, sizeof only, &only);
  unsigned long chains[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  pthread_barrier_wait(&all_are_ready);
  double began = now_s(), passed;
  double batches = 0;
  do {
    one_batch(chains);
    batches++;
    passed = now_s() - began;
  } while (passed < window_s);
  worker->per_us = batches * BATCH / passed / 1e6;
  return NULL;
}

int main(int count, char **arguments) {
  static struct Worker workers[MOST];
  cpu_set_t allowed;
  int processors = 0;
  window_s = (count > 1 ? atof(arguments[1]) : DEFAULT_MS) / 1e3;
  if (!(window_s > 0) || sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
    fprintf(stderr, "usage: labcores [MS]\n");
    return 2;
  }
  for (int i = 0; i < CPU_SETSIZE && processors < MOST; i++)
    if (CPU_ISSET(i, &allowed)) workers[processors++].processor = i;
  pthread_barrier_init(&all_are_ready, NULL, (unsigned)processors);
  for (int i = 0; i < processors; i++)
    if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0) return 1;
  for (int i = 0; i < processors; i++) pthread_join(workers[i].thread, NULL);
  printf("{\"per_us\":[");
  for (int i = 0; i < processors; i++) printf("%s%.1f", i ? "," : "", workers[i].per_us);
  printf("]}\n");
  return 0;
}
