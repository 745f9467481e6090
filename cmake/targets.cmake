# One place for compile options, and the two functions every folder uses.

add_library(slidesparse_options INTERFACE)
target_compile_features(slidesparse_options INTERFACE cxx_std_20)
target_compile_options(slidesparse_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -Werror>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  target_compile_options(slidesparse_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)  # false positives on std::string operator+ (GCC PR 105651)
endif()
# Results must not depend on whether the compiler fused a multiply and an add.
target_compile_options(slidesparse_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off>)
if(SLIDESPARSE_SANITIZE)
  target_compile_options(slidesparse_options INTERFACE
    -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
  target_link_options(slidesparse_options INTERFACE -fsanitize=address,undefined)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # False positives in <regex> beside AddressSanitizer (GCC PR 105562).
    target_compile_options(slidesparse_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-maybe-uninitialized>)
  endif()
endif()
if(SLIDESPARSE_FUZZ)
  target_compile_options(slidesparse_options INTERFACE -fsanitize=fuzzer-no-link)
endif()

# slidesparse_library(<folder> SOURCES ... [DEPENDS folder ...] [LINK target ...])
# One static library per folder of src/: DEPENDS names other folders (arrows of docs/map.md),
# LINK names third-party targets, which stay private to the folder.
function(slidesparse_library folder)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;LINK" ${ARGN})
  set(target slidesparse_${folder})
  add_library(${target} STATIC ${ARG_SOURCES})
  add_library(slidesparse::${folder} ALIAS ${target})
  target_include_directories(${target} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/src>
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
    $<INSTALL_INTERFACE:include>)
  target_compile_features(${target} PUBLIC cxx_std_20)
  foreach(dependency IN LISTS ARG_DEPENDS)
    target_link_libraries(${target} PUBLIC slidesparse_${dependency})
  endforeach()
  target_link_libraries(${target} PRIVATE $<BUILD_INTERFACE:slidesparse_options> ${ARG_LINK})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${folder})
  set_property(GLOBAL APPEND PROPERTY SLIDESPARSE_LIBRARIES ${target})
endfunction()

# slidesparse_test(<name> SOURCES ... [DEPENDS folder ...] [LINK target ...] [LABELS label ...])
# One GoogleTest program; each TEST becomes a ctest entry. Label gpu: needs a card, has cuda in its name. SLIDESPARSE_TEST_DATA is tests/ in the source tree.
function(slidesparse_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS;LINK;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  foreach(dependency IN LISTS ARG_DEPENDS)
    target_link_libraries(${name} PRIVATE slidesparse_${dependency})
  endforeach()
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/tests)
  target_link_libraries(${name} PRIVATE slidesparse_options ${ARG_LINK} GTest::gmock GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE SLIDESPARSE_TEST_DATA="${PROJECT_SOURCE_DIR}/tests")
  set(properties TIMEOUT 600)
  if(ARG_LABELS)
    list(APPEND properties LABELS "${ARG_LABELS}")
  endif()
  # Built together by tools/gpu_package.sh.
  if("gpu" IN_LIST ARG_LABELS)
    if(NOT TARGET gpu_tests)
      add_custom_target(gpu_tests)
    endif()
    add_dependencies(gpu_tests ${name})
  endif()
  if(SLIDESPARSE_SANITIZE)
    # Tests ask for more memory than there is, to see the refusal; AddressSanitizer would end the program instead.
    list(APPEND properties ENVIRONMENT "ASAN_OPTIONS=allocator_may_return_null=1")
  endif()
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST PROPERTIES ${properties})
endfunction()
