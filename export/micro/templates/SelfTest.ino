#include <TensorFlowLite.h>

#include <@name@.h>
#include <@name@_test.h>

alignas(16) static unsigned char arena[@name@_arena_size];

void setup() {
  Serial.begin(115200);
  while (!Serial) {
  }
}

void loop() {
  Serial.println(@name@_self_test(arena, sizeof(arena)));
  delay(5000);
}
