"""What is read of the GPUs, of a program in nvidia-smi's place."""

import os

import pytest

from kerascnn.process import gpus

TWO = """#!/bin/sh
case "$1" in
--query-gpu=*)
  echo "NVIDIA H100 80GB HBM3, 81559, 4096, GPU-a"
  echo "NVIDIA T4, [N/A], 0, GPU-b" ;;
*)
  echo "123, python, train.py, 2048, GPU-a"
  echo "7, [Not Found], [N/A], GPU-a" ;;
esac
"""

on_posix = pytest.mark.skipif(os.name != "posix", reason="the program is a script")


@pytest.fixture
def smi(tmp_path, monkeypatch):
    def write(script):
        file = tmp_path / "nvidia-smi"
        file.write_text(script)
        file.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return write


@on_posix
def test_each_gpu_has_its_memory_and_the_processes_that_hold_it(smi):
    smi(TWO)
    first, second = gpus.found()
    assert (first["name"], second["name"]) == ("NVIDIA H100 80GB HBM3", "NVIDIA T4")
    assert (first["memory"], first["used"]) == (81559 * 2**20, 4096 * 2**20)
    assert (second["memory"], second["processes"]) == (None, [])
    assert first["processes"] == [
        {"pid": 123, "name": "python, train.py", "bytes": 2048 * 2**20},
        {"pid": 7, "name": "[Not Found]", "bytes": None},
    ]


@on_posix
@pytest.mark.parametrize(
    "script",
    ["#!/bin/sh\nexit 9\n", "#!/bin/sh\necho No devices were found\n", "garbage"],
)
def test_a_driver_in_trouble_lists_nothing(smi, script):
    smi(script)
    assert gpus.found() == []


def test_without_the_program_there_are_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.found() == []
