// The test harness of the native core: named claims, checks that print what they saw, a closing
// line for the runner.
//
//   TEST("a SYN is held until the upstream has answered") {
//     REQUIRE(stack.start().ok());          // ends the test when false
//     CHECK(device.sent.empty());           // records, goes on
//     CHECK_EQ(device.sent.size(), 1u);     // prints both values
//   }
//
// main() is in harness.cc: each claim with its outcome, then `N passed, N failed`; status 1 when
// any failed. With an argument, only claims that contain it run.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace harness {

// Registers a claim; called before main by TEST. `claim` must be a literal.
void add(std::string_view claim, const char* file, int line, void (*body)());

// Records one failed check of the running test.
void fail(const char* file, int line, const std::string& what);

// Whole numbers compare by value, so that signed and unsigned ones may meet.
template <typename T>
concept WholeNumber = std::integral<T> && !std::same_as<T, bool> && !std::same_as<T, char> &&
                      !std::same_as<T, wchar_t> && !std::same_as<T, char8_t> &&
                      !std::same_as<T, char16_t> && !std::same_as<T, char32_t>;

template <typename A, typename B>
bool equal(const A& a, const B& b) {
  if constexpr (WholeNumber<A> && WholeNumber<B>) {
    return std::cmp_equal(a, b);
  } else {
    return a == b;
  }
}

template <typename T>
concept Streamable = requires(std::ostream& out, const T& value) {
  out << value;
};

template <typename T>
concept Bytes = std::convertible_to<const T&, std::span<const uint8_t>> ||
    std::convertible_to<const T&, std::span<const std::byte>>;

// Hexadecimal, the first 64 bytes.
std::string show_bytes(const void* data, size_t size);

template <typename T>
std::string show(const T& value) {
  if constexpr (std::same_as<T, bool>) {
    return value ? "true" : "false";
  } else if constexpr (Bytes<T>) {
    return show_bytes(std::data(value), std::size(value));
  } else if constexpr (std::is_enum_v<T>) {
    return std::to_string(static_cast<long long>(value));
  } else if constexpr (WholeNumber<T>) {
    return std::to_string(value);  // a uint8_t is a number here, not a letter
  } else if constexpr (Streamable<T>) {
    std::ostringstream out;
    out << value;
    return out.str();
  } else {
    return "(a value that cannot be printed)";
  }
}

template <typename A, typename B>
void check_equal(const A& a, const B& b, const char* text, const char* file, int line) {
  if (!equal(a, b))
    fail(file, line, std::string(text) + "\n      " + show(a) + "\n      " + show(b));
}

}  // namespace harness

#define HARNESS_JOIN2(a, b) a##b
#define HARNESS_JOIN(a, b) HARNESS_JOIN2(a, b)

#define TEST(claim) HARNESS_TEST(claim, HARNESS_JOIN(harness_test_, __LINE__))
#define HARNESS_TEST(claim, name)                                 \
  static void name();                                             \
  [[maybe_unused]] static const bool HARNESS_JOIN(name, _added) = \
      (::harness::add(claim, __FILE__, __LINE__, name), true);    \
  static void name()

#define CHECK(condition)                                               \
  do {                                                                 \
    if (!(condition)) ::harness::fail(__FILE__, __LINE__, #condition); \
  } while (false)

#define CHECK_EQ(a, b) ::harness::check_equal((a), (b), #a " == " #b, __FILE__, __LINE__)

// Like CHECK, and leaves the function, which must return void.
#define REQUIRE(condition)                             \
  do {                                                 \
    if (!(condition)) {                                \
      ::harness::fail(__FILE__, __LINE__, #condition); \
      return;                                          \
    }                                                  \
  } while (false)
