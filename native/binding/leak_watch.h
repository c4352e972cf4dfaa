// Sees by which devices the probes' packets leave.
#pragma once
#include <span>
#include <vector>

#include "base/unique_fd.h"
#include "binding/leak_probe.h"

namespace leak {

/// Needs CAP_NET_RAW.
class Watch {
 public:
  void open();
  /// -1 when nothing is watched.
  int fd() const { return fd_ ? fd_.get() : -1; }
  /// 0, or the errno that makes the record worthless.
  int error() const { return error_; }

  /// Notes at each probe the devices by which its packets have left.
  void drain(std::vector<Probe>& probes);

  void close();

 private:
  void note(int error);
  static void match(std::vector<Probe>& probes, std::span<const uint8_t> packet, int index);

  base::UniqueFd fd_;
  int error_ = 0;
};

}  // namespace leak
