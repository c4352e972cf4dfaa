// A lab with virtual addresses: 198.18.0.0/15 and fd70:7670:6e00:1::/64 as in src/dns.
#pragma once
#include "lab.h"
#include "stack/name_table.h"

namespace lab {

/// Declare it before the lab that uses it: the flow words are its.
struct Names {
  static constexpr uint32_t kSlots = 130'000;
  std::vector<uint32_t> words = std::vector<uint32_t>(kSlots);
  std::shared_ptr<stack::NameTable> table = std::make_shared<stack::NameTable>(
      *wire::VirtualRange::make("198.18.0.0/15", "fd70:7670:6e00:1::/64",
                                {{0, 256}, {65280, 256}, {131071, 1}}, kSlots),
      words.data());

  LabOptions options(bool catches_dns = true) const {
    LabOptions o;
    o.engine.relay.names = table;
    o.engine.relay.catches_dns = catches_dns;
    o.engine.relay.dns_socket = relay::unix_address("/dns.sock");
    return o;
  }
  uint32_t flows(uint32_t slot) const { return words[slot] & 0x7fffffff; }
  bool was_used(uint32_t slot) const { return words[slot] >> 31; }
};

// Slot 0 is behind the first gap.
constexpr const char* kSlot0 = "198.18.1.0";
constexpr const char* kSlot0v6 = "fd70:7670:6e00:1::1";
constexpr const char* kSlot1 = "198.18.1.1";

}  // namespace lab
