#include "interpreter_of_the_wheel.h"
