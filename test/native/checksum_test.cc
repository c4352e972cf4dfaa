// The Internet checksum against RFC 1071's own numbers and a slow reference.
#include "wire/checksum.h"

#include <arpa/inet.h>

#include <algorithm>

#include "app_packet.h"
#include "harness.h"

namespace {

// As a big-endian number, to be compared with the RFC's and the reference's.
uint16_t fast_sum(std::span<const uint8_t> data, uint64_t start = 0) {
  return ntohs(wire::checksum_fold(wire::checksum_add(start, data.data(), data.size())));
}

lab::Bytes some_bytes(size_t n, uint32_t seed) {
  lab::Bytes out(n);
  for (auto& b : out) b = static_cast<uint8_t>((seed = seed * 1664525 + 1013904223) >> 24);
  return out;
}

}  // namespace

TEST("the example of RFC 1071 section 3 adds up to ddf2") {
  const lab::Bytes data = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};
  CHECK_EQ(fast_sum(data), 0xddf2);
}

TEST("nothing adds up to nothing") {
  CHECK_EQ(fast_sum({}), 0);
  CHECK_EQ(fast_sum({}, 0), 0);
}

TEST("an odd last byte is the first of a word that ends in zero") {
  const lab::Bytes odd = {0x12, 0x34, 0xab};
  const lab::Bytes even = {0x12, 0x34, 0xab, 0x00};
  CHECK_EQ(fast_sum(odd), fast_sum(even));
  CHECK_EQ(fast_sum(odd), 0x1234 + 0xab00);
}

TEST("every length up to 300, at every alignment, equals the slow reference") {
  const lab::Bytes data = some_bytes(308, 7);
  for (size_t length = 0; length <= 300; length++) {
    for (size_t offset = 0; offset < 8; offset++) {
      std::span<const uint8_t> part{data.data() + offset, length};
      CHECK_EQ(fast_sum(part), lab::slow_sum(part));
    }
  }
}

TEST("64 KiB of ones does not overflow") {
  const lab::Bytes data(65536, 0xff);
  CHECK_EQ(fast_sum(data), 0xffff);
  CHECK_EQ(fast_sum(data), lab::slow_sum(data));
}

TEST("sums of parts add up, as long as each but the last is even") {
  const lab::Bytes data = some_bytes(1001, 3);
  for (size_t cut = 0; cut <= data.size(); cut += 2) {
    uint64_t sum = wire::checksum_add(0, data.data(), cut);
    sum = wire::checksum_add(sum, data.data() + cut, data.size() - cut);
    CHECK_EQ(ntohs(wire::checksum_fold(sum)), lab::slow_sum(data));
  }
}

TEST("folding carries until nothing is left to carry") {
  CHECK_EQ(wire::checksum_fold(0xffff), 0xffff);
  CHECK_EQ(wire::checksum_fold(0x10000), 1);
  CHECK_EQ(wire::checksum_fold(0x1ffff), 1);
  CHECK_EQ(wire::checksum_fold(0xffffffff), 0xffff);
  CHECK_EQ(wire::checksum_fold(0xffffffffffffffff), 0xffff);
  CHECK_EQ(wire::checksum_fold(0xfffe0001fffe0001), 0xffff);
}

TEST("the pseudo header holds addresses, length and protocol, in both families") {
  lab::Bytes addresses = some_bytes(32, 11);
  for (size_t bytes : {size_t{8}, size_t{32}}) {
    for (uint32_t length : {0u, 20u, 1480u, 65515u, 65536u, 200'000u}) {
      lab::Bytes header(addresses.begin(), addresses.begin() + static_cast<std::ptrdiff_t>(bytes));
      for (int shift = 24; shift >= 0; shift -= 8)
        header.push_back(static_cast<uint8_t>(length >> shift));
      header.insert(header.end(), {0, 0, 0, 6});
      uint64_t sum = wire::checksum_pseudo(addresses.data(), bytes, 6, length);
      CHECK_EQ(ntohs(wire::checksum_fold(sum)), lab::slow_sum(header));
    }
  }
}
