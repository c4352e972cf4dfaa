/* Every lwIP option that differs from its default, with its reason. */
#pragma once
#include <stddef.h>
#include <stdint.h>

/* One thread, no timers of lwIP's own: the driver calls tcp_fasttmr and tcp_slowtmr. */
#define NO_SYS 1
#define SYS_LIGHTWEIGHT_PROT 0
#define LWIP_TIMERS 0

/* pcbs and segments come from the driver's size-class lists (no pool to run dry, no malloc per
 * segment). */
#define MEM_ALIGNMENT 8
#define MEM_LIBC_MALLOC 1
#define MEMP_MEM_MALLOC 1
#ifdef __cplusplus
extern "C" {
#endif
void *proxyvpn_lwip_malloc(size_t bytes);
void *proxyvpn_lwip_calloc(size_t count, size_t bytes);
void proxyvpn_lwip_free(void *p);
uint32_t proxyvpn_lwip_isn(const void *local_ip, uint16_t local_port, const void *remote_ip,
                           uint16_t remote_port);
#ifdef __cplusplus
}
#endif
#define mem_clib_malloc proxyvpn_lwip_malloc
#define mem_clib_calloc proxyvpn_lwip_calloc
#define mem_clib_free proxyvpn_lwip_free
#define LWIP_HOOK_TCP_ISN(lip, lp, rip, rp) proxyvpn_lwip_isn(lip, lp, rip, rp)

/* TCP over both families and nothing else: tcp_input() is called directly. */
#define LWIP_IPV4 1
#define LWIP_IPV6 1
#define LWIP_ARP 0
#define LWIP_ETHERNET 0
#define LWIP_ICMP 0
#define LWIP_ICMP6 1 /* 0 leaves icmp6_param_problem undefined in ip6.c */
#define LWIP_IPV6_MLD 0
#define LWIP_IPV6_SCOPES 0
#define LWIP_IPV6_AUTOCONFIG 0
#define LWIP_IPV6_DUP_DETECT_ATTEMPTS 0
#define LWIP_IPV6_SEND_ROUTER_SOLICIT 0
#define LWIP_ND6_QUEUEING 0
#define LWIP_RAW 0
#define LWIP_UDP 0
#define LWIP_DHCP 0
#define LWIP_DNS 0
#define LWIP_NETCONN 0
#define LWIP_SOCKET 0
#define LWIP_STATS 0
#define LWIP_SINGLE_NETIF 1
#define IP_FRAG 0
#define IP_REASSEMBLY 0
#define LWIP_IPV6_FRAG 0
#define LWIP_IPV6_REASS 0
#define IP_FORWARD 0

#define LWIP_TCP 1
#define TCP_LISTEN_BACKLOG 0
#define LWIP_SUPPORT_CUSTOM_PBUF 1
#define PBUF_LINK_HLEN 32     /* room in front of the IP header for the virtio-net header */
#define PBUF_POOL_BUFSIZE 512 /* the default follows TCP_MSS and overflows u16 */

/* 64 KiB segments: the kernel cuts them (gso_size), so that one write carries 44 of them. */
#define TCP_MSS 65495
#define LWIP_DISABLE_TCP_SANITY_CHECKS \
  1 /* they assume TCP_SND_BUF and the pool are sized for Ethernet */
#define LWIP_WND_SCALE 1
#define TCP_RCV_SCALE 7
#define TCP_WND (4 * 1024 * 1024)     /* ceiling only: the driver lowers rcv_wnd per connection */
#define TCP_SND_BUF (4 * 1024 * 1024) /* ceiling only: the relay bounds what it queues */
#define TCP_SND_QUEUELEN 16384
#define TCP_OVERSIZE 0 /* the default is TCP_MSS: 64 KiB allocated per small copied write */
#define TCP_QUEUE_OOSEQ 1
#define LWIP_TCP_SACK_OUT 1
#define LWIP_TCP_MAX_SACK_NUM 4
#define LWIP_TCP_TIMESTAMPS 0
/* ms, fast timer; the slow one is twice that: RTO granularity 100 ms */
#define TCP_TMR_INTERVAL 50

/* Checksums: the kernel completes TCP (VIRTIO_NET_HDR_F_NEEDS_CSUM) and has checked what it sent
 * us. */
#define CHECKSUM_GEN_IP 1
#define CHECKSUM_GEN_TCP 0
#define CHECKSUM_GEN_UDP 0
#define CHECKSUM_GEN_ICMP 0
#define CHECKSUM_CHECK_IP 0
#define CHECKSUM_CHECK_TCP 0
#define CHECKSUM_CHECK_UDP 0
#define CHECKSUM_CHECK_ICMP 0
#define LWIP_CHECKSUM_ON_COPY 0

#ifndef PROXYVPN_ASSERTS
#define LWIP_NOASSERT 1
#endif
