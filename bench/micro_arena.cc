// What bench/micro_arena.py compiles: prints how many bytes of arena each file takes, and the fewest that do.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "tensorflow/lite/micro/micro_allocator.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/micro/micro_resource_variable.h"
#include "tensorflow/lite/schema/schema_generated.h"

static size_t Used(const tflite::Model* model, const tflite::MicroOpResolver& operators, uint8_t* arena, size_t size,
                   int variables) {
  tflite::MicroAllocator* allocator = tflite::MicroAllocator::Create(arena, size);
  auto* table = variables ? tflite::MicroResourceVariables::Create(allocator, variables) : nullptr;
  tflite::MicroInterpreter interpreter(model, operators, allocator, table);
  return interpreter.AllocateTensors() == kTfLiteOk ? interpreter.arena_used_bytes() : 0;
}

int main(int count, char** arguments) {  // pairs of a file and the number of its variables
  tflite::MicroMutableOpResolver<24> operators;
  operators.AddCallOnce();
  operators.AddVarHandle();
  operators.AddReadVariable();
  operators.AddAssignVariable();
  operators.AddReshape();
  operators.AddStridedSlice();
  operators.AddConcatenation();
  operators.AddSplitV();
  operators.AddConv2D();
  operators.AddDepthwiseConv2D();
  operators.AddFullyConnected();
  operators.AddAveragePool2D();
  operators.AddMean();
  operators.AddAdd();
  operators.AddMul();
  operators.AddLogistic();
  operators.AddSoftmax();
  operators.AddQuantize();
  operators.AddDequantize();
  const size_t most = 1 << 22;
  auto* arena = static_cast<uint8_t*>(aligned_alloc(16, most));
  for (int place = 1; place + 1 < count; place += 2) {
    FILE* file = fopen(arguments[place], "rb");
    fseek(file, 0, SEEK_END);
    const size_t size = ftell(file);
    rewind(file);
    auto* content = static_cast<uint8_t*>(aligned_alloc(16, (size + 15) / 16 * 16));
    if (fread(content, 1, size, file) != size) return 1;
    fclose(file);
    const tflite::Model* model = tflite::GetModel(content);
    const int variables = atoi(arguments[place + 1]);
    size_t low = 1, high = most / 16;
    while (low < high) {
      const size_t middle = (low + high) / 2;
      const pid_t child = fork();  // kernels may crash where memory is short
      if (!child) _exit(Used(model, operators, arena, middle * 16, variables) ? 0 : 1);
      int status = 1;
      waitpid(child, &status, 0);
      if (status == 0) high = middle; else low = middle + 1;
    }
    printf("%zu %zu\n", Used(model, operators, arena, most, variables), high * 16);
  }
}
