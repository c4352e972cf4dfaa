/* lwIP's view of the compiler and of this process (NO_SYS: one thread). */
#pragma once
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#define LWIP_ERRNO_STDINCLUDE 1
#define LWIP_TIMEVAL_PRIVATE 0

#ifdef __cplusplus
extern "C" {
#endif
uint32_t proxyvpn_lwip_random(void);
void proxyvpn_lwip_assert(const char *message, const char *file, int line);
#ifdef __cplusplus
}
#endif

#define LWIP_RAND() proxyvpn_lwip_random()
#define LWIP_PLATFORM_DIAG(x) \
  do {                        \
  } while (0)
#define LWIP_PLATFORM_ASSERT(x) proxyvpn_lwip_assert(x, __FILE__, __LINE__)

#define lwip_htons(x) __builtin_bswap16(x)
#define lwip_htonl(x) __builtin_bswap32(x)
#define LWIP_DONT_PROVIDE_BYTEORDER_FUNCTIONS 1
