from __future__ import annotations

import json
import math

import numpy as np
import pytest

from common.metrics.scores import sample_diversity
from common.runs.report import write_report
from common.training.health import MODE_COLLAPSE, Healthy, epoch_warnings, run_warnings

LIMITS = {"loss": Healthy(0.1, 5.0, "it is off"), "diversity": MODE_COLLAPSE}


def test_a_value_outside_of_its_limits_is_named_with_the_limit():
    assert epoch_warnings({"loss": 0.1, "diversity": 0.9}, LIMITS) == []
    assert epoch_warnings({"loss": 5.01}, LIMITS) == ["it is off (loss 5.01, above 5)"]
    assert epoch_warnings({"loss": 0.05, "diversity": 0.02}, LIMITS) == [
        "it is off (loss 0.05, below 0.1)",
        "mode collapse: generated images are nearly equal, or training has just begun (diversity 0.02, below 0.3)",
    ]
    assert epoch_warnings({"loss": math.nan}, LIMITS) == []


def test_a_run_s_warnings_name_ranges_of_epochs_and_the_worst_value():
    losses = [0.5, 0.05, 0.02, 0.4, 7.0, 0.5, 0.09]
    history = [{"epoch": number + 1, "loss": loss} for number, loss in enumerate(losses)]
    assert run_warnings(history, LIMITS) == ["epochs 2 to 3, 5, 7: it is off (loss 7, above 5)"]
    assert run_warnings(history[1:2], LIMITS) == ["epoch 2: it is off (loss 0.05, below 0.1)"]
    assert run_warnings(history[:1], LIMITS) == run_warnings([], LIMITS) == []


def noise(count, seed, spread=40):
    return np.random.default_rng(seed).normal(128, spread, (count, 5, 4, 3)).clip(0, 255).astype(np.uint8)


def test_diversity_against_distances_between_all_pairs():
    from scipy.spatial.distance import cdist

    samples, real = noise(9, 0, 20), noise(9, 1)
    nearest = []
    for images in (samples, real):
        points = images.reshape(9, -1).astype(float)
        nearest.append(np.median(np.sort(cdist(points, points), axis=1)[:, 1]))
    assert sample_diversity(samples, real) == pytest.approx(nearest[0] / nearest[1])


def test_diversity_of_as_varied_images_is_one_and_of_copies_none():
    real = noise(200, 2)
    assert sample_diversity(noise(200, 3), real) == pytest.approx(1, abs=0.02)
    assert sample_diversity(noise(300, 3)[:200], real) == sample_diversity(noise(300, 3), real)  # of the same number
    assert sample_diversity(np.tile(noise(10, 4), (20, 1, 1, 1)), real) == 0  # ten kinds only
    with pytest.raises(ValueError, match="needs at least 2 samples and 2 real images, got 1 and 200"):
        sample_diversity(real[:1], real)


def test_warnings_stand_in_the_report(tmp_path):
    (tmp_path / "warnings.json").write_text(json.dumps({"warnings": ["epoch 2: <it> is off"]}))
    page = write_report(tmp_path).read_text()
    assert "Warnings" in page and "epoch 2: &lt;it&gt; is off" in page
    (tmp_path / "warnings.json").write_text(json.dumps({"warnings": []}))
    assert "<h2>Warnings" not in write_report(tmp_path).read_text()
