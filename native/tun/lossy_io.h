// A device that loses, duplicates and reorders packets of another: this kernel has no netem, and a
// permanent test is worth more than one anyway.
#pragma once
#include <vector>

#include "tun/packet_io.h"

namespace tun {

struct Faults {
  uint32_t drop_one_in = 0;       // 0 = never
  uint32_t duplicate_one_in = 0;  // written packets only
  uint32_t delay_one_in = 0;      // written packets only: overtaken by the next one
  uint64_t seed = 1;
};

class LossyIo final : public PacketIo {
 public:
  LossyIo(PacketIo& inner, Faults faults)
      : inner_(inner), faults_(faults), state_(faults.seed | 1) {}

  ssize_t read(std::span<uint8_t> buffer) override {
    for (;;) {
      ssize_t n = inner_.read(buffer);
      if (n <= 0 || !chance(faults_.drop_one_in)) return n;
    }
  }

  ssize_t write(const iovec* parts, int count) override {
    ssize_t length = 0;
    for (int i = 0; i < count; i++) length += static_cast<ssize_t>(parts[i].iov_len);
    if (chance(faults_.drop_one_in)) return length;
    if (delayed_.empty() && chance(faults_.delay_one_in)) {
      for (int i = 0; i < count; i++) {
        auto* p = static_cast<const uint8_t*>(parts[i].iov_base);
        delayed_.insert(delayed_.end(), p, p + parts[i].iov_len);
      }
      return length;
    }
    ssize_t n = inner_.write(parts, count);
    if (n >= 0 && chance(faults_.duplicate_one_in)) inner_.write(parts, count);
    if (!delayed_.empty()) {
      iovec part{delayed_.data(), delayed_.size()};
      inner_.write(&part, 1);
      delayed_.clear();
    }
    return n;
  }

  uint64_t submit() override { return inner_.submit(); }
  void set_steering(bool steers) override { inner_.set_steering(steers); }
  int fd() const override { return inner_.fd(); }

 private:
  bool chance(uint32_t one_in) {
    if (one_in == 0) return false;
    state_ ^= state_ << 13;  // xorshift64, Marsaglia 2003
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return (state_ >> 16) % one_in == 0;
  }

  PacketIo& inner_;
  Faults faults_;
  uint64_t state_;
  std::vector<uint8_t> delayed_;
};

}  // namespace tun
