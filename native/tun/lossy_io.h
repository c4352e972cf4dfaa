// A device that loses, duplicates and reorders packets of another, each way: this kernel has no
// netem, and a permanent test is worth more than one anyway.
#pragma once
#include <deque>
#include <vector>

#include "tun/packet_io.h"

namespace tun {

struct Faults {
  uint32_t drop_one_in = 0;  // 0 = never
  uint32_t duplicate_one_in = 0;
  uint32_t delay_one_in = 0;  // overtaken by the next one
  // Super-segments are cut to the MSS first, as on their way out of this host: so faults meet
  // packets of the size that a network has.
  bool cuts = false;
  uint64_t seed = 1;
  bool any() const { return drop_one_in || duplicate_one_in || delay_one_in || cuts; }
};

class LossyIo final : public PacketIo {
 public:
  LossyIo(PacketIo& inner, Faults faults)
      : inner_(inner), faults_(faults), state_(faults.seed | 1) {}

  ssize_t read(std::span<uint8_t> buffer) override;
  ssize_t write(const iovec* parts, int count) override;
  uint64_t submit() override;
  void set_steering(bool steers) override { inner_.set_steering(steers); }
  int fd() const override { return inner_.fd(); }
  /// Whether read() has something without the descriptor being readable.
  bool has_arrived() const { return !arrived_.empty(); }

 private:
  using Packet = std::vector<uint8_t>;
  struct Way {
    Packet delayed;
    bool is_late = false;  // nothing has overtaken it for a whole round
  };

  template <class F>
  void pass(Way& way, std::span<const uint8_t> packet, F deliver);
  ssize_t write_one(Packet packet);
  bool chance(uint32_t one_in);

  PacketIo& inner_;
  Faults faults_;
  uint64_t state_;
  Way to_app_, from_app_;
  std::deque<Packet> arrived_;
};

}  // namespace tun
