"""Load pretrained networks: classifiers with class names, feature networks, and weights for keras.applications."""

from __future__ import annotations

import functools
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.data.identity import kept_identities
from common.data.labelled import Split, class_number
from common.data.synthetic import Sample
from common.runs.networks import load_network
from common.runs.own_classifiers import caffe_images, own_classifier
from common.runs.run import Run, read_data, stored_classes, stored_run
from common.system.files import InputError, data_file, first_line, home_folder, printable
from common.system.initial import active_start
from common.system.keras_files import load_keras_file
from common.system.lazy import keras
from common.training.canvas import layer_weights, smallest_side


class Application(NamedTuple):
    """Properties of a keras.applications network."""

    size: int  # input size in pixels
    caffe: bool  # whether the input is BGR minus the channel means, as in Caffe; False: RGB in [-1, 1]
    file: str  # file name of Keras's weights


APPLICATIONS = {
    "InceptionV3": Application(299, False, "inception_v3_weights_tf_dim_ordering_tf_kernels.h5"),
    "MobileNetV2": Application(224, False, "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5"),
    "NASNetMobile": Application(224, False, "nasnet_mobile.h5"),
    "ResNet50": Application(224, True, "resnet50_weights_tf_dim_ordering_tf_kernels.h5"),
    "VGG19": Application(224, True, "vgg19_weights_tf_dim_ordering_tf_kernels.h5"),
}
BUILT_AT_SIZE = ("NASNetMobile",)
"""Networks for which Keras builds other layers if the size is unknown, so that no weights fit."""
CLASS_INDEX = "imagenet_class_index.json"
CLASS_INDEX_URL = f"https://storage.googleapis.com/download.tensorflow.org/data/{CLASS_INDEX}"


