"""Scores of held-out pairs after each epoch, and `--keep-best`: the weights of the epoch with the best value."""

from __future__ import annotations

import numpy as np
import pytest

from common.data.batches import Batches
from common.metrics.scores import pair_scores
from common.runs.run import Run
from common.system.files import InputError
from common.training import Execution, executing, fit
from recipes import pix2pix
from tests.pictures import noise
from tests.test_contract import tiny
from tests.test_training import data, start

pytestmark = pytest.mark.usefixtures("untraced")


def trained(keep_best: str, values: list[float], output_dir=None, epochs: int = 0) -> tuple[list, list]:
    """Train a linear model, with `values` in the column of that name; return its weights per epoch, and at the end."""
    step, state = start()
    seen: list[list[np.ndarray]] = []

    def score(epoch: int, losses: dict[str, float]) -> dict[str, float]:
        seen.append(state["model"].get_weights())
        return {keep_best or "score": values[epoch - 1]}

    with executing(Execution(keep_best=keep_best)):
        fit(step, data(), epochs or len(values), state, output_dir, on_epoch=score)
    return seen, state["model"].get_weights()


@pytest.mark.parametrize(
    ("column", "values", "best"),
    [("validation_l1", [3, 1, 2], 1), ("validation_ssim", [0.1, 0.2, 0.3], 2), ("validation_accuracy", [2, 1, 1], 0)],
)
@pytest.mark.parametrize("on_disk", [False, True])
def test_the_best_epoch_is_kept_on_request(column, values, best, on_disk, tmp_path):
    seen, last = trained(column, values, tmp_path if on_disk else None)
    np.testing.assert_array_equal(last[0], seen[best][0])
    seen, last = trained("", values)
    np.testing.assert_array_equal(last[0], seen[-1][0])


def test_a_resumed_run_keeps_the_best_epoch_of_before(tmp_path):
    seen, _ = trained("frechet", [2, 1, 3], tmp_path, epochs=2)
    later, last = trained("frechet", [2, 1, 3], tmp_path)
    assert len(later) == 1
    np.testing.assert_array_equal(last[0], seen[1][0])


def test_a_column_that_the_history_lacks(tmp_path):
    step, state = start()
    with (
        executing(Execution(keep_best="accuracy")),
        pytest.raises(InputError, match="^--keep-best: the history has no column 'accuracy'; choose from loss$"),
    ):
        fit(step, data(), 2, state, tmp_path)
    assert not list(tmp_path.glob("checkpoints/step-*"))


def test_a_resumed_run_has_the_column_that_it_began_with(tmp_path):
    config = pix2pix.Config()
    with executing(Execution(keep_best="validation_l1")):
        Run(tmp_path, "pix2pix", config, "sample").start()
    (tmp_path / "checkpoints/step-00000001").mkdir(parents=True)
    with pytest.raises(InputError, match="holds a run with keep_best 'validation_l1', not ''"):
        Run(tmp_path, "pix2pix", config, "sample")


@pytest.mark.slow
def test_pix2pix_compares_held_out_pairs_and_trains_as_without_them():
    config = tiny(pix2pix, "pix2pix", epochs=1, dropout=0.5)
    pairs = noise(4, 32, 32, 3), noise(4, 32, 32, 3, seed=1)
    held_out = noise(3, 32, 32, 3, seed=2), noise(3, 32, 32, 3, seed=3)
    plain = Batches.of(pairs, config.batch_size, config.seed)
    found = []
    for stream in (plain, plain._replace(held_out=held_out)):
        networks = pix2pix.build(config)
        found.append((networks, pix2pix.train(networks, stream, config)))
    (alone, (row,)), (networks, (scored,)) = found
    assert "validation_l1" not in row and row["l1"] == scored["l1"]
    for one, other in zip(alone.generator.get_weights(), networks.generator.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    inputs, targets = held_out
    expected = pair_scores(targets, pix2pix.translate_batch(networks.generator, inputs))
    assert (scored["validation_l1"], scored["validation_ssim"]) == (expected["l1"], expected["ssim"])
