// The proxy's answer to CONNECT is judged alike however it is cut.
#include "relay/connect_reply.h"

#include <vector>

#include "harness.h"

namespace {

using State = relay::ConnectReply::State;

struct Verdict {
  State state = State::kIncomplete;
  int status = 0;
  std::string head;
  std::string rest;  // what belongs to the app
  bool operator==(const Verdict&) const = default;
};

// Feeds pieces that end at `cuts`.
Verdict judge(std::string_view text, const std::vector<size_t>& cuts) {
  relay::ConnectReply reply;
  Verdict out;
  size_t at = 0;
  for (size_t i = 0; i <= cuts.size() && out.state == State::kIncomplete; i++) {
    size_t end = i < cuts.size() ? cuts[i] : text.size();
    auto* p = reinterpret_cast<const uint8_t*>(text.data()) + at;
    size_t rest = 0;
    out.state = reply.feed({p, end - at}, rest);
    if (out.state == State::kComplete) out.rest = text.substr(at + rest);
    at = end;
  }
  if (out.state == State::kComplete) {
    out.status = reply.status();
    out.head = reply.head();
  }
  return out;
}

std::vector<size_t> byte_by_byte(size_t length) {
  std::vector<size_t> cuts;
  for (size_t i = 1; i < length; i++) cuts.push_back(i);
  return cuts;
}

struct Sample {
  const char* text;
  State state;
  int status;
  const char* rest;
};

constexpr State kIncomplete = State::kIncomplete, kComplete = State::kComplete,
                kMalformed = State::kMalformed;

const Sample kSamples[] = {
    {"HTTP/1.1 200 Connection established\r\n\r\n", kComplete, 200, ""},
    {"HTTP/1.1 200 OK\r\n\r\nSSH-2.0-OpenSSH_9.2\r\n", kComplete, 200, "SSH-2.0-OpenSSH_9.2\r\n"},
    {"HTTP/1.1 200 OK\r\n\r\n\r\n\r\n", kComplete, 200, "\r\n\r\n"},
    {"HTTP/1.0 200 Connection established\r\nProxy-agent: tinyproxy/1.11\r\n\r\n", kComplete, 200,
     ""},
    {"HTTP/1.1 200\r\n\r\n", kComplete, 200, ""},
    {"HTTP/1.1 200 \r\n\r\n", kComplete, 200, ""},
    {"HTTP/1.1 200\n\n", kComplete, 200, ""},
    {"HTTP/1.1 200 OK\nVia: x\n\nrest", kComplete, 200, "rest"},
    {"HTTP/1.1 200 OK\r\nVia: x\n\r\nrest", kComplete, 200, "rest"},
    {"HTTP/1.1 200 OK\r\n\nrest", kComplete, 200, "rest"},
    {"HTTP/1.1 201 Created\r\n\r\n", kComplete, 201, ""},
    {"HTTP/1.1 299 Fine\r\n\r\n", kComplete, 299, ""},
    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", kComplete, 200, "hello"},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", kComplete, 200, "0\r\n\r\n"},
    {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nx", kComplete, 200, "x"},
    {"HTTP/1.1 102 Processing\r\nA: b\r\n\r\nHTTP/1.1 103 Early\r\n\r\nHTTP/1.0 403 No\r\n\r\n",
     kComplete, 403, ""},
    {"HTTP/1.1 100 Continue\n\nHTTP/1.1 204 None\n\n", kComplete, 204, ""},
    {"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\r\n",
     kComplete, 407, ""},
    {"HTTP/1.1 301 Moved\r\n\r\n", kComplete, 301, ""},
    {"HTTP/1.1 503 Service Unavailable\r\n\r\n<html>", kComplete, 503, "<html>"},
    {"HTTP/1.1 999 Strange\r\n\r\n", kComplete, 999, ""},
    {"HTTP/1.9 200 OK\r\n\r\n", kComplete, 200, ""},
    {"HTTP/1.1 200 \xc3\xa9\x01\xff\r\n\r\n", kComplete, 200, ""},
    {"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n", kComplete, 200, ""},  // a CR alone ends nothing

    {"", kIncomplete, 0, ""},
    {"H", kIncomplete, 0, ""},
    {"HTTP/1.1 200 OK", kIncomplete, 0, ""},
    {"HTTP/1.1 200 OK\r\n", kIncomplete, 0, ""},
    {"HTTP/1.1 200 OK\r\n\r", kIncomplete, 0, ""},
    {"HTTP/1.1 200 OK\r\nA: b\r\n", kIncomplete, 0, ""},
    {"HTTP/1.1 100 Continue\r\n\r\n", kIncomplete, 0, ""},
    {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200", kIncomplete, 0, ""},

    {"h", kMalformed, 0, ""},
    {"http/1.1 200 OK\r\n\r\n", kMalformed, 0, ""},
    {"HTTP/2 200\r\n\r\n", kMalformed, 0, ""},
    {"HTTP/0.9 200 OK\r\n\r\n", kMalformed, 0, ""},
    {"\r\nHTTP/1.1 200 OK\r\n\r\n", kMalformed, 0, ""},
    {"SSH-2.0-OpenSSH_9.2\r\n", kMalformed, 0, ""},
    {"<html>", kMalformed, 0, ""},
    {"\x15\x03\x01\x00\x02\x02\x46", kMalformed, 0, ""},  // a TLS alert: the proxy wants https
    {"\x05\x00", kMalformed, 0, ""},                      // SOCKS 5
    {"HTTP/1.1\r\n\r\n", kMalformed, 0, ""},
    {"HTTP/1.1 \r\n\r\n", kMalformed, 0, ""},
    {"HTTP/1.1 20\r\n\r\n", kMalformed, 0, ""},
    {"HTTP/1.1 2x0 OK\r\n\r\n", kMalformed, 0, ""},
    {"HTTP/1.1 2000 OK\r\n\r\n", kMalformed, 0, ""},
    {"HTTP/1.1 200OK\r\n\r\n", kMalformed, 0, ""},
    {"HTTP/1.1  200 OK\r\n\r\n", kMalformed, 0, ""},
    {"HTTP/1.1\t200 OK\r\n\r\n", kMalformed, 0, ""},
    {"HTTP/1.x 200 OK\r\n\r\n", kMalformed, 0, ""},
    {"HTTP/1. 200 OK\r\n\r\n", kMalformed, 0, ""},
    {"HTTP/1.1 099 Low\r\n\r\n", kMalformed, 0, ""},
    {"HTTP/1.1 000 \r\n\r\n", kMalformed, 0, ""},
    {"HTTP/1.1 -20 OK\r\n\r\n", kMalformed, 0, ""},
    {"HTTP/1.1 100 Continue\r\n\r\ngarbage", kMalformed, 0, ""},
};

}  // namespace

TEST("each sample gets its verdict, whole") {
  for (const Sample& s : kSamples) {
    Verdict v = judge(s.text, {});
    CHECK_EQ(v.state, s.state);
    CHECK_EQ(v.status, s.status);
    CHECK_EQ(v.rest, std::string(s.rest));
    if (v.state != s.state) harness::fail(__FILE__, __LINE__, s.text);
  }
}

TEST("each sample cut in two at every byte gets the same verdict") {
  for (const Sample& s : kSamples) {
    std::string_view text = s.text;
    Verdict whole = judge(text, {});
    for (size_t cut = 0; cut <= text.size(); cut++) CHECK(judge(text, {cut}) == whole);
  }
}

TEST("each sample cut in three at every two bytes gets the same verdict") {
  for (const Sample& s : kSamples) {
    std::string_view text = s.text;
    Verdict whole = judge(text, {});
    for (size_t a = 0; a <= text.size(); a++)
      for (size_t b = a; b <= text.size(); b++) CHECK(judge(text, {a, b}) == whole);
  }
}

TEST("each sample a byte at a time gets the same verdict") {
  for (const Sample& s : kSamples) {
    std::string_view text = s.text;
    CHECK(judge(text, byte_by_byte(text.size())) == judge(text, {}));
  }
}

TEST("garbage is called so at its first byte, not after 64 KiB") {
  for (std::string_view start : {"X", "HX", "HTTX", "HTTP/2", "HTTP/1x"})
    CHECK(judge(start, byte_by_byte(start.size())).state == kMalformed);
}

TEST("only 2xx is success") {
  for (int status = 200; status < 1000; status++) {
    std::string text = "HTTP/1.1 " + std::to_string(status) + " x\r\n\r\n";
    relay::ConnectReply reply;
    size_t rest = 0;
    auto* p = reinterpret_cast<const uint8_t*>(text.data());
    REQUIRE(reply.feed({p, text.size()}, rest) == kComplete);
    CHECK_EQ(reply.status(), status);
    CHECK_EQ(reply.is_success(), status < 300);
  }
}

TEST("the head that is told is the final one, with its empty line") {
  Verdict v = judge("HTTP/1.1 100 Continue\r\nX: y\r\n\r\nHTTP/1.1 403 No\r\nA: b\r\n\r\nbody", {});
  CHECK_EQ(v.head, std::string("HTTP/1.1 403 No\r\nA: b\r\n\r\n"));
  CHECK_EQ(v.rest, std::string("body"));
}

TEST("a head of exactly 64 KiB is taken, one byte more is too long") {
  for (size_t cut : {size_t{0}, size_t{1}, size_t{4096}}) {
    for (int extra : {0, 1}) {
      std::string text = "HTTP/1.1 200 OK\r\nX: ";
      text.append(relay::kMaxReplyHeadBytes - text.size() - 4 + static_cast<size_t>(extra), 'x');
      text += "\r\n\r\n";
      std::vector<size_t> cuts;
      for (size_t i = cut; cut && i < text.size(); i += cut) cuts.push_back(i);
      CHECK_EQ(judge(text, cuts).state, extra ? State::kTooLong : kComplete);
    }
  }
}

TEST("a head without an end is given up at 64 KiB") {
  std::string text = "HTTP/1.1 200 OK\r\n";
  while (text.size() < 2 * relay::kMaxReplyHeadBytes) text += "X: y\r\n";
  CHECK_EQ(judge(text, {}).state, State::kTooLong);
  std::string line = "HTTP/1.1 200 ";
  line.append(2 * relay::kMaxReplyHeadBytes, 'x');
  CHECK_EQ(judge(line, {}).state, State::kTooLong);
}

TEST("interim heads count towards the 64 KiB, so that they cannot go on for ever") {
  std::string text;
  while (text.size() < 2 * relay::kMaxReplyHeadBytes) text += "HTTP/1.1 100 Continue\r\n\r\n";
  CHECK_EQ(judge(text, {}).state, State::kTooLong);
}

TEST("64 KiB of the app's data behind the head is no head") {
  std::string text = "HTTP/1.1 200 OK\r\n\r\n";
  std::string data(200'000, 'd');
  Verdict v = judge(text + data, {});
  CHECK_EQ(v.state, kComplete);
  CHECK(v.rest == data);
}
