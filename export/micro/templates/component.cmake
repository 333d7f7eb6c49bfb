idf_component_register(SRCS "@name@.cc" "@name@_test.cc"
                       INCLUDE_DIRS "include")
