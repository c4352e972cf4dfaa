// Small writes to many descriptors, in one system call.
//
// Each write to a TUN device or a socket wakes somebody on this host: the app, the proxy. Where
// they share the writer's processor, and it had more of it than they, the kernel lets them run as
// soon as the writer leaves the kernel; they do the little there is and sleep again. So a round
// with ten packets changes threads twenty times. Writes that are handed over together wake each of
// them once, with ten things to do.
//
// That is io_submit(2). It is meant for disks; on a device and on a socket it is a loop around
// their write functions (fs/aio.c, aio_write()), and all is done when it returns. io_uring does
// the same, and is forbidden in most containers.
#pragma once
#include <linux/aio_abi.h>
#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace base {

class WriteBatch {
 public:
  /// Of one write.
  static constexpr size_t kMostBytes = 4096;
  static constexpr size_t kMostWrites = 64;

  WriteBatch() = default;
  WriteBatch(const WriteBatch&) = delete;
  WriteBatch& operator=(const WriteBatch&) = delete;
  ~WriteBatch();

  /// Copies what shall be written to `fd`, which must be non-blocking, and not a file.
  /// @return its place among the results; -1 when it cannot wait: there are too many already, it is
  /// too much, or this kernel has no such call. Then write it yourself
  int add(int fd, std::span<const iovec> parts);
  /// The bytes of the write that was added last, if it goes to `fd`; else none.
  std::span<uint8_t> last(int fd);
  /// Not to be made: its descriptor is about to be closed. The result is -ECANCELED.
  void cancel(int place);
  /// Makes the writes that wait, in their order. SIGPIPE, of a socket, must be blocked or ignored.
  /// @return bytes written by each, or -errno; valid until the next add()
  std::span<const int64_t> submit();
  size_t size() const { return count_; }

 private:
  static constexpr size_t kArenaBytes = 64 * 1024;
  struct Room {
    std::array<iocb, kMostWrites> blocks;
    std::array<iocb*, kMostWrites> pointers;
    std::array<io_event, kMostWrites> events;
    std::array<int64_t, kMostWrites> results;
    std::array<uint8_t, kArenaBytes> bytes;
  };
  bool is_possible();
  void submit_all();

  enum class Support : uint8_t { kUnknown, kHere, kNone };
  Support support_ = Support::kUnknown;
  aio_context_t context_ = 0;
  std::unique_ptr<Room> room_;
  size_t count_ = 0;
  size_t used_bytes_ = 0;
};

}  // namespace base
