"""Networks of keras.applications with ImageNet's weights: as classifiers of pictures of any size, and their classes."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from common.errors import InputError, first_line
from common.files import data_file
from common.keras_files import load_keras_file
from common.lazy import keras
from common.pretrained import load_pretrained
from common.runs import image_shape, load_network, read_classes, read_data, read_identity, read_run


class Application(NamedTuple):
    """What there is to know of a network of keras.applications."""

    size: int  # pixels that its classifier was trained for
    caffe: bool  # takes BGR less the channels' means, as Caffe's networks do; or else RGB in [-1, 1]
    file: str  # of its weights, as Keras calls it


APPLICATIONS = {
    "InceptionV3": Application(299, False, "inception_v3_weights_tf_dim_ordering_tf_kernels.h5"),
    "MobileNetV2": Application(224, False, "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224.h5"),
    "NASNetMobile": Application(224, False, "nasnet_mobile.h5"),
    "ResNet50": Application(224, True, "resnet50_weights_tf_dim_ordering_tf_kernels.h5"),
    "VGG19": Application(224, True, "vgg19_weights_tf_dim_ordering_tf_kernels.h5"),
}
CAFFE_MEANS = (103.939, 116.779, 123.68)  # of ImageNet's blue, green and red
CLASS_INDEX = "imagenet_class_index.json"
CLASS_INDEX_URL = f"https://storage.googleapis.com/download.tensorflow.org/data/{CLASS_INDEX}"


ImageNetName = Literal["InceptionV3", "MobileNetV2", "NASNetMobile", "ResNet50", "VGG19"]


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A network that has learnt ImageNet, in place of a run's own."""

    network: ImageNetName = "MobileNetV2"
    weights: str = ""  # imagenet: Keras's own; or a file of weights for that network; without it the run's network
    fetch: bool = False  # Keras may download them


class Known(NamedTuple):
    """A classifier, and what must be known to use it."""

    classifier: keras.Model  # images [n, height, width, channels] in [-1, 1] -> logits [n, classes]
    classes: tuple[str, ...]  # their names
    size: int  # pixels a side that it was trained for
    channels: int  # 1 for grey, 3 for colour
    seed: int  # of the sample that it has learnt from; 0 where it has not
    any_size: bool  # it brings pictures to its size by itself
    data: str = "sample"  # the `--data` word that it has learnt from
    identity: Mapping[str, Any] = {}  # of those data, as `identities` gives it


def known_classifier(pretrained: Pretrained, run: Path, recipe: str, config_class: Any, name: str) -> Known:
    """Return the network that `pretrained` asks for, or else one of a run.

    Args:
        pretrained: with weights, a network that has learnt ImageNet.
        run: folder of a run, for when it has none.
        recipe: that the run must be of.
        config_class: of that recipe, with size, channels, outputs and seed.
        name: of the run's network.

    Raises:
        InputError: there is no such run, or the weights or names of the classes are not on this machine.
    """
    if pretrained.weights:
        return imagenet_classifier(pretrained)
    config, classes = read_run(run, recipe, config_class), read_classes(run)
    network = load_network(run, name, image_shape(config), (len(classes),))
    place = read_data(run), read_identity(run)
    return Known(network, classes, config.size, config.channels, config.seed, False, *place)


def frozen_classifier(network: str, weights: str, fetch: bool = False) -> Known:
    """Return a classifier that does not learn.

    Args:
        network: of keras.applications; or `digits`, the embedded one; or `run`, one that a recipe has trained.
        weights: `imagenet`, or a file of weights for that network; for `run` a .keras file in the run's folder.
        fetch: Keras may download what it keeps.

    Raises:
        InputError: there is no such network or file, or it is no classifier.
    """
    if network in APPLICATIONS:
        known = imagenet_classifier(Pretrained(network=cast(ImageNetName, network), weights=weights, fetch=fetch))
    elif network == "digits":
        loaded = load_keras_file(data_file("digit_classifier.keras"))
        classifier = keras.Model(loaded.input, loaded.outputs[-1], name="classifier")
        known = Known(classifier, tuple("0123456789"), 28, 1, 0, any_size=False)
    elif network == "run":
        path = Path(weights)
        trained = load_network(path.parent, path.stem)
        taken, given, classes = trained.input_shape, trained.output_shape, read_classes(path.parent)
        square = len(taken) == 4 and taken[1] == taken[2] and taken[1] and taken[3] in (1, 3)
        if not square or tuple(given) != (None, len(classes)):
            raise InputError(f"{weights}: takes {taken}, gives {given}; no classifier of {len(classes)} classes")
        _, _, size, channels = taken
        run = path.parent
        known = Known(trained, classes, size, channels, 0, False, read_data(run), read_identity(run))
    else:
        choices = ", ".join([*APPLICATIONS, "digits", "run"])
        raise InputError(f"network must be one of {choices}, got {network!r}")
    known.classifier.trainable = False
    for variable in known.classifier.variables:
        if "seed_generator" in variable.path:  # of dropout, which never acts here: let two of them be equal
            variable.assign(keras.ops.zeros_like(variable))
    return known


