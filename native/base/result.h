// A value, or the system call that failed and its errno.
#pragma once
#include <utility>

namespace base {

struct Failure {
  const char* syscall;  // static storage
  int error;            // errno
};

template <class T>
class Result {
 public:
  Result(T value) : value_(std::move(value)) {}  // NOLINT: implicit on purpose
  Result(Failure failure) : failure_(failure) {}

  explicit operator bool() const { return failure_.syscall == nullptr; }
  T& value() { return value_; }
  const Failure& failure() const { return failure_; }

 private:
  T value_{};
  Failure failure_{nullptr, 0};
};

}  // namespace base
