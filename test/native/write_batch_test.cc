// Small writes that are handed to the kernel together.
#include "base/write_batch.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/unique_fd.h"
#include "harness.h"

using base::UniqueFd;
using base::WriteBatch;

namespace {

struct Pair {
  UniqueFd near;
  UniqueFd far;

  Pair() {
    signal(SIGPIPE, SIG_IGN);
    int fds[2] = {-1, -1};
    socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds);
    near.reset(fds[0]);
    far.reset(fds[1]);
  }
  /// What has arrived.
  std::string heard() const {
    char buffer[65536];
    ssize_t n = read(far.get(), buffer, sizeof buffer);
    return n > 0 ? std::string(buffer, static_cast<size_t>(n)) : std::string();
  }
};

int add(WriteBatch& batch, int fd, std::string_view text) {
  iovec part{const_cast<char*>(text.data()), text.size()};
  return batch.add(fd, {&part, 1});
}

std::vector<int64_t> submit(WriteBatch& batch) {
  std::span<const int64_t> results = batch.submit();
  return {results.begin(), results.end()};
}

/// Of the kernel's, in this process: each maps its ring of results.
int contexts() {
  std::ifstream maps("/proc/self/maps");
  int count = 0;
  for (std::string line; std::getline(maps, line);)
    count += line.find("[aio]") != std::string::npos;
  return count;
}

void fill(int fd) {
  std::string much(65536, 'x');
  while (write(fd, much.data(), much.size()) > 0) {
  }
}

/// From here on this thread may not make an AIO context, as in a container that forbids it.
bool forbid_io_setup() {
  sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog program{static_cast<unsigned short>(std::size(code)), code};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

}  // namespace

TEST("where the kernel may not be asked for it, nothing waits") {
  REQUIRE(contexts() == 0);  // so this test comes first: the others leave theirs
  Pair a;
  int place = 0;
  bool is_forbidden = false;
  std::thread([&] {
    is_forbidden = forbid_io_setup();
    WriteBatch batch;
    place = add(batch, a.near.get(), "a");
    CHECK(submit(batch).empty());
  }).join();
  REQUIRE(is_forbidden);
  CHECK_EQ(place, -1);
}

TEST("a batch takes the kernel context of one that is no more") {
  Pair a;
  for (int i = 0; i < 20; i++) {
    WriteBatch batch;
    CHECK_EQ(add(batch, a.near.get(), "a"), 0);
    CHECK_EQ(add(batch, a.near.get(), "b"), 1);
    CHECK(submit(batch) == (std::vector<int64_t>{1, 1}));
  }
  CHECK_EQ(contexts(), 1);
}

TEST("nothing is written before submit(), and then all of it, each in its order") {
  Pair a, b;
  WriteBatch batch;
  CHECK_EQ(add(batch, a.near.get(), "one "), 0);
  CHECK_EQ(add(batch, b.near.get(), "other"), 1);
  CHECK_EQ(add(batch, a.near.get(), "two"), 2);
  CHECK_EQ(a.heard() + b.heard(), std::string());
  CHECK(submit(batch) == (std::vector<int64_t>{4, 5, 3}));
  CHECK_EQ(a.heard(), std::string("one two"));
  CHECK_EQ(b.heard(), std::string("other"));
  CHECK(submit(batch).empty());
  CHECK_EQ(add(batch, b.near.get(), "again"), 0);
  CHECK(submit(batch) == std::vector<int64_t>{5});  // alone it is a write(2)
  CHECK_EQ(b.heard(), std::string("again"));
}

TEST("a write is copied: its parts may be gone, or others, before submit()") {
  Pair a;
  WriteBatch batch;
  std::string head = "head ", rest = "rest";
  iovec parts[2] = {{head.data(), head.size()}, {rest.data(), rest.size()}};
  batch.add(a.near.get(), parts);
  batch.add(a.near.get(), parts);
  head.assign("#####");
  rest.clear();
  submit(batch);
  CHECK_EQ(a.heard(), std::string("head resthead rest"));
}

TEST("one that fails says why, and the others are made") {
  Pair full, gone, well;
  fill(full.near.get());
  gone.far.reset();
  UniqueFd closed(dup(well.near.get()));
  WriteBatch batch;
  add(batch, full.near.get(), "a");
  add(batch, closed.get(), "b");
  add(batch, gone.near.get(), "c");
  add(batch, well.near.get(), "d");
  closed.reset();
  CHECK(submit(batch) == (std::vector<int64_t>{-EAGAIN, -EBADF, -EPIPE, 1}));
  CHECK_EQ(well.heard(), std::string("d"));
  add(batch, gone.near.get(), "alone");
  CHECK(submit(batch) == std::vector<int64_t>{-EPIPE});
}

TEST("one that is cancelled is not made, whoever has its descriptor by then") {
  Pair a, b;
  WriteBatch batch;
  add(batch, a.near.get(), "a");
  int place = add(batch, b.near.get(), "secret");
  add(batch, a.near.get(), "c");
  batch.cancel(place);
  CHECK(submit(batch) == (std::vector<int64_t>{1, -ECANCELED, 1}));
  batch.cancel(add(batch, a.near.get(), "the only one"));
  CHECK(submit(batch) == std::vector<int64_t>{-ECANCELED});
  CHECK_EQ(b.heard(), std::string());
  CHECK_EQ(a.heard(), std::string("ac"));
}

TEST("the last write is there to be changed as long as it waits") {
  Pair a, b;
  WriteBatch batch;
  CHECK(batch.last(a.near.get()).empty());
  add(batch, b.near.get(), "x");
  add(batch, a.near.get(), "old");
  CHECK(batch.last(b.near.get()).empty());
  std::span<uint8_t> last = batch.last(a.near.get());
  REQUIRE(last.size() == 3);
  memcpy(last.data(), "new", 3);
  submit(batch);
  CHECK_EQ(a.heard(), std::string("new"));
  CHECK(batch.last(a.near.get()).empty());
}

TEST("what is too large, and what is too many, is left to the caller") {
  Pair a;
  WriteBatch batch;
  CHECK_EQ(add(batch, a.near.get(), std::string(WriteBatch::kMostBytes + 1, 'x')), -1);
  CHECK_EQ(add(batch, a.near.get(), std::string(WriteBatch::kMostBytes, 'x')), 0);
  size_t taken = 1;
  while (taken < 1000 && add(batch, a.near.get(), "y") >= 0) taken++;
  CHECK_EQ(taken, WriteBatch::kMostWrites);
  CHECK_EQ(submit(batch).size(), taken);
  CHECK_EQ(a.heard().size(), WriteBatch::kMostBytes + taken - 1);
  taken = 0;
  while (taken < 1000 && add(batch, a.near.get(), std::string(WriteBatch::kMostBytes, 'z')) >= 0)
    taken++;
  CHECK_EQ(taken, 16u);
  submit(batch);
}
