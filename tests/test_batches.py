"""What may be trained on: `Batches`, arrays, and datasets of TensorFlow."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

from common.data import Batches
from common.data.batches import batches
from common.system.files import InputError
from common.training import fit

IMAGES = np.arange(10, dtype=np.uint8)[:, None, None, None].repeat(2, 1).repeat(2, 2)  # uint8 [10, 2, 2, 1]
LABELS = np.arange(10)


def shades(stream: Batches, first: int, count: int) -> list[list[int]]:
    """The images of each batch, by their shades."""
    return [batch[0][:, 0, 0, 0].tolist() for batch in stream.at(first).take(count).as_numpy_iterator()]


def endless() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(IMAGES).batch(5).repeat()


def of_unknown_length(count: int = 10) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(IMAGES[:count]).filter(lambda image: True).batch(4)


# %% Arrays


def test_batches_stay_as_they_are():
    data = batches((IMAGES, LABELS), 5, 0, held_out=(IMAGES,))
    assert Batches.of(data, 3, 1) is data
    longer = Batches.of(data, 3, 1, steps_per_epoch=7)
    assert longer.steps_per_epoch == 7 and longer.held_out is data.held_out
    assert shades(longer, 0, 9) == shades(data, 0, 9)


@pytest.mark.parametrize("data", [IMAGES, [IMAGES], (IMAGES,), tf.constant(IMAGES), [IMAGES, LABELS.tolist()]])
def test_arrays_give_the_same_batches_as_their_stream(data):
    stream = Batches.of(data, 5, seed=3)
    assert stream.steps_per_epoch == 2 and stream.held_out == ()
    assert shades(stream, 0, 8) == shades(batches((IMAGES,), 5, seed=3), 0, 8)
    assert shades(stream, 3, 5) == shades(stream, 0, 8)[3:]
    assert all(sorted(sum(shades(stream, 2 * epoch, 2), [])) == list(range(10)) for epoch in range(3))


def test_arrays_of_examples_keep_together():
    for images, labels in Batches.of((IMAGES, LABELS), 5, 0).at(0).take(4).as_numpy_iterator():
        assert images[:, 0, 0, 0].tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (IMAGES / 255, r"images must be uint8 from 0 to 255, got float64 \[10, 2, 2, 1\]"),
        (IMAGES.astype(np.int32), "images must be uint8 from 0 to 255, got int32"),
        ((IMAGES, LABELS[:9]), "arrays must have the same length, got 10, 9"),
        (LABELS, r"data must contain uint8 images \[n, height, width, channels\], got \[10\]$"),
        (IMAGES[..., 0], r"got \[10, 2, 2\]$"),
        (list(IMAGES), r"got \[2, 2, 1\] and \[2, 2, 1\] and \[2, 2, 1\] and so on"),
        ((IMAGES, np.eye(10)), r"labels \[n\], got float64 \[10, 10\]; give the index of the class"),
        ((IMAGES, LABELS / 2), r"labels must be integers, got float64 \[10\]"),
        ((IMAGES, LABELS.astype(str)), "labels must be integers, got str"),
        ((IMAGES, IMAGES[..., 0]), r"each array must contain images .* got uint8 \[10, 2, 2\]"),
        (IMAGES[:3], "3 items are fewer than one batch of 5"),
        ((IMAGES, [[1], [1, 2]]), "data must be Batches, a tf.data.Dataset of batches, or NumPy arrays, got ndarray"),
        ({"images": IMAGES}, "or NumPy arrays, got dict"),
        ((image for image in IMAGES), "or NumPy arrays, got generator"),
        (None, "or NumPy arrays, got NoneType"),
    ],
)
def test_other_arrays_are_refused(data, message):
    with pytest.raises(InputError, match=message) as error:
        Batches.of(data, 5, 0)
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


@pytest.mark.parametrize("steps", [0, -1])
def test_an_epoch_has_a_step(steps):
    for data in (IMAGES, batches(IMAGES, 5, 0), endless()):
        with pytest.raises(InputError, match=f"steps_per_epoch must be 1 or more, got {steps}"):
            Batches.of(data, 5, 0, steps)


# %% Datasets


def test_a_dataset_keeps_its_order_and_its_smaller_last_batch():
    stream = Batches.of(tf.data.Dataset.from_tensor_slices(IMAGES).batch(4), 7, 1)
    assert stream.steps_per_epoch == 3 and stream.held_out == ()
    assert shades(stream, 0, 4) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [0, 1, 2, 3]]
    assert all(shades(stream, first, 3) == shades(stream, 0, 8)[first : first + 3] for first in range(6))


@pytest.mark.parametrize("steps", [1, 2, 5, 7])
def test_an_epoch_of_a_dataset_may_be_shorter_or_longer_than_a_pass(steps):
    stream = Batches.of(tf.data.Dataset.from_tensor_slices(IMAGES).batch(4), 7, 1, steps)
    assert stream.steps_per_epoch == steps
    assert Counter(map(tuple, shades(stream, 0, 9))).most_common() == [
        ((0, 1, 2, 3), 3), ((4, 5, 6, 7), 3), ((8, 9), 3),
    ]  # fmt: skip
    assert all(shades(stream, first, 3) == shades(stream, 0, 12)[first : first + 3] for first in range(9))


def test_elements_of_a_dataset_may_be_nested():
    parts = {"target": 255 - IMAGES, "input": IMAGES}
    for elements in (parts, (IMAGES, (255 - IMAGES,)), {"a": {"b": IMAGES}, "b": (255 - IMAGES,)}):
        dataset = tf.data.Dataset.from_tensor_slices(elements).batch(5)
        first, second = next(iter(Batches.of(dataset, 5, 0).at(0).as_numpy_iterator()))
        np.testing.assert_array_equal(255 - first, second)


def test_a_dataset_of_unknown_length_is_counted_once(capsys):
    stream = Batches.of(of_unknown_length(), 4, 0)
    assert stream.steps_per_epoch == 3
    assert "counting the batches of one pass" in capsys.readouterr().err
    assert shades(stream, 4, 3) == shades(stream, 0, 7)[4:]
    assert Batches.of(of_unknown_length(), 4, 0, steps_per_epoch=2).steps_per_epoch == 2
    assert capsys.readouterr().err == ""


def test_an_endless_dataset_needs_the_length_of_an_epoch():
    with pytest.raises(InputError, match="the dataset is infinite; set steps_per_epoch"):
        Batches.of(endless(), 5, 0)
    assert shades(Batches.of(endless(), 5, 0, 3), 0, 4) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]] * 2


@pytest.mark.parametrize("steps", [None, 3])
def test_an_empty_dataset_is_refused(steps):
    with pytest.raises(InputError, match="the dataset is empty"):
        Batches.of(tf.data.Dataset.from_tensor_slices(IMAGES[:0]).batch(2), 5, 0, steps)
    if steps is None:
        with pytest.raises(InputError, match="the dataset is empty"):
            Batches.of(of_unknown_length(0), 5, 0)


def of_unknown_shape() -> tf.data.Dataset:
    return tf.data.Dataset.range(3).map(lambda number: tf.py_function(lambda n: IMAGES, [number], tf.uint8))


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (lambda: tf.data.Dataset.from_tensor_slices(IMAGES / 255).batch(2), "images must be uint8 .* got float64"),
        (lambda: tf.data.Dataset.from_tensor_slices(IMAGES), r"data must contain .* got \[2, 2, 1\]$"),
        (of_unknown_shape, "data must contain .* got an unknown shape$"),
    ],
)
def test_other_datasets_are_refused(dataset, message):
    with pytest.raises(InputError, match=message):
        Batches.of(dataset(), 2, 0)


def test_what_is_wrong_with_a_file_comes_out_of_a_dataset_as_one_line(tmp_path):
    def read(number: int) -> np.ndarray:
        if number > 1:
            raise InputError(f"{tmp_path}/street.png: damaged")
        return IMAGES

    def load(number: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(read, [number], tf.uint8), (10, 2, 2, 1))

    @tf.function
    def step(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"loss": tf.reduce_mean(tf.cast(images, tf.float32))}

    dataset = tf.data.Dataset.range(3).map(load)
    with pytest.raises(InputError, match=f"^{tmp_path}/street.png: damaged$"):
        fit(step, Batches.of(dataset, 10, 0), 1, {})
    with pytest.raises(InputError, match=f"^{tmp_path}/street.png: damaged$"):
        Batches.of(dataset.filter(lambda images: True), 10, 0)


@pytest.mark.parametrize("parts", [2, 4])
def test_machines_share_the_batches_of_a_dataset(parts):
    dataset = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(4, drop_remainder=True)
    stream = Batches.of(dataset, 4, 0)
    shares = [[np.array(batch[1]) for batch in stream.at(1, part, parts).take(5)] for part in range(parts)]
    for number, (_, labels) in enumerate(stream.at(1).take(5)):
        np.testing.assert_array_equal(np.concatenate([share[number] for share in shares]), labels)


@pytest.mark.parametrize("kind", ["arrays", "dataset"])
@pytest.mark.parametrize("steps", [None, 2, 4])
def test_a_training_that_was_stopped_in_mid_epoch_resumes_as_if_it_had_not(kind, steps, tmp_path):
    """On batches of different sizes, with epochs that are shorter and longer than a pass."""
    rows = []
    for stopped in (False, True):
        data = (IMAGES, LABELS) if kind == "arrays" else tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(4)
        seen = tf.Variable(tf.zeros([0]), shape=[None])
        weight = tf.Variable(0.0)

        def step(images: tf.Tensor, labels: tf.Tensor, seen=seen, weight=weight) -> dict[str, tf.Tensor]:
            seen.assign(tf.concat([seen, tf.cast(labels, tf.float32)], 0))
            weight.assign(0.5 * weight + tf.reduce_sum(tf.cast(images, tf.float32)))
            return {"loss": weight + tf.cast(len(labels), tf.float32)}

        def stopping(images: tf.Tensor, labels: tf.Tensor, step=step, seen=seen) -> dict[str, tf.Tensor]:
            tf.debugging.assert_less(tf.size(seen), 18)  # in the second or third pass
            return step(images, labels)

        stream, folder = Batches.of(data, 4, 0, steps), tmp_path / str(stopped)
        if stopped:
            with pytest.raises(tf.errors.InvalidArgumentError):
                fit(stopping, stream, 4, {"weight": weight}, folder, save_seconds=0.0)
        history = fit(step, stream, 4, {"weight": weight}, folder)
        rows.append([row["loss"] for row in history])
    assert rows[0] == rows[1]


@pytest.mark.parametrize(("count", "size"), [(10, 10), (1000, 500), (997, 1), (0, None)])
def test_a_batch_size_of_0_covers_all_examples_in_equal_batches(count, size):
    arrays = np.zeros((count, 1, 1, 1), np.uint8)
    if size is None:
        with pytest.raises(InputError, match="0 items are fewer than one batch of 1"):
            batches((arrays,), 0, 0)
        return
    stream = batches((arrays,), 0, 0)
    assert stream.steps_per_epoch * size == count
    assert next(iter(stream.at(0)))[0].shape[0] == size
