// The self test of @name@, made by tfprune.
#ifndef @guard@
#define @guard@

#include <cstddef>

// Checks the bytes of the model, and runs it @runs@ times on known inputs: "PASS" if all is as on the computer that
// wrote this, otherwise "FAIL" and the reason.
// The arena is aligned to 16 bytes, and has @name@_arena_size bytes.
const char* @name@_self_test(unsigned char* arena, std::size_t arena_size);

#endif  // @guard@
