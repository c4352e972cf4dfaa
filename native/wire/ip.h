// IP headers that we write.
#pragma once
#include <cstddef>
#include <cstdint>

#include "wire/flow_key.h"

namespace wire {

constexpr uint32_t kIpv4HeaderBytes = 20;
constexpr uint32_t kIpv6HeaderBytes = 40;

/// Whose packet it is: the application's, or an answer that seems to come from its destination.
enum class Towards { kDestination, kApp };

/// Source and destination back to back, 8 or 32 bytes.
void store_addresses(uint8_t* out, const FlowKey& key, Towards towards);

/// A header without options, its checksum (IPv4) included. @return its bytes
size_t put_ip(uint8_t* p, const FlowKey& key, Towards towards, uint8_t protocol,
              uint16_t payload_bytes);

}  // namespace wire