def imagenet_classifier(pretrained: Pretrained) -> Known:
    """Return a network with its weights, which brings pictures to its own size by itself.

    Raises:
        InputError: the weights, or the names of the classes, are not on this machine.
    """
    application = APPLICATIONS[pretrained.network]
    shape = (application.size, application.size, 3)
    network_of = getattr(keras.applications, pretrained.network)
    make = functools.partial(network_of, input_shape=shape, classifier_activation=None)
    network = make(weights=None)
    classes = imagenet_classes(pretrained)
    imagenet = functools.partial(make, weights="imagenet")
    load_pretrained(network, pretrained.weights, application.file, imagenet, pretrained.fetch)
    images = keras.Input((None, None, 3), name="images")
    # Pixels that lie between those that are read must count too, or most of a large photo could not be attacked.
    x = keras.ops.image.resize(images, shape[:2], antialias=True)
    x = caffe_images(x) if application.caffe else x
    return Known(keras.Model(images, network(x), name="classifier"), classes, application.size, 3, 0, any_size=True)


def frozen_features(network: str, weights: str, names: Sequence[str], fetch: bool = False) -> keras.Model:
    """Return a network that does not learn: images [n, height, width, 3] in [-1, 1] -> the maps of some of its layers.

    Args:
        network: `embedded`, the project's own; or one of keras.applications; or `file`, any Keras model.
        weights: `imagenet`, `random`, or a file of weights; for `file` a .keras file that takes such images.
        names: of its layers.
        fetch: Keras may download what it keeps.

    Raises:
        InputError: there is no such network, file or layer.
    """
    if network == "embedded" and weights:
        raise InputError(f"--weights {weights} needs --network: {', '.join(APPLICATIONS)}, or file")
    if network in APPLICATIONS and not weights:
        raise InputError(f"{network} needs --weights: imagenet, or a file of weights for it")
    if network in APPLICATIONS:
        application = APPLICATIONS[network]
        network_of = getattr(keras.applications, network)
        found = network_of(include_top=False, input_shape=(None, None, 3), weights=None)
        top = "_notop" if network in ("InceptionV3", "ResNet50", "VGG19") else "_no_top"
        file = application.file.removesuffix(".h5") + f"{top}.h5"
        imagenet = functools.partial(network_of, include_top=False, weights="imagenet")
        load_pretrained(found, weights, file, imagenet, fetch)
    elif network in ("embedded", "file"):
        path = data_file("canvas_network.keras") if network == "embedded" else Path(weights)
        if path.suffix != ".keras":
            raise InputError(f"--weights {weights}: expected a .keras file, which holds a whole network")
        found = load_network(path.parent, path.stem)
        if [tuple(each.shape) for each in found.inputs] != [(None, None, None, 3)]:
            raise InputError(f"{path}: does not take pictures in colour of any size, but {found.input_shape}")
    else:
        choices = ", ".join(["embedded", *APPLICATIONS, "file"])
        raise InputError(f"network must be one of {choices}, got {network!r}")
    maps = {layer.name: layer.output for layer in found.layers if len(getattr(layer.output, "shape", ())) == 4}
    for name in names:
        if name not in maps:
            raise InputError(f"{name!r} is no layer of {network} that gives maps; choose from {', '.join(maps)}")
    seen = keras.Model(found.inputs, [maps[name] for name in names])
    images = keras.Input((None, None, 3), name="images")
    caffe = network in APPLICATIONS and APPLICATIONS[network].caffe
    features = keras.Model(images, seen(caffe_images(images) if caffe else images), name="features")
    features.trainable = False
    return features


def caffe_images(images: keras.KerasTensor) -> keras.KerasTensor:
    """Return RGB in [-1, 1] as the networks want it that were trained with Caffe: BGR in 0..255 less the means."""
    return (keras.ops.flip(images, -1) + 1) * 127.5 - keras.ops.convert_to_tensor(CAFFE_MEANS)


def imagenet_classes(pretrained: Pretrained) -> tuple[str, ...]:
    """Return the names of ImageNet's 1,000 classes, from beside a file of weights or from where Keras keeps them.

    Raises:
        InputError: they are in neither place and may not be fetched, or the file is damaged.
    """
    kept = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models" / CLASS_INDEX
    places = [kept] if pretrained.weights == "imagenet" else [Path(pretrained.weights).parent / CLASS_INDEX, kept]
    place = next((place for place in places if place.is_file()), None)
    if place is None and not pretrained.fetch:
        where = " or ".join(map(str, places))
        raise InputError(f"the names of ImageNet's classes are not on this machine ({where}): add --fetch")
    try:
        if place is None:
            place = Path(keras.utils.get_file(CLASS_INDEX, CLASS_INDEX_URL, cache_subdir="models"))
        names = json.loads(place.read_text(encoding="utf-8"))
        return tuple(names[str(number)][1].replace("_", " ") for number in range(1000))
    except Exception as error:  # Keras raises a plain Exception where a download fails; a damaged file fails anyhow
        line = f"the names of ImageNet's classes cannot be had ({first_line(error, 150)}): put them at {place or kept}"
        raise InputError(line) from None
