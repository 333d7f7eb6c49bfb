// The part of TensorFlow Lite Micro's API that our components call, as declarations for the library in the Python
// package tflite-micro. That library has the interpreter and the reference kernels for x86-64 in it, and no headers.
// Its names lie in an inline namespace, so that callers write tflite::MicroInterpreter.
#ifndef INTERPRETER_OF_THE_WHEEL_H_
#define INTERPRETER_OF_THE_WHEEL_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };

struct TfLiteTensor {
  struct {
    int type;
    void* parameters;
  } quantization;
  struct {
    float scale;
    std::int32_t zero_point;
  } params;
  union {
    char* raw;
    std::int8_t* int8;
    float* f;
  } data;
  void* dims;
  std::size_t bytes;
};

namespace tflite {

struct Model;
enum BuiltinOperator : std::int32_t {};
constexpr BuiltinOperator kCustom = static_cast<BuiltinOperator>(32);

inline const Model* GetModel(const void* file) {
  std::uint32_t root;
  std::memcpy(&root, file, sizeof(root));
  return reinterpret_cast<const Model*>(static_cast<const char*>(file) + root);
}

inline namespace micro {

struct Registration;
using Parser = void*;
class MicroProfilerInterface;
enum class MemoryPlannerType { kGreedy, kLinear };

class MicroOpResolver {
 public:
  virtual const Registration* FindOp(BuiltinOperator code) const = 0;
  virtual const Registration* FindOp(const char* name) const = 0;
  virtual Parser GetOpDataParser(BuiltinOperator code) const = 0;
  virtual ~MicroOpResolver() {}
};

class MicroAllocator {
 public:
  static MicroAllocator* Create(std::uint8_t* arena, std::size_t size,
                                MemoryPlannerType planner = MemoryPlannerType::kGreedy);
};

class MicroResourceVariables {
 public:
  static MicroResourceVariables* Create(MicroAllocator* allocator, int count);
};

class MicroInterpreter {
 public:
  MicroInterpreter(const Model* model, const MicroOpResolver& resolver, std::uint8_t* arena, std::size_t size,
                   MicroResourceVariables* variables = nullptr, MicroProfilerInterface* profiler = nullptr,
                   bool preserve_all_tensors = false);
  MicroInterpreter(const Model* model, const MicroOpResolver& resolver, MicroAllocator* allocator,
                   MicroResourceVariables* variables = nullptr, MicroProfilerInterface* profiler = nullptr);
  ~MicroInterpreter();
  TfLiteStatus AllocateTensors();
  TfLiteStatus Invoke();
  TfLiteTensor* input(std::size_t index);
  TfLiteTensor* output(std::size_t index);

 private:
  alignas(16) unsigned char members_[8192];  // more than it has
};

// The resolver of the library, which knows all operators.
extern "C" void MakeResolverOfAllOperators(void* place) asm("_ZN6tflite17PythonOpsResolverC1Ev");

inline const MicroOpResolver& AllOperators() {
  alignas(16) static unsigned char place[1 << 18];
  static bool is_made = (MakeResolverOfAllOperators(place), true);
  return *(is_made ? reinterpret_cast<MicroOpResolver*>(place) : nullptr);
}

// Finds the operators that were added, and no others.
template <unsigned int kMost>
class MicroMutableOpResolver : public MicroOpResolver {
 public:
#include "operators_of_the_wheel.h"

  const Registration* FindOp(BuiltinOperator code) const override {
    return Has(code, nullptr) ? AllOperators().FindOp(code) : nullptr;
  }
  const Registration* FindOp(const char* name) const override {
    return Has(kCustom, name) ? AllOperators().FindOp(name) : nullptr;
  }
  Parser GetOpDataParser(BuiltinOperator code) const override {
    return Has(code, nullptr) ? AllOperators().GetOpDataParser(code) : nullptr;
  }

 private:
  TfLiteStatus Add(std::int32_t code, const char* name) {
    if (count_ == kMost) return kTfLiteError;
    codes_[count_] = static_cast<BuiltinOperator>(code);
    names_[count_++] = name;
    return kTfLiteOk;
  }
  bool Has(BuiltinOperator code, const char* name) const {
    for (unsigned int index = 0; index < count_; ++index) {
      const bool is_alike = (name == nullptr) == (names_[index] == nullptr);
      if (codes_[index] == code && is_alike && (name == nullptr || !std::strcmp(name, names_[index]))) return true;
    }
    return false;
  }

  BuiltinOperator codes_[kMost];
  const char* names_[kMost];
  unsigned int count_ = 0;
};

}  // namespace micro
}  // namespace tflite

#endif  // INTERPRETER_OF_THE_WHEEL_H_
