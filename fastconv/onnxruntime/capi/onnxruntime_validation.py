"""What programs ask of onnxruntime's package."""

from __future__ import annotations

from .. import __version__, package_name


def get_package_name_and_version_info() -> tuple[str, str, str]:
    """The package's name, its version, and the CUDA version: none."""
    return package_name, __version__, ""


def check_distro_info() -> None:
    """Nothing to check."""


def check_training_module() -> tuple[bool, str, str, str]:
    """Whether training is possible (no), and the package's name and versions."""
    return (False, *get_package_name_and_version_info())
