#include "@name@_test.h"

#include <cstdint>
#include <cstring>

#include "@name@.h"
#include "tensorflow/lite/micro/micro_allocator.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/micro/micro_resource_variable.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace {

constexpr std::uint32_t kModelChecksum = @checksum@u;  // CRC-32
constexpr unsigned int kRuns = @runs@;
constexpr unsigned int kInputs = @inputs@, kOutputs = @outputs@;
constexpr std::size_t kInputBytes[] = {@input_bytes@}, kOutputBytes[] = {@output_bytes@};
constexpr float kTolerances[] = {@tolerances@};  // of floats; integers have to be equal
// The inputs of the first run, those of the second, and so on; the outputs in the same order.
const unsigned char kGoldenInputs[] = {
@golden_inputs@
};
const unsigned char kGoldenOutputs[] = {
@golden_outputs@
};

std::uint32_t Checksum(const unsigned char* data, std::size_t size) {
  std::uint32_t checksum = 0xffffffffu;
  for (std::size_t place = 0; place < size; ++place) {
    checksum ^= data[place];
    for (int bit = 0; bit < 8; ++bit) checksum = (checksum >> 1) ^ (checksum & 1u ? 0xedb88320u : 0u);
  }
  return ~checksum;
}

bool Same(const void* data, const unsigned char* golden, unsigned int index) {
  if (std::memcmp(data, golden, kOutputBytes[index]) == 0) return true;
  if (!(kTolerances[index] > 0)) return false;
  for (std::size_t place = 0; place < kOutputBytes[index]; place += sizeof(float)) {
    float here, there;
    std::memcpy(&here, static_cast<const unsigned char*>(data) + place, sizeof(float));
    std::memcpy(&there, golden + place, sizeof(float));
    const float difference = here > there ? here - there : there - here;
    if (!(difference <= kTolerances[index])) return false;
  }
  return true;
}

const char* Run(tflite::MicroInterpreter& interpreter) {
  if (interpreter.AllocateTensors() != kTfLiteOk) return "FAIL: the arena is too small, or an operator is missing";
  const unsigned char* input = kGoldenInputs;
  const unsigned char* output = kGoldenOutputs;
  for (unsigned int run = 0; run < kRuns; ++run) {
    for (unsigned int index = 0; index < kInputs; ++index) {
      if (interpreter.input(index)->bytes != kInputBytes[index]) return "FAIL: an input has another size";
      std::memcpy(interpreter.input(index)->data.raw, input, kInputBytes[index]);
      input += kInputBytes[index];
    }
    if (interpreter.Invoke() != kTfLiteOk) return "FAIL: an operator reports an error";
    for (unsigned int index = 0; index < kOutputs; ++index) {
      if (interpreter.output(index)->bytes != kOutputBytes[index]) return "FAIL: an output has another size";
      if (!Same(interpreter.output(index)->data.raw, output, index)) return "FAIL: the outputs differ";
      output += kOutputBytes[index];
    }
  }
  return "PASS";
}

}  // namespace

const char* @name@_self_test(unsigned char* arena, std::size_t arena_size) {
  if (Checksum(@name@, @name@_size) != kModelChecksum) return "FAIL: the bytes of the model are not those of the file";
  tflite::MicroMutableOpResolver<@name@_operators> resolver;
  if (!@name@_register(resolver)) return "FAIL: an operator cannot be registered";
  const tflite::Model* model = tflite::GetModel(@name@);
@interpreter@
  return Run(interpreter);
}
