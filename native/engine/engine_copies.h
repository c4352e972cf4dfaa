// Private copies of the engine, one per TUN queue.
//
// lwIP has global state, so a second engine needs a second lwIP. The shared object that holds this
// code is loaded again from a sealed memfd: another inode, hence another set of globals. Objects
// made in a copy are used through virtual functions only, which run in that copy.
#pragma once
#include <cstdint>

#include "engine/engine.h"

namespace engine {

struct EngineParts {
  std::unique_ptr<tun::PacketIo> device;
  std::unique_ptr<relay::Dialer> dialer;
  Options options;
  std::function<void()> wake;
  std::shared_ptr<QueueGroup> group;
  uint32_t queue = 0;
  std::function<void()> wake_datagrams;
};

using CreateEngine = EngineFace* (*)(EngineParts& parts, base::Failure& failure);

/// The n-th copy's factory; copy 0 is this one. Copies stay loaded until the process ends.
base::Result<CreateEngine> engine_copy(uint32_t n);

}  // namespace engine
