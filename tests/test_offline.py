"""Without --fetch nothing asks the network, whatever `--data` or a run's config.json says."""

from __future__ import annotations

import json
import re
import socket
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from common.data.arrays import tfds_builder
from common.data.attributes import attributed_images
from common.data.datasets import image_pairs, images_of
from common.data.domains import unpaired_images
from common.data.labelled import labelled_images
from common.data.prepared_sets import prepared_set
from common.runs.pretrained import APPLICATIONS, Classifier, frozen_features, imagenet_classifier
from common.samples.photos import photographs
from common.system.files import InputError
from common.training import read_photo


class Asked(BaseException):
    """Somebody asked the network; no `except Exception` hides it."""


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    def ask(*_, **__):
        raise Asked

    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, ask)
    monkeypatch.setattr(socket.socket, "connect", ask)
    monkeypatch.setattr(socket.socket, "connect_ex", ask)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))


FOREIGN = (
    "huggingface:mnist",
    "kubric:x",
    "huggingface:user__set/config:1.0.0",
    "mnist/data_dir=gs://somewhere",
    "mnist/try_gcs=True",
    "../mnist",
    "/mnist",
    "mnist/../../etc",
    "gs://tfds-data/datasets/mnist",
    "https://example.org/mnist",
    "mnist:latest",
    "mnist\n",
    "mnist:1.0.0/..",
    "..",
    "",
    "ｍnist",
)


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("fetch", [False, True])
def test_names_that_are_no_sets_are_refused_even_where_fetching_is_allowed(name, fetch):
    """Sets of communities are programs that are downloaded and run."""
    expected = f"{f'tfds:{name}'!r}: not the name of a data set; expected NAME or NAME/CONFIG"
    with pytest.raises(InputError, match=re.escape(expected)) as error:
        tfds_builder(name, fetch)
    assert "\n" not in str(error.value)


READERS = {
    "pix2pix": lambda data: image_pairs(data, 32, lambda: None),
    "gan": lambda data: images_of(data, 32, 1, lambda: None),
    "cyclegan": lambda data: unpaired_images(data, 32, lambda: None),
    "lenet": lambda data: labelled_images(data, 32, 1, lambda: None),
    "vae_faces": lambda data: attributed_images(data, 32, 3, lambda: None),
}


@pytest.mark.parametrize("recipe", READERS)
@pytest.mark.parametrize("name", ["mnist", "cycle_gan/apple2orange", "no_such_set", "huggingface:mnist", "kubric:x"])
def test_a_set_that_is_not_here_is_not_looked_for_elsewhere(name, recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)  # its native code asks Google past Python's sockets
    with pytest.raises(
        InputError, match=f"tfds:{name}(': not the name of a data set| is not on this machine .*--fetch)"
    ):
        READERS[recipe](f"tfds:{name}")


def test_sets_of_keras_are_not_fetched_unasked():
    for name in ("mnist", "fashion_mnist"):
        with pytest.raises(InputError, match=f"{name} is not on this machine .*--fetch"):
            images_of(name, 28, 1, lambda: None)


@pytest.mark.parametrize("network", APPLICATIONS)
def test_weights_of_keras_are_not_fetched_unasked(network, monkeypatch, tmp_path):
    def small(**options):
        assert options.get("weights") != "imagenet", "Keras would fetch them"
        return keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(1, 1, name="maps")])

    monkeypatch.setattr(keras.applications, network, small)
    names = {str(number): ["n", f"name_{number}"] for number in range(1000)}
    for ask in (
        lambda: imagenet_classifier(network, "imagenet"),
        lambda: Classifier.load(network, "imagenet"),
        lambda: frozen_features(network, "imagenet", ["maps"]),
    ):
        with pytest.raises(InputError, match="not on this machine .*--fetch"):
            ask()
    (tmp_path / "keras" / "models").mkdir(parents=True)
    (tmp_path / "keras" / "models" / "imagenet_class_index.json").write_text(json.dumps(names))
    with pytest.raises(InputError, match="weights are not on this machine .*--fetch"):
        Classifier.load(network, "imagenet")


def test_the_photographs_come_with_scikit_image():
    assert len(photographs()) == 16 and read_photo("sample").dtype == np.uint8


# Sets that lie on this machine


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "dataset_info.json").write_text("{}")


def test_prepared_sets_are_found_by_name_configuration_and_version(tmp_path):
    sets = tmp_path / "sets"
    put(
        sets, "digits/1.0.0", "digits/1.10.0", "digits/1.9.0", "gan/a2b/3.0.0", "gan/b2a/3.1.0", "gan/odd-name_v2/1.0.0"
    )
    (sets / "digits" / "2.0.0.incompleteXYZ").mkdir()
    (sets / "digits" / "2.0.0").mkdir()  # stopped while it was prepared
    found = {
        "digits": "digits/1.10.0",
        "digits:1.9.0": "digits/1.9.0",
        "gan/a2b": "gan/a2b/3.0.0",
        "gan/b2a:3.1.0": "gan/b2a/3.1.0",
        "gan/odd-name_v2": "gan/odd-name_v2/1.0.0",
    }
    assert {name: prepared_set(name) for name in found} == {name: sets / place for name, place in found.items()}
    for name in ("digits:3.0.0", "gan", "gan/a2b:1.0.0", "gan/none", "other"):
        assert prepared_set(name) is None, name
    (sets / "gan" / ".config").mkdir()
    metadata = sets / "gan" / ".config" / "metadata.json"
    metadata.write_text('{"default_config_name": "b2a"}')
    assert prepared_set("gan") == sets / "gan/b2a/3.1.0"
    for damaged in ("", "[]", '{"default_config_name": "../../digits"}', '{"default_config_name": 3}'):
        metadata.write_text(damaged)
        assert prepared_set("gan") is None


def test_a_damaged_set_is_one_line(tmp_path):
    put(tmp_path / "sets", "digits/1.0.0")
    with pytest.raises(InputError, match="1.0.0: damaged data set .*; prepare it again") as error:
        images_of("tfds:digits", 28, 1, lambda: None)
    assert "\n" not in str(error.value)
