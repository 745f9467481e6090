# CUDA is found, not required: SLIDESPARSE_HAVE_CUDA says whether this build has GPU code. Sanitizer and fuzz builds leave it
# out: they test host code, and nvcc's own host objects carry no instrumentation.
set(SLIDESPARSE_HAVE_CUDA OFF)
set(SLIDESPARSE_CUDA_TOOLKIT "")
include(CheckLanguage)
if(NOT SLIDESPARSE_FUZZ AND NOT SLIDESPARSE_SANITIZE)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    # Targets name their own; CMake wants one for its compiler check.
    set(CMAKE_CUDA_ARCHITECTURES 90)
    enable_language(CUDA)
    # CMake 3.25 does not know that nvcc has C++20, which every target asks for.
    if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
    endif()
    find_package(CUDAToolkit REQUIRED)
    set(SLIDESPARSE_HAVE_CUDA ON)
    set(SLIDESPARSE_CUDA_TOOLKIT "${CUDAToolkit_VERSION}")
    if(CCACHE AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
      set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE})
    endif()
  endif()
endif()

# A100 (and, through its PTX, everything newer), RTX 4090, H100/H200, RTX 50. Hopper-only code is built for the third alone.
set(SLIDESPARSE_CUDA_ARCHITECTURES "80-real;80-virtual;89-real;90a-real;120-real"
    CACHE STRING "Architectures of the portable kernels")

# Headers from Python packages (tools/requirements-cuda.txt), which tools/setup.sh puts into build/venv.
file(GLOB slidesparse_site "${PROJECT_SOURCE_DIR}/build/venv/lib/python3*/site-packages")
find_path(CUTLASS_INCLUDE_DIR cutlass/cutlass.h
  HINTS ${slidesparse_site} PATH_SUFFIXES cutlass_library/source/include
  DOC "Headers of CUTLASS 4")
find_path(CUSPARSELT_INCLUDE_DIR cusparseLt.h
  HINTS ${slidesparse_site} PATH_SUFFIXES nvidia/cu13/include
  DOC "Header of cuSPARSELt")
find_path(CUDNN_INCLUDE_DIR cudnn.h
  HINTS ${PROJECT_SOURCE_DIR}/build/venv/cudnn PATH_SUFFIXES nvidia/cudnn/include
  DOC "Headers of cuDNN 9")
find_path(CUDNN_FRONTEND_INCLUDE_DIR cudnn_frontend.h
  HINTS ${PROJECT_SOURCE_DIR}/build/venv/cudnn PATH_SUFFIXES include
  DOC "cuDNN's C++ frontend")

# slidesparse_cuda(<target>): gives a target with .cu files the options that they need.
function(slidesparse_cuda target)
  if(NOT SLIDESPARSE_HAVE_CUDA)
    return()
  endif()
  # CMake 3.25 does not know nvcc's C++20.
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20 --expt-relaxed-constexpr -lineinfo --compress-mode=size -fmad=false -Xcompiler=-Wall,-Wextra -Werror=all-warnings>)
  set_target_properties(${target} PROPERTIES CUDA_ARCHITECTURES "${SLIDESPARSE_CUDA_ARCHITECTURES}")
endfunction()
