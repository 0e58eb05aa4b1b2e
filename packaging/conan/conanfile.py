from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.files import copy
from conan.tools.layout import basic_layout


class Settle(ConanFile):
    """settle's headers. From a checkout: conan create packaging/conan --version 0.2.0"""

    name = "settle"
    license = "MIT"
    description = "Recurrent vision models that settle to a fixed point, trained with constant memory"
    topics = ("automatic differentiation", "recurrent networks", "fixed points", "header-only")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    options = {"io": [True, False]}
    default_options = {"io": True}
    no_copy_source = True

    def export_sources(self):
        copy(self, "include/*", src=f"{self.recipe_folder}/../..", dst=self.export_sources_folder)
        copy(self, "LICENSE", src=f"{self.recipe_folder}/../..", dst=self.export_sources_folder)

    def layout(self):
        basic_layout(self)

    def validate(self):
        check_min_cppstd(self, 20)

    def requirements(self):
        self.requires("eigen/[>=3.4]", transitive_headers=True)
        if self.options.io:
            self.requires("nlohmann_json/[>=3.10]", transitive_headers=True)
            self.requires("libpng/[>=1.6]", transitive_headers=True)
            self.requires("libjpeg-turbo/[>=2.1]", transitive_headers=True)
            self.requires("libjpeg-turbo/[>=2.1]", transitive_headers=True)

    def package_id(self):
        self.info.clear()

    def package(self):
        copy(self, "*", src=f"{self.export_sources_folder}/include", dst=f"{self.package_folder}/include")
        copy(self, "LICENSE", src=self.export_sources_folder, dst=f"{self.package_folder}/licenses")

    def package_info(self):
        self.cpp_info.components["settle"].requires = ["eigen::eigen"]
        self.cpp_info.components["settle"].set_property("cmake_target_name", "settle::settle")
        self.cpp_info.components["settle"].set_property("pkg_config_name", "settle")
        if self.settings.os in ("Linux", "FreeBSD"):
            self.cpp_info.components["settle"].system_libs = ["pthread"]
        if self.options.io:
            self.cpp_info.components["io"].requires = [
                "settle",
                "nlohmann_json::nlohmann_json",
                "libpng::libpng",
                "libjpeg-turbo::libjpeg-turbo",
            ]
            self.cpp_info.components["io"].set_property("cmake_target_name", "settle::io")
            self.cpp_info.components["io"].set_property("pkg_config_name", "settle-io")
