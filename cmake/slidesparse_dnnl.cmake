# oneDNN as the imported target slidesparse_dnnl. Not find_package(dnnl): Debian's configuration asks for OpenCL headers, which CPU
# use does not need. Installed beside slidesparseConfig.cmake.
if(NOT TARGET slidesparse_dnnl)
  find_path(DNNL_INCLUDE_DIR dnnl.hpp REQUIRED)
  find_library(DNNL_LIBRARY dnnl REQUIRED)
  add_library(slidesparse_dnnl INTERFACE IMPORTED GLOBAL)
  target_include_directories(slidesparse_dnnl SYSTEM INTERFACE ${DNNL_INCLUDE_DIR})
  target_link_libraries(slidesparse_dnnl INTERFACE ${DNNL_LIBRARY})
endif()
