"""Shared by all tests."""

import os
import pathlib
import sys

import pytest

import fastconv

sys.path.insert(0, os.path.dirname(__file__))


@pytest.fixture(scope="session", autouse=True)
def away_from_the_sources(tmp_path_factory):
    """Child processes import the fastconv under test, not the source folder they would start in."""
    before, path = os.getcwd(), os.environ.get("PYTHONPATH")
    os.chdir(tmp_path_factory.mktemp("cwd"))
    os.environ["PYTHONPATH"] = str(pathlib.Path(fastconv.__file__).resolve().parent.parent)
    yield
    os.chdir(before)
    if path is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = path
