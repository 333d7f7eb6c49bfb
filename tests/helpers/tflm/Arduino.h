// What Arduino gives every sketch, as far as ours uses it; it ends the program after the first line that is printed.
#include <cstdio>

struct Port {
  void begin(unsigned long) {}
  explicit operator bool() const { return true; }
  void println(const char* line) { std::puts(line); }
};
static Port Serial;
inline void delay(unsigned long) {}
