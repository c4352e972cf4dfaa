// A proxy that is near needs no pacing.
//
// BBR sends by the clock: between its packets it sets a timer, and on a path of microseconds the
// timer is what takes the time. Where the device is a virtual one (a container's veth, say) packets
// of one connection then start on the timer's processor or on the sender's, overtake each other,
// and are sent again for nothing. Where the kernel would use BBR and the way to the proxy is short,
// sockets are made with `reno` (tcp(7), TCP_CONGESTION), which every kernel has and everybody may
// choose. A network of others' lies behind the proxy; on this way there is nothing to probe.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace relay {

class NearPath {
 public:
  static constexpr uint32_t kNearUs = 500;

  /// `paced`: how the names begin of what is replaced. `near_us`: least round-trip time, from where
  /// on nothing is.
  explicit NearPath(std::string_view paced = "bbr", uint32_t near_us = kNearUs)
      : paced_(paced), near_us_(near_us) {}

  /// To a new socket of TCP, before connect(2).
  void prepare(int fd) const;

  /// Looks at a connected socket, now and then.
  /// @return true when sockets that were made before are not as they would be made now
  bool learn(int fd);

 private:
  // Known after the first learn(), which sees a socket as the kernel makes it.
  enum class Default : uint8_t { kUnknown, kPaced, kOther };

  std::string paced_;
  uint32_t near_us_;
  Default default_ = Default::kUnknown;
  bool is_near_ = false;
  uint8_t until_next_look_ = 0;
};

}  // namespace relay