class Classifier(NamedTuple):
    """A trained classifier, its class names and its input format."""

    network: keras.Model  # images [n, height, width, channels] in [-1, 1] -> logits [n, classes]
    classes: tuple[str, ...]  # class names
    size: int  # size in pixels of the training images
    channels: int  # 1 for grey, 3 for colour
    seed: int  # seed of the synthetic training data; 0 for other data
    any_size: bool  # whether the network accepts images of any size and resizes them itself
    data: str = "sample"  # value of `--data` in its training run
    identity: Mapping[str, Any] = {}  # fingerprint of the training files, from `identities`

    @classmethod
    def load(
        cls, network: str, weights: str, fetch: bool = False, preprocessing: str = "", class_names: str = ""
    ) -> Classifier:
        """Load a classifier with frozen weights.

        Args:
            network: the name of a keras.applications network, `digits` for the bundled digit classifier, `run` for the
                classifier of a run, or a .keras file with a classifier of your own.
            weights: for a keras.applications network, `imagenet` or a weights file; for `run`, a .keras file in a run
                folder.
            fetch: allow Keras to download the weights.
            preprocessing: the values that your own classifier expects; see `own_classifier`.
            class_names: a text or JSON file with the class names of your own classifier.

        Raises:
            InputError: `network` is unknown, or the file does not exist or does not contain a classifier.
        """
        is_file = network.endswith(".keras")
        if (preprocessing or class_names) and not is_file:
            raise InputError(f"--preprocessing and --classes are for --network FILE.keras, got --network {network}")
        if network in APPLICATIONS:
            classifier = imagenet_classifier(network, weights, fetch)
        elif is_file:
            loaded, classes, size, channels = own_classifier(Path(network), preprocessing, class_names)
            classifier = cls(loaded, classes, size, channels, 0, any_size=True)
        elif network == "digits":
            loaded = load_keras_file(data_file("digit_classifier.keras"))
            logits = keras.Model(loaded.input, loaded.outputs[-1], name="classifier")
            classifier = cls(logits, tuple("0123456789"), 28, 1, 0, any_size=False)
        elif network == "run":
            classifier = _classifier_of_file(Path(weights))
        else:
            choices = ", ".join([*APPLICATIONS, "digits", "run", "a .keras file"])
            raise InputError(f"network must be one of {choices}, got {network!r}")
        classifier.network.trainable = False
        for variable in classifier.network.variables:
            if "seed_generator" in variable.path:  # dropout is inactive here, so any seed will do
                variable.assign(keras.ops.zeros_like(variable))
        return classifier

    @classmethod
    def of_run(cls, run: Run, name: str) -> Classifier:
        """Load NAME.keras from a run whose config has the fields `seed`, `size` and `channels`.

        Raises:
            InputError: the run has no such network, or the shapes of the network do not match the settings.
        """
        network = run.network(name, run.image_shape, (len(run.classes),))
        config, identity = run.config, _data_identity(run.folder)
        return cls(network, run.classes, config.size, config.channels, config.seed, False, run.data, identity)

    def caption(self, probabilities: np.ndarray) -> str:
        """Return a caption with the most probable class and its probability, given an image's class `probabilities`."""
        from common.runs.classification import found_caption

        return found_caption(probabilities, self.classes)

    def prediction(self, path: Path, probabilities: np.ndarray) -> str:
        """Return a line of text: the path, the most probable class, and its probability."""
        return f"{printable(path)}  {self.caption(probabilities)}"

    def number(self, name: str) -> int:
        """Return the index of a class, given its case-insensitive name or its index as text.

        Raises:
            InputError: there is no such class.
        """
        return class_number(name, self.classes)

    def test_images(self, data: str, sample: Sample, skip_bad: bool = False, fetch: bool = False) -> Split:
        """Return labelled images that the classifier was not trained on; see `common.runs.attacks.images_to_attack`."""
        from common.runs.attacks import images_to_attack

        return images_to_attack(data, self, sample, skip_bad=skip_bad, fetch=fetch)

    def image_to_attack(self, source: Path, destination: Path) -> np.ndarray:
        """Read an image. If the classifier has a fixed input size, centre-crop and resize the image to this size.

        Raises:
            InputError: `source` cannot be read, or the format of `destination` is lossy.
        """
        from common.runs.attacks import image_to_attack

        return image_to_attack(source, self, destination)

    def attack_image(
        self,
        attack: Callable[[np.ndarray, np.ndarray, int], np.ndarray],
        classify: Callable[[keras.Model, np.ndarray], np.ndarray],
        source: Path,
        destination: Path,
        levels: int,
        label: str = "",
    ) -> str:
        """Attack an image file and return two lines with the predictions; see `common.runs.attacks.attack_image`."""
        from common.runs.attacks import attack_image

        return attack_image(attack, functools.partial(classify, self.network), self, source, levels, label, destination)


def _classifier_of_file(path: Path) -> Classifier:
    network = load_network(path.parent, path.stem)
    inputs, outputs, classes = network.input_shape, network.output_shape, stored_classes(stored_run(path.parent))
    square = len(inputs) == 4 and inputs[1] == inputs[2] and inputs[1] and inputs[3] in (1, 3)
    if not square or tuple(outputs) != (None, len(classes)):
        raise InputError(
            f"{path}: expected a classifier of square images with {len(classes)} classes, got input shape {inputs} and "
            f"output shape {outputs}"
        )
    _, _, size, channels = inputs
    return Classifier(network, classes, size, channels, 0, False, read_data(path.parent), _data_identity(path.parent))


def imagenet_classifier(network: str, weights: str, fetch: bool = False) -> Classifier:
    """Return a keras.applications classifier with weights. It accepts images of any size and resizes them.

    Raises:
        InputError: the weights or the class names are not on this machine.
    """
    application = APPLICATIONS[network]
    shape = (application.size, application.size, 3)
    make = functools.partial(getattr(keras.applications, network), input_shape=shape, classifier_activation=None)
    loaded = make(weights=None)
    classes = imagenet_classes(weights, fetch)
    load_pretrained(loaded, weights, application.file, functools.partial(make, weights="imagenet"), fetch)
    images = keras.Input((None, None, 3), name="images")
    # With antialiasing, every pixel has a gradient. Without it, most pixels of a large photo would have none.
    x = keras.ops.image.resize(images, shape[:2], antialias=True)
    x = caffe_images(x) if application.caffe else x
    logits = keras.Model(images, loaded(x), name="classifier")
    return Classifier(logits, classes, application.size, 3, 0, any_size=True)


