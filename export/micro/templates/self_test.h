// The self test of @name@, made by tfprune.
#ifndef @guard@
#define @guard@

#include <cstddef>

// Runs the model @runs@ times on known inputs: "PASS" if it gives the known outputs, otherwise "FAIL" and the reason.
// The arena is aligned to 16 bytes, and has @name@_arena_size bytes.
const char* @name@_self_test(unsigned char* arena, std::size_t arena_size);

#endif  // @guard@
