  tflite::MicroInterpreter interpreter(model, resolver, arena, arena_size);
