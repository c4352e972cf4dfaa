#include "relay/near_path.h"

#include <linux/tcp.h>  // its tcp_info has more than that of the C library
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstddef>
#include <cstring>

namespace relay {
namespace {

constexpr char kUnpaced[] = "reno";
constexpr size_t kLongestName = 16;   // TCP_CA_NAME_MAX
constexpr uint8_t kLookAtOneIn = 16;  // connections: a way may become another one
constexpr uint32_t kRttUnknown = ~0u;

uint32_t least_rtt_us(int fd) {
  tcp_info info{};
  socklen_t length = sizeof info;
  info.tcpi_min_rtt = kRttUnknown;
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) < 0) return kRttUnknown;
  return info.tcpi_min_rtt;
}

std::string congestion_control_of(int fd) {
  char name[kLongestName] = "";
  socklen_t length = sizeof name;
  if (getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &length) < 0) return {};
  return {name, strnlen(name, length)};
}

}  // namespace

void NearPath::prepare(int fd) const {
  if (is_near_) setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, kUnpaced, sizeof kUnpaced - 1);
}

bool NearPath::learn(int fd) {
  if (default_ == Default::kUnknown)
    default_ = congestion_control_of(fd).starts_with(paced_) ? Default::kPaced : Default::kOther;
  if (default_ == Default::kOther || until_next_look_-- > 0) return false;
  until_next_look_ = kLookAtOneIn - 1;
  bool was_near = is_near_;
  is_near_ = least_rtt_us(fd) < near_us_;
  return is_near_ != was_near;
}

}  // namespace relay
