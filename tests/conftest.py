"""Shared by all tests."""

import os
import pathlib
import sys

import pytest

import fastconv

sys.path.insert(0, os.path.dirname(__file__))


def pytest_addoption(parser):
    parser.addoption(
        "--graphs", type=int, default=2000, help="random networks to compare (default 2000)"
    )
    parser.addoption("--graphs-seed", type=int, default=0, help="which random networks (default 0)")


@pytest.fixture(scope="session", autouse=True)
def away_from_the_sources(tmp_path_factory):
    """Child processes import the fastconv under test, not the source folder they would start in.

    What was tuned or stored on this machine is out of sight, too.
    """
    before, path = os.getcwd(), os.environ.get("PYTHONPATH")
    os.chdir(tmp_path_factory.mktemp("cwd"))
    names = ("FASTCONV_CACHE", "FASTCONV_STORE", "XDG_CACHE_HOME")
    caches = {name: os.environ.pop(name, None) for name in names}
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["PYTHONPATH"] = str(pathlib.Path(fastconv.__file__).resolve().parent.parent)
    yield
    os.chdir(before)
    if path is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = path
    for name, value in caches.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
