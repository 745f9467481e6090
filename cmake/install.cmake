include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
if(NOT SLIDESPARSE_FUZZ)
  get_property(libraries GLOBAL PROPERTY SLIDESPARSE_LIBRARIES)
  install(TARGETS ${libraries} EXPORT slidesparseTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
  if(TARGET slidesparse)
    install(TARGETS slidesparse RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  endif()
  install(DIRECTORY include/slidesparse DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
  install(EXPORT slidesparseTargets NAMESPACE slidesparse::
          DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/slidesparse)
  configure_package_config_file(cmake/slidesparseConfig.cmake.in
    ${PROJECT_BINARY_DIR}/slidesparseConfig.cmake
    INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/slidesparse)
  write_basic_package_version_file(${PROJECT_BINARY_DIR}/slidesparseConfigVersion.cmake
    COMPATIBILITY SameMinorVersion)
  install(FILES ${PROJECT_BINARY_DIR}/slidesparseConfig.cmake
                ${PROJECT_BINARY_DIR}/slidesparseConfigVersion.cmake
                cmake/slidesparse_dnnl.cmake
          DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/slidesparse)
endif()