def frozen_features(
    network: str, weights: str, layers: Sequence[str], fetch: bool = False, size: int = 0
) -> keras.Model:
    """Return a frozen network that maps images [n, height, width, 3] in [-1, 1] to feature maps of the given layers.

    Args:
        network: `embedded` for the bundled network, the name of a keras.applications network, or `file` for any Keras
            model.
        weights: for a keras.applications network, `imagenet`, `random` or a weights file; for `file`, a .keras file.
        layers: layer names as text, "NAME,NAME" or, with weights, "NAME=WEIGHT,NAME=WEIGHT" (see `layer_weights`).
            The network returns the feature maps in this order.
        fetch: allow Keras to download the weights.
        size: an image size in pixels that the network must support; 0: not checked.

    Raises:
        InputError: the network, the file or a layer does not exist, or images of `size` are too small.
    """
    names = [name for text in layers for name in layer_weights(text)]
    if network == "embedded" and weights:
        raise InputError(f"--weights {weights} needs --network; choose from {', '.join(APPLICATIONS)}, file")
    if network in APPLICATIONS and not weights:
        raise InputError(f"{network} needs --weights: imagenet or a weights file for this network")
    if network in APPLICATIONS:
        application = APPLICATIONS[network]
        network_of = getattr(keras.applications, network)
        side = application.size if network in BUILT_AT_SIZE else None
        found = network_of(include_top=False, input_shape=(side, side, 3), weights=None)
        top = "_notop" if network in ("InceptionV3", "ResNet50", "VGG19") else "_no_top"
        file = application.file.removesuffix(".h5") + f"{top}.h5"
        imagenet = functools.partial(network_of, include_top=False, weights="imagenet")
        load_pretrained(found, weights, file, imagenet, fetch)
    elif network in ("embedded", "file"):
        path = data_file("canvas_network.keras") if network == "embedded" else Path(weights)
        if path.suffix != ".keras":
            raise InputError(f"--weights {weights}: expected a .keras file, which contains a network with its weights")
        found = load_network(path.parent, path.stem)
        if [tuple(each.shape)[3:] for each in found.inputs] != [(3,)]:
            raise InputError(
                f"{path}: the network must accept colour images, but its input shape is {found.input_shape}"
            )
    else:
        choices = ", ".join(["embedded", *APPLICATIONS, "file"])
        raise InputError(f"network must be one of {choices}, got {network!r}")
    maps = {layer.name: layer.output for layer in found.layers if len(getattr(layer.output, "shape", ())) == 4}
    for name in names:
        if name not in maps:
            raise InputError(
                f"{name!r} is not a layer of {network} that outputs feature maps; choose from {', '.join(maps)}"
            )
    seen = keras.Model(found.inputs[0], [maps[name] for name in names])
    if found.inputs[0].shape[1:3] != (None, None):
        seen = rebuilt_for_any_size(seen, weights if network == "file" else network)
    images = keras.Input((None, None, 3), name="images")
    x = caffe_images(images) if network in APPLICATIONS and APPLICATIONS[network].caffe else images
    if network in BUILT_AT_SIZE:  # its branches only have the same size for images whose sides are multiples of 32
        x = keras.ops.depth_to_space(keras.ops.image.extract_patches(x, 32, padding="same"), 32)  # pads with zeros
    features = keras.Model(images, seen(x), name="features")
    features.trainable = False
    if size and size < (smallest := smallest_side(features)):
        raise InputError(
            f"images of {size} px are too small for this network; it needs at least {smallest} px per side"
        )
    return features


