"""Random numbers by name: they depend on the seed and the purpose, on nothing else."""

import numpy as np
import pytest

from toyalign import streams
from toyalign.streams import PURPOSES, Streams


def test_a_run_has_the_same_numbers_alone_and_in_a_batch():
    together = Streams([3, 1, 4, 1])
    batch = [together.uniforms("responses", 5).copy() for _ in range(200)]
    for place, seed in enumerate((3, 1, 4, 1)):
        alone = Streams([seed])
        for numbers in batch:
            assert np.array_equal(alone.uniforms("responses", 5)[0], numbers[place])


@pytest.mark.parametrize("size", [8, 8 * 5, 10**9])
def test_drawing_ahead_changes_nothing(monkeypatch, size):
    plain = Streams([0, 1])
    expected = [plain.uniforms("noise", 5).copy() for _ in range(10)]
    monkeypatch.setattr(streams, "_BLOCK_BYTES", size)
    blocks = Streams([0, 1])
    for numbers in expected:
        assert np.array_equal(blocks.uniforms("noise", 5), numbers)


def test_purposes_and_seeds_do_not_share_numbers():
    made = Streams([0, 1])
    rows = [row for purpose in PURPOSES for row in made.uniforms(purpose, 8)]
    assert len({row.tobytes() for row in rows}) == 2 * len(PURPOSES)


def test_one_purpose_does_not_disturb_another():
    quiet, busy = Streams([0]), Streams([0])
    for _ in range(7):
        busy.uniforms("order", 3)
        busy.normals("reference", 4)
    assert np.array_equal(quiet.uniforms("labels", 6), busy.uniforms("labels", 6))


def test_numbers_are_new_at_every_call():
    made = Streams([0])
    seen = {made.uniforms("responses", 4).tobytes() for _ in range(300)}
    assert len(seen) == 300


def test_uniforms_and_normals_are_what_they_say():
    made = Streams(range(2000))
    uniforms, normals = made.uniforms("states", 10), made.normals("reference", 10)
    assert uniforms.shape == normals.shape == (2000, 10)
    assert uniforms.min() >= 0
    assert uniforms.max() < 1
    # 20,000 numbers: |z| < 4.5, false alarm 6.8e-6 each
    assert abs(uniforms.mean() - 0.5) < 4.5 / np.sqrt(12 * 20_000)
    assert abs(normals.mean()) < 4.5 / np.sqrt(20_000)
    assert abs(normals.var() - 1) < 4.5 * np.sqrt(2 / 20_000)


def test_an_unknown_purpose_is_an_error():
    with pytest.raises(ValueError, match="not in tuple"):
        Streams([0]).uniforms("lottery", 1)


def test_number_of_runs():
    assert Streams([5, 6, 7]).runs == 3
