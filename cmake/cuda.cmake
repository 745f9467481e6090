# CUDA is found, not required. There are no GPU kernels yet; `slidesparse info` reports what was found here.
find_package(CUDAToolkit QUIET)
if(CUDAToolkit_FOUND)
  set(SLIDESPARSE_CUDA_TOOLKIT "${CUDAToolkit_VERSION}")
else()
  set(SLIDESPARSE_CUDA_TOOLKIT "")
endif()