def rebuilt_for_any_size(network: keras.Model, name: str) -> keras.Model:
    """Return a copy, for images of any size, of a network with a fixed input size. It has the same weights.

    Raises:
        InputError: a layer needs the fixed size.
    """
    height, width = network.inputs[0].shape[1:3]
    try:
        images = keras.Input((None, None, 3), name="images")
        copy = keras.models.clone_model(network, input_tensors=images)
        copy.set_weights(network.get_weights())
        for shape in ((1, height, width, 3), (1, 2 * height, 2 * width, 3)):
            copy.compute_output_shape(shape)
    except Exception as error:  # layers raise many kinds of exceptions
        raise InputError(
            f"{name}: a layer works only for images of {height}x{width} px ({first_line(error)}); choose earlier "
            "--layers, or a network for images of any size"
        ) from None
    return copy


def imagenet_classes(weights: str, fetch: bool = False) -> tuple[str, ...]:
    """Return the names of ImageNet's 1,000 classes, from the folder of the weights file or from Keras's cache.

    Raises:
        InputError: the class-name file is damaged, or it is in neither folder and `fetch` is False.
    """
    cached = Path(os.environ.get("KERAS_HOME", home_folder() / ".keras")) / "models" / CLASS_INDEX
    paths = [cached] if weights == "imagenet" else [Path(weights).parent / CLASS_INDEX, cached]
    path = next((path for path in paths if path.is_file()), None)
    if path is None and not fetch:
        tried = " or ".join(map(str, paths))
        raise InputError(f"ImageNet's class names are not on this machine ({tried}): add --fetch")
    try:
        if path is None:
            path = Path(keras.utils.get_file(CLASS_INDEX, CLASS_INDEX_URL, cache_subdir="models"))
        names = json.loads(path.read_text(encoding="utf-8"))
        return tuple(names[str(number)][1].replace("_", " ") for number in range(1000))
    except Exception as error:  # a failed download raises a plain Exception, a damaged file any exception
        advice = f"put the file at {path or cached}"
        raise InputError(f"cannot read ImageNet's class names ({first_line(error, 150)}): {advice}") from None


def load_pretrained(
    network: keras.Model, weights: str, file: str, imagenet: Callable[[], keras.Model], fetch: bool = False
) -> None:
    """Load weights into `network` in place.

    Args:
        network: a network of `keras.applications`, of any input size.
        weights: `imagenet` for Keras's own weights; a weights file for this network (.weights.h5, with or without the
            classifier layers); or `random`, which keeps the current weights. A run that begins with the weights of
            another run (`warm_start`) keeps them, too.
        file: the file name of Keras's own weights, to check whether they are on this machine.
        imagenet: a function that builds the network with Keras's own weights, and downloads the weights if necessary.
        fetch: allow the download.

    Raises:
        InputError: the weights file does not exist, does not match the network, or cannot be downloaded.
    """
    if weights == "random" or active_start() is not None:
        return
    if weights == "imagenet":
        cached = Path(os.environ.get("KERAS_HOME", home_folder() / ".keras")) / "models" / file
        if not fetch and not cached.exists():
            raise InputError(f"the imagenet weights are not on this machine ({cached}): add --fetch or --weights FILE")
        try:
            network.set_weights(imagenet().get_weights())
        except Exception as error:  # Keras raises a plain Exception if a download fails
            raise InputError(
                f"cannot load the imagenet weights ({first_line(error, 150)}): put them at {cached}"
            ) from None
        return
    path = Path(weights)
    if not path.is_file():
        raise InputError(f"{weights}: there is no such file; give a weights file, imagenet, or random")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras warns about every layer that is missing from the file
            network.load_weights(path)
    except Exception as error:  # a damaged file, or a file for another network, may raise any exception
        raise InputError(f"{weights}: not a weights file for {network.name} ({first_line(error)})") from None


def _data_identity(run: Path) -> dict[str, Any]:
    """Return the fingerprint of a run's data files (see `identities`); empty for built-in data."""
    return kept_identities(stored_run(run)).get("data", {})
