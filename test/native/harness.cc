// main() of every native test binary: runs the registered claims and reports them.
#include "harness.h"

#include <cstdio>
#include <vector>

namespace harness {
namespace {

struct Test {
  std::string_view claim;
  const char* file;
  int line;
  void (*body)();
};

// A function-local static: tests register before main, in an order that the linker decides.
std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

int failed_checks = 0;

}  // namespace

void add(std::string_view claim, const char* file, int line, void (*body)()) {
  tests().push_back({claim, file, line, body});
}

void fail(const char* file, int line, const std::string& what) {
  // A check in a loop may fail a million times; the first ones tell.
  constexpr int kPrinted = 10;
  if (failed_checks++ < kPrinted) std::printf("\n    %s:%d: %s", file, line, what.c_str());
}

std::string show_bytes(const void* data, size_t size) {
  constexpr size_t kShown = 64;
  std::string text = std::to_string(size) + " bytes:";
  char hex[4];
  for (size_t i = 0; i < size && i < kShown; i++) {
    std::snprintf(hex, sizeof hex, " %02x", static_cast<const unsigned char*>(data)[i]);
    text += hex;
  }
  return size > kShown ? text + " ..." : text;
}

}  // namespace harness

int main(int argc, char** argv) {
  const std::string_view wanted = argc > 1 ? argv[1] : "";
  int passed = 0;
  int failed = 0;
  for (const harness::Test& test : harness::tests()) {
    if (test.claim.find(wanted) == std::string_view::npos) continue;
    // The claim goes out first: whatever kills the process was in it.
    std::printf("%.*s ... ", static_cast<int>(test.claim.size()), test.claim.data());
    std::fflush(stdout);
    harness::failed_checks = 0;
    test.body();
    if (harness::failed_checks == 0) {
      passed++;
      std::puts("ok");
    } else {
      failed++;
      std::printf("\n  FAILED: %d checks in %s:%d\n", harness::failed_checks, test.file, test.line);
    }
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 && passed > 0 ? 0 : 1;
}
