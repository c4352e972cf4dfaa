// One request to AF_NETLINK and the kernel's whole answer, which Node cannot do by itself.
//
// A socket per request: answers of an abandoned request can then never be taken for those of the
// next. The kernel works on the request inside sendto(), so the calls do not wait for anything but
// the kernel's own locks; the deadline only ends a request that the kernel never answers.
// What the messages mean is the business of src/netlink.
#include "netlink_binding.h"

#include <errno.h>
#include <linux/netlink.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "../base/result.h"
#include "../base/unique_fd.h"
#include "errors.h"

namespace {

using Bytes = std::vector<uint8_t>;

// Above any single message: dumps come in pieces of at most 32 KiB, an error repeats the request,
// and the attribute list of a link with hundreds of virtual functions is bound by its u16 length.
constexpr size_t kReceiveBytes = 128 * 1024;
// A dump of a full routing table (a million routes) is about 100 MB.
constexpr size_t kMaxAnswerBytes = 512 * 1024 * 1024;
// Between two datagrams of the kernel.
constexpr time_t kTimeoutSeconds = 2;

int64_t monotonic_ms() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

base::Result<base::UniqueFd> open_socket(int protocol) {
  base::UniqueFd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol));
  if (!fd) return base::Failure{"socket", errno};
  // Refused by kernels before 4.12 and 4.20: then errors come without text, and dumps unfiltered.
  int on = 1;
  setsockopt(fd.get(), SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on);
  setsockopt(fd.get(), SOL_NETLINK, NETLINK_GET_STRICT_CHK, &on, sizeof on);
  timeval timeout{kTimeoutSeconds, 0};
  if (setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) != 0)
    return base::Failure{"setsockopt", errno};
  return fd;
}

/// 0 or an errno.
int send_request(int fd, std::span<const uint8_t> request) {
  sockaddr_nl kernel{};
  kernel.nl_family = AF_NETLINK;
  for (;;) {
    ssize_t sent = sendto(fd, request.data(), request.size(), 0,
                          reinterpret_cast<const sockaddr*>(&kernel), sizeof kernel);
    if (sent == static_cast<ssize_t>(request.size())) return 0;
    if (sent >= 0) return EMSGSIZE;
    if (errno != EINTR) return errno;
  }
}

/// Bytes of the next datagram that the kernel sent us (others may send to our port, too), in
/// `buffer`; ETIMEDOUT when none comes before the deadline.
base::Result<size_t> receive(int fd, std::span<uint8_t> buffer) {
  int64_t deadline = monotonic_ms() + kTimeoutSeconds * 1000;
  for (;;) {
    sockaddr_nl sender{};
    socklen_t sender_size = sizeof sender;
    ssize_t got = recvfrom(fd, buffer.data(), buffer.size(), MSG_TRUNC,
                           reinterpret_cast<sockaddr*>(&sender), &sender_size);
    bool retry = got < 0 && errno == EINTR;
    if (got < 0 && !retry) return base::Failure{"recvfrom", errno == EAGAIN ? ETIMEDOUT : errno};
    bool from_kernel = !retry && sender_size == sizeof sender && sender.nl_pid == 0;
    if (from_kernel) {
      if (static_cast<size_t>(got) > buffer.size()) return base::Failure{"recvfrom", EMSGSIZE};
      return static_cast<size_t>(got);
    }
    if (monotonic_ms() >= deadline) return base::Failure{"recvfrom", ETIMEDOUT};
  }
}

enum class Progress { kMore, kComplete, kMalformed };

/// Appends the messages of one datagram that answer `sequence`.
Progress take_answers(std::span<const uint8_t> datagram, uint32_t sequence, Bytes& answer) {
  while (datagram.size() >= sizeof(nlmsghdr)) {
    nlmsghdr header;
    memcpy(&header, datagram.data(), sizeof header);
    if (header.nlmsg_len < sizeof header || header.nlmsg_len > datagram.size())
      return Progress::kMalformed;
    size_t step = std::min<size_t>(NLMSG_ALIGN(header.nlmsg_len), datagram.size());
    if (header.nlmsg_seq == sequence) {
      answer.insert(answer.end(), datagram.begin(), datagram.begin() + header.nlmsg_len);
      answer.resize(NLMSG_ALIGN(answer.size()));
      if (header.nlmsg_type == NLMSG_DONE || header.nlmsg_type == NLMSG_ERROR)
        return Progress::kComplete;
    }
    datagram = datagram.subspan(step);
  }
  return Progress::kMore;
}

base::Result<Bytes> exchange(int protocol, std::span<const uint8_t> request, uint32_t sequence) {
  auto fd = open_socket(protocol);
  if (!fd) return fd.failure();
  if (int err = send_request(fd.value().get(), request)) return base::Failure{"sendto", err};
  auto storage = std::make_unique_for_overwrite<uint8_t[]>(kReceiveBytes);
  std::span<uint8_t> buffer(storage.get(), kReceiveBytes);
  Bytes answer;
  for (;;) {
    auto size = receive(fd.value().get(), buffer);
    if (!size) return size.failure();
    switch (take_answers(buffer.first(size.value()), sequence, answer)) {
      case Progress::kComplete: return answer;
      case Progress::kMalformed: return base::Failure{"recvfrom", EBADMSG};
      case Progress::kMore: break;
    }
    if (answer.size() > kMaxAnswerBytes) return base::Failure{"recvfrom", EMSGSIZE};
  }
}

bool is_bytes(const Napi::Value& value) {
  return value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == napi_uint8_array;
}

/// netlinkRequest(protocol: number, message: Uint8Array): Buffer, see NativeAddon in src/native.ts.
Napi::Value netlink_request(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  auto refuse = [env](const char* why) {
    Napi::TypeError::New(env, why).ThrowAsJavaScriptException();
    return env.Undefined();
  };
  if (info.Length() < 2 || !info[0].IsNumber() || !is_bytes(info[1]))
    return refuse("netlinkRequest(protocol: number, message: Uint8Array)");
  auto message = info[1].As<Napi::Uint8Array>();
  std::span<const uint8_t> request(message.Data(), message.ByteLength());
  nlmsghdr header{};
  if (request.size() < sizeof header) return refuse("netlinkRequest: no netlink header");
  memcpy(&header, request.data(), sizeof header);
  // More than one message would be answered more than once, and only the first answer be read.
  if (header.nlmsg_len != request.size())
    return refuse("netlinkRequest: nlmsg_len is not the length of the message");
  // 0 is what notifications carry.
  if (header.nlmsg_seq == 0) return refuse("netlinkRequest: sequence number 0");

  auto answer = exchange(info[0].As<Napi::Number>().Int32Value(), request, header.nlmsg_seq);
  if (!answer) {
    throw_errno(env, answer.failure().syscall, answer.failure().error);
    return env.Undefined();
  }
  return Napi::Buffer<uint8_t>::Copy(env, answer.value().data(), answer.value().size());
}

}  // namespace

void init_netlink(Napi::Env env, Napi::Object exports) {
  exports.Set("netlinkRequest", Napi::Function::New(env, netlink_request, "netlinkRequest"));
}
