  tflite::MicroAllocator* allocator = tflite::MicroAllocator::Create(arena, arena_size);
  if (allocator == nullptr) return "FAIL: the arena is too small";
  tflite::MicroResourceVariables* variables = tflite::MicroResourceVariables::Create(allocator, @variables@);
  if (variables == nullptr) return "FAIL: the arena is too small";
  tflite::MicroInterpreter interpreter(model, resolver, allocator, variables);
