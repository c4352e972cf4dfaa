// Small writes to many descriptors, in one system call.
#include "base/write_batch.h"

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <mutex>
#include <vector>

namespace base {
namespace {

// Debian's glibc wraps none of them; libaio is these lines.
int io_setup(unsigned entries, aio_context_t* context) {
  return static_cast<int>(syscall(SYS_io_setup, entries, context));
}
int io_submit(aio_context_t context, size_t count, iocb** blocks) {
  return static_cast<int>(syscall(SYS_io_submit, context, count, blocks));
}
int io_getevents(aio_context_t context, size_t most, io_event* events) {
  timespec at_once{};
  return static_cast<int>(syscall(SYS_io_getevents, context, 0L, most, events, &at_once));
}

// Contexts of batches that are no more, for the next ones: io_destroy(2) waits tens of milliseconds
// until no processor can know of it any longer (RCU). The kernel ends them with the process.
class IdleContexts {
 public:
  /// @return 0 when there is none
  aio_context_t take() {
    std::lock_guard lock(mutex_);
    if (contexts_.empty()) return 0;
    aio_context_t context = contexts_.back();
    contexts_.pop_back();
    return context;
  }
  void keep(aio_context_t context) {
    std::lock_guard lock(mutex_);
    contexts_.push_back(context);
  }

 private:
  std::mutex mutex_;
  std::vector<aio_context_t> contexts_;
};

IdleContexts& idle_contexts() {
  static auto* contexts = new IdleContexts;  // outlives every batch
  return *contexts;
}

}  // namespace

WriteBatch::~WriteBatch() {
  if (support_ == Support::kHere) idle_contexts().keep(context_);
}

// Containers may forbid it, a kernel may be without it, and fs.aio-max-nr is for all of the host.
bool WriteBatch::is_possible() {
  if (support_ == Support::kUnknown) {
    context_ = idle_contexts().take();
    bool is_here = context_ != 0 || io_setup(kMostWrites, &context_) == 0;
    support_ = is_here ? Support::kHere : Support::kNone;
    if (support_ == Support::kHere) room_.reset(new Room);
  }
  return support_ == Support::kHere;
}

int WriteBatch::add(int fd, std::span<const iovec> parts) {
  size_t bytes = 0;
  for (const iovec& part : parts) bytes += part.iov_len;
  if (bytes > kMostBytes || count_ == kMostWrites || used_bytes_ + bytes > kArenaBytes ||
      !is_possible())
    return -1;
  uint8_t* start = room_->bytes.data() + used_bytes_;
  for (const iovec& part : parts) {
    memcpy(room_->bytes.data() + used_bytes_, part.iov_base, part.iov_len);
    used_bytes_ += part.iov_len;
  }
  iocb& block = room_->blocks[count_];
  block = {};
  block.aio_lio_opcode = IOCB_CMD_PWRITE;
  block.aio_fildes = static_cast<uint32_t>(fd);
  block.aio_buf = reinterpret_cast<uint64_t>(start);
  block.aio_nbytes = bytes;
  block.aio_data = count_;
  return static_cast<int>(count_++);
}

std::span<uint8_t> WriteBatch::last(int fd) {
  if (count_ == 0) return {};
  const iocb& block = room_->blocks[count_ - 1];
  if (block.aio_fildes != static_cast<uint32_t>(fd)) return {};
  return {reinterpret_cast<uint8_t*>(block.aio_buf), block.aio_nbytes};
}

void WriteBatch::cancel(int place) {
  room_->blocks[static_cast<size_t>(place)].aio_lio_opcode = IOCB_CMD_NOOP;
}

std::span<const int64_t> WriteBatch::submit() {
  if (count_ == 0) return {};
  const size_t count = count_;
  submit_all();
  count_ = used_bytes_ = 0;
  return {room_->results.data(), count};
}

void WriteBatch::submit_all() {
  Room& r = *room_;
  size_t waiting = 0;
  for (size_t i = 0; i < count_; i++) {
    bool is_wanted = r.blocks[i].aio_lio_opcode == IOCB_CMD_PWRITE;
    r.results[i] = is_wanted ? -EIO : -ECANCELED;
    if (is_wanted) r.pointers[waiting++] = &r.blocks[i];
  }
  if (waiting == 1) {  // most rounds of a single conversation
    const iocb& block = *r.pointers[0];
    ssize_t n = ::write(static_cast<int>(block.aio_fildes),
                        reinterpret_cast<const void*>(block.aio_buf), block.aio_nbytes);
    r.results[block.aio_data] = n < 0 ? -errno : n;
    return;
  }
  // It stops at one that it does not take (a descriptor that is closed), and begins with none then.
  for (size_t begun = 0; begun < waiting;) {
    int n = io_submit(context_, waiting - begun, r.pointers.data() + begun);
    if (n <= 0) r.results[r.pointers[begun]->aio_data] = n < 0 ? -errno : -EIO;
    begun += n > 0 ? static_cast<size_t>(n) : 1;
  }
  int done = io_getevents(context_, kMostWrites, r.events.data());
  for (int i = 0; i < done; i++) {
    const io_event& event = r.events[static_cast<size_t>(i)];
    r.results[event.data] = event.res;
  }
}

}  // namespace base
