"""The default number of threads: affinity, physical cores and container quotas."""

import os
import pathlib

import pytest

from fastconv import OptionError, threads


@pytest.fixture
def files(monkeypatch):
    """Stands for /proc and /sys: path → text; a file that is not there is empty."""
    content = {}
    read = lambda path: content.get(os.path.normpath(path), "").strip()  # noqa: E731
    monkeypatch.setattr(threads, "_read", read)
    monkeypatch.delenv("FASTCONV_THREADS", raising=False)
    return content


ROOT = "/sys/fs/cgroup"


def test_no_control_group_means_no_quota(files):
    assert threads.quota() is None


@pytest.mark.parametrize(
    ("text", "quota"),
    [("200000 100000", 2.0), ("150000 100000", 1.5), ("max 100000", None), ("", None),
     ("nonsense", None), ("100000 0", None), ("1 2 3", None)],
)  # fmt: skip
def test_version_2_quota(files, text, quota):
    files["/proc/self/cgroup"] = "0::/\n"
    files[f"{ROOT}/cpu.max"] = text
    assert threads.quota() == quota


def test_the_tightest_of_nested_groups_counts(files):
    files["/proc/self/cgroup"] = "0::/pod/box/job"
    files[f"{ROOT}/pod/box/job/cpu.max"] = "max 100000"
    files[f"{ROOT}/pod/box/cpu.max"] = "300000 100000"
    files[f"{ROOT}/pod/cpu.max"] = "800000 100000"
    assert threads.quota() == 3.0
    files[f"{ROOT}/pod/box/job/cpu.max"] = "50000 100000"
    assert threads.quota() == 0.5


@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize(("quota", "expected"), [("250000", 2.5), ("-1", None)])
def test_version_1_quota(files, folder, quota, expected):
    files["/proc/self/cgroup"] = "4:cpu,cpuacct:/docker/abc\n2:memory:/docker/abc"
    files[f"{ROOT}/{folder}/cpu.cfs_quota_us"] = quota
    files[f"{ROOT}/{folder}/cpu.cfs_period_us"] = "100000"
    assert threads.quota() == expected


def test_hyper_threads_count_once(files):
    for cpu in range(4):
        folder = f"/sys/devices/system/cpu/cpu{cpu}/topology"
        files[f"{folder}/thread_siblings_list"] = f"{cpu % 2},{cpu % 2 + 2}"
    assert threads.physical({0, 1, 2, 3}) == 2
    assert threads.physical({0, 2}) == 1
    assert threads.physical({5, 6}) == 2  # no topology: each counts


@pytest.mark.parametrize(
    ("quota", "expected"),
    [(None, 8), ("max", 8), ("50000", 1), ("140000", 1), ("150000", 2), ("400000", 4)],
)
def test_default_is_what_affinity_and_quota_leave(files, monkeypatch, quota, expected):
    monkeypatch.setattr(threads, "affinity", lambda: set(range(8)))
    files["/proc/self/cgroup"] = "0::/"
    files[f"{ROOT}/cpu.max"] = f"{quota} 100000" if quota else ""
    assert threads.default_threads() == expected
    assert threads.check_threads(None) == threads.check_threads(0) == expected


def test_affinity_is_that_of_the_process(monkeypatch):
    assert threads.affinity() == os.sched_getaffinity(0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5})
    assert threads.affinity() == {3, 5}
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert threads.affinity() == {0, 1, 2}
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert threads.affinity() == {0}


def test_the_environment_overrides_the_default(monkeypatch):
    monkeypatch.setenv("FASTCONV_THREADS", "7")
    assert threads.default_threads() == threads.check_threads(None) == 7
    assert threads.check_threads(2) == 2
    monkeypatch.setenv("FASTCONV_THREADS", "many")
    with pytest.raises(OptionError, match="FASTCONV_THREADS='many'"):
        threads.default_threads()


@pytest.mark.parametrize("wrong", [-1, 4097, 1.5, "2", True, [1]])
def test_nonsense_is_refused(wrong):
    with pytest.raises(OptionError, match="threads="):
        threads.check_threads(wrong)


def test_this_machine_has_at_least_one():
    assert 1 <= threads.default_threads() <= (os.cpu_count() or 1)
    assert pathlib.Path(f"{ROOT}/none").exists() is False
    assert threads._read(f"{ROOT}/none") == ""
