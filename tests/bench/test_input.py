"""What a stream adds to a step."""

import json

import keras
import pytest

from kerascnn.cli.commands import main

pytest.importorskip("grain")
pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="streams are JAX's"
)
WORDS = ["bench", "input", "fashion_mlp", "--workers", "0", "--rounds", "2"]


def test_a_step_is_timed_on_a_stream_and_in_memory(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    main([*WORDS, "--batch", "16", "--steps", "20", "--json"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["workers"] == 0
    assert 0 < found["memory"] < 10
    assert 0 < found["stream"] < 10
    share = 1 - found["memory"] / found["stream"]
    assert found["share"] == pytest.approx(max(0, share))


def test_too_few_images_are_a_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert main([*WORDS, "--batch", "512"]) == 2
    assert "time fewer steps" in capsys.readouterr().err
