// The host name in a client's first bytes, cut anywhere; hostile bytes name nobody.
#include "relay/sniff.h"

#include <algorithm>
#include <cctype>
#include <random>
#include <string>
#include <vector>

#include "harness.h"

namespace {

using relay::Sniffer;
using State = relay::Sniffer::State;

// Prints what a test saw.
std::string describe(State state, const Sniffer& sniffer) {
  if (state == State::kFound) return "found " + sniffer.name();
  return state == State::kNone ? "none" : "more";
}

std::span<const uint8_t> bytes_of(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

std::string sniff(std::string_view text) {
  Sniffer sniffer;
  State state = sniffer.feed(bytes_of(text));
  return describe(state, sniffer);
}

// Fed in pieces of so many bytes; stops at the verdict.
std::string sniff_in_pieces(std::string_view text, size_t size) {
  Sniffer sniffer;
  State state = State::kMore;
  while (state == State::kMore && !text.empty()) {
    state = sniffer.feed(bytes_of(text.substr(0, size)));
    text.remove_prefix(std::min(size, text.size()));
  }
  return describe(state, sniffer);
}

std::string be(size_t value, int bytes) {
  std::string out;
  for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8)
    out.push_back(static_cast<char>(value >> shift));
  return out;
}

std::string vector_of(std::string_view body, int length_bytes) {
  return be(body.size(), length_bytes) + std::string(body);
}

std::string extension(size_t type, std::string_view body) {
  return be(type, 2) + vector_of(body, 2);
}

std::string host_entry(std::string_view name) { return std::string(1, '\0') + vector_of(name, 2); }

std::string server_name(std::string_view name) {
  return extension(0, vector_of(host_entry(name), 2));
}

std::string hello_message(std::string_view extensions) {
  std::string body = be(0x0303, 2) + std::string(32, 'r') + vector_of("session", 1) +
                     vector_of(be(0x1301, 2), 2) + vector_of(std::string(1, '\0'), 1) +
                     vector_of(extensions, 2);
  return "\x01" + vector_of(body, 3);
}

std::string record(std::string_view fragment) { return "\x16\x03\x01" + vector_of(fragment, 2); }

std::string client_hello(std::string_view name) {
  return record(hello_message(extension(0x0a0a, "") + server_name(name) + extension(16, "h2")));
}

}  // namespace

TEST("SNI is found in a ClientHello, in lower case and without the final dot") {
  CHECK_EQ(sniff(client_hello("www.Example.COM")), "found www.example.com");
  CHECK_EQ(sniff(client_hello("www.example.com.")), "found www.example.com");
  CHECK_EQ(sniff(client_hello("my_host")), "found my_host");
}

TEST("a ClientHello in pieces of any size says the same, and nothing before it is whole") {
  std::string hello = client_hello("www.example.com");
  for (size_t size = 1; size <= hello.size(); size++)
    CHECK_EQ(sniff_in_pieces(hello, size), "found www.example.com");
  for (size_t length = 0; length < hello.size(); length++)
    CHECK_EQ(sniff(std::string_view(hello).substr(0, length)), "more");
}

TEST("a ClientHello split over records at every byte says the same") {
  std::string message = hello_message(server_name("split.example"));
  for (size_t cut = 1; cut < message.size(); cut++) {
    std::string split = record(message.substr(0, cut)) + record(message.substr(cut));
    CHECK_EQ(sniff(split), "found split.example");
    CHECK_EQ(sniff_in_pieces(split, 1), "found split.example");
  }
  std::string tiny;
  for (char c : message) tiny += record(std::string(1, c));
  CHECK_EQ(sniff(tiny), "found split.example");
}

TEST("what follows the ClientHello does not matter") {
  CHECK_EQ(sniff(client_hello("a.example") + std::string(100, 'x')), "found a.example");
}

TEST("a ClientHello without a usable name names nobody") {
  CHECK_EQ(sniff(record(hello_message(""))), "none");
  CHECK_EQ(sniff(record(hello_message(extension(16, "h2")))), "none");
  CHECK_EQ(sniff(client_hello("")), "none");
  CHECK_EQ(sniff(client_hello("192.0.2.1")), "none");
  CHECK_EQ(sniff(client_hello("192.0.2.0x1")), "none");
  CHECK_EQ(sniff(client_hello("2001:db8::1")), "none");
  CHECK_EQ(sniff(client_hello("a..example")), "none");
  CHECK_EQ(sniff(client_hello(".example")), "none");
  CHECK_EQ(sniff(client_hello(std::string(64, 'a') + ".example")), "none");
  CHECK_EQ(sniff(client_hello(std::string(63, 'a') + ".example")),
           "found " + std::string(63, 'a') + ".example");
}

TEST("no byte of SNI or Host can get into the CONNECT request that is not of a host name") {
  for (int c = 0; c < 256; c++) {
    std::string name = std::string("a") + static_cast<char>(c) + "b.example";
    bool is_fine = std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.';
    CHECK_EQ(sniff(client_hello(name)).starts_with("found"), is_fine);
    // There a colon ends the name, and a line feed the line.
    std::string found = sniff("GET / HTTP/1.1\r\nHost: " + name + "\r\n\r\n");
    if (!is_fine && found.starts_with("found"))
      CHECK((c == ':' || c == '\n') && found == "found a");
  }
}

TEST("a name of 253 bytes passes, a longer one does not") {
  std::string label(49, 'a');
  std::string name = label + "." + label + "." + label + "." + label + "." + label + ".abc";
  CHECK_EQ(name.size(), 253u);
  CHECK_EQ(sniff(client_hello(name)), "found " + name);
  CHECK_EQ(sniff(client_hello(name + "d")), "none");
}

