// Other stacks of the same device, one per queue: a packet may come in on a queue whose stack does
// not know its flow.
#pragma once
#include <cstdint>
#include <span>

#include "wire/flow_key.h"

namespace stack {

class Neighbours {
 public:
  virtual ~Neighbours() = default;
  /// All stacks hash with it, so that a packet's key is hashed once.
  virtual const base::SipKey& secret() const = 0;
  /// This stack has the flow from now on whose key has this hash.
  virtual void claim(uint64_t hash) = 0;
  virtual void release(uint64_t hash) = 0;
  /// Gives a packet (with its virtio-net header) to the stack that has its flow.
  /// @return false when none has it
  virtual bool pass_on(uint64_t hash, std::span<const uint8_t> packet) = 0;
};

}  // namespace stack
