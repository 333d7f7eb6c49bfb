#include <cstdio>

#include "@name@.h"
#include "@name@_test.h"

alignas(16) static unsigned char arena[@name@_arena_size];

extern "C" void app_main(void) { std::printf("%s\n", @name@_self_test(arena, sizeof(arena))); }