TEST("lengths that lie are seen through at every byte of the ClientHello") {
  std::string hello = client_hello("www.example.com");
  for (size_t at = 0; at < hello.size(); at++) {
    for (int value : {0x00, 0x01, 0x7f, 0xff}) {
      std::string bad = hello;
      bad[at] = static_cast<char>(value);
      // Under the sanitizers this is the proof that nothing is read past its end.
      std::string verdict = sniff(bad);
      CHECK_EQ(sniff_in_pieces(bad, 1), verdict);
    }
  }
}

TEST("a handshake message that is no ClientHello, and an empty record, end it at once") {
  CHECK_EQ(sniff("\x16\x03\x01" + be(4, 2) + "\x02"), "none");
  CHECK_EQ(sniff("\x16\x03\x01" + be(0, 2)), "none");
  CHECK_EQ(sniff("\x16\x02"), "none");
  CHECK_EQ(sniff("\x16\x03\x01" + be(0x4101, 2)), "none");
  CHECK_EQ(sniff("\x16\x03\x01" + be(512, 2) + "\x01\xff\xff\xff"), "none");
  // An alert between two handshake records.
  std::string message = hello_message(server_name("a.example"));
  CHECK_EQ(sniff(record(message.substr(0, 9)) + "\x15\x03\x01"), "none");
}

TEST("Host is found in a request, whatever its case and spaces, without the port") {
  CHECK_EQ(sniff("GET / HTTP/1.1\r\nHost: www.Example.com\r\n"), "found www.example.com");
  CHECK_EQ(sniff("GET / HTTP/1.0\nhOsT:\t a.example:8080 \n"), "found a.example");
  CHECK_EQ(sniff("POST http://other/ HTTP/1.1\r\nA: b\r\nHost:a.example.\r\n"), "found a.example");
  CHECK_EQ(sniff("M-SEARCH * HTTP/1.1\r\nHost: a.example\r\n"), "found a.example");
}

TEST("a request in pieces of any size says the same, and nothing before the line is whole") {
  std::string request = "GET /x HTTP/1.1\r\nAccept: */*\r\nHost: www.example.com:80\r\n";
  for (size_t size = 1; size <= request.size(); size++)
    CHECK_EQ(sniff_in_pieces(request, size), "found www.example.com");
  for (size_t length = 0; length < request.size(); length++)
    CHECK_EQ(sniff(std::string_view(request).substr(0, length)), "more");
}

TEST("a request without a usable Host names nobody") {
  CHECK_EQ(sniff("GET / HTTP/1.1\r\nAccept: */*\r\n\r\n"), "none");
  CHECK_EQ(sniff("GET / HTTP/1.1\r\nHost:\r\n"), "none");
  CHECK_EQ(sniff("GET / HTTP/1.1\r\nHost: 192.0.2.1:80\r\n"), "none");
  CHECK_EQ(sniff("GET / HTTP/1.1\r\nHost: [2001:db8::1]\r\n"), "none");
  CHECK_EQ(sniff("GET / HTTP/1.1\r\nXHost: a.example\r\nHosts: b.example\r\n\r\n"), "none");
  CHECK_EQ(sniff("PRI * HTTP/2.0\r\n"), "none");
  CHECK_EQ(sniff("GET /\r\n"), "none");
}

TEST("other protocols are known by their first bytes or first line") {
  CHECK_EQ(sniff("SSH-2.0-OpenSSH_9.2\r\n"), "none");
  CHECK_EQ(sniff("EHLO a.example\r\n"), "none");
  CHECK_EQ(sniff(std::string_view("\0\x01", 2)), "none");
  CHECK_EQ(sniff("get / HTTP/1.1\r\n"), "none");
  CHECK_EQ(sniff("GET\x01"), "none");
  CHECK_EQ(sniff("\x80"), "none");
}

TEST("a client that never comes to the point is given up after the bound") {
  std::string endless = "GET / HTTP/1.1\r\n";
  while (endless.size() < relay::kMaxSniffBytes) endless += "A: b\r\n";
  CHECK_EQ(sniff(endless.substr(0, relay::kMaxSniffBytes - 1)), "more");
  CHECK_EQ(sniff(endless), "none");
  CHECK_EQ(sniff(std::string(relay::kMaxSniffBytes, 'A')), "none");
  std::string tiny;
  std::string message = hello_message(extension(21, std::string(8000, '\0')));
  for (char c : message) tiny += record(std::string(1, c));
  CHECK_EQ(sniff(tiny), "none");
}

TEST("random bytes, and mutations of good ones, never name what is no host") {
  std::mt19937 random(20260101);
  const std::string seeds[] = {client_hello("www.example.com"),
                               "GET / HTTP/1.1\r\nAccept: */*\r\nHost: www.example.com\r\n\r\n"};
  for (int round = 0; round < 20000; round++) {
    std::string text = seeds[round % 2];
    for (int edits = 1 + random() % 4; edits > 0; edits--)
      text[random() % text.size()] = static_cast<char>(random());
    text.resize(1 + random() % text.size());
    Sniffer sniffer;
    if (sniffer.feed(bytes_of(text)) != State::kFound) continue;
    for (char c : sniffer.name())
      CHECK(std::islower(c) != 0 || std::isdigit(c) != 0 || c == '-' || c == '_' || c == '.');
    CHECK(!sniffer.name().empty() && sniffer.name().size() <= 253u);
  }
}
