"""Warm start: a new run whose networks begin with the weights of another run of the same recipe."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np

from common.runs.bundled import run_or_bundle
from common.runs.flag_groups import field_groups
from common.runs.run import has_saves, old_network_names, run_settings, stored_classes, stored_run, with_new_names
from common.system.cluster import is_chief
from common.system.console import say
from common.system.files import InputError, first_line
from common.system.initial import starting
from common.system.keras_files import load_keras_file
from common.system.lazy import keras, tf
from common.system.options import field_hints
from common.training.prediction import shown_shape
from common.training.saves import checkpoint_folders, readable_checkpoint

FROM_HELP = (
    "run of this recipe whose weights the new run in --output-dir begins with, finished or not, or data/bundled/NAME; "
    "options that are not given are those of that run; the optimizer starts new"
)
SHAPES = ("size", "channels", "latent_dim")  # options that networks depend on, wherever a recipe reads them


@contextmanager
def warm_start(source: Path | str, recipe: str) -> Iterator[None]:
    """Let the next run that is created in the block begin with the weights of the run in `source`.

    For example:

        with warm_start("runs/faces", "pix2pix"):
            pix2pix.run("photos", config, "runs/mine")

    The networks that `source` contains are loaded, with the statistics of batch normalisation. Other networks, the
    optimizers and the random numbers start new. If the run already has checkpoints, it resumes from them instead.

    Args:
        source: a run folder, finished or with checkpoints, or a folder of bundled networks.
        recipe: the recipe's name.

    Raises:
        InputError: there is no such run, it belongs to another recipe, it contains no networks, a network has weights
            of other shapes, or the run that is resumed began with another one.
    """
    with starting(WarmStart(Path(source), recipe)):
        yield


def resumed_start(folder: Path | None, recipe: str) -> Any:
    """Return a context in which the run in `folder` continues as it began: with `warm_start` if it used that."""
    if folder is None or not (folder / "config.json").is_file():
        return nullcontext()
    origin = stored_origin(folder)
    return warm_start(origin["run"], recipe) if origin else nullcontext()


def stored_origin(folder: Path) -> dict[str, str]:
    """Return the entry `from` of a run's config.json: the `run` and its `sha256`. {} if it used no other run."""
    origin = stored_run(folder).get("from")
    return origin if isinstance(origin, dict) and isinstance(origin.get("run"), str) else {}


class WarmStart:
    """Loads the networks of another run into those of a new run. See `common.system.initial.Start`."""

    def __init__(self, source: Path, recipe: str) -> None:
        """Take note of `source`. It is read when the new run is created, because a resumed run does not need it."""
        self.source, self.recipe = source, recipe
        self.folder: Path | None = None  # the new run
        self.config: Any = None
        self.record: dict[str, str] = {}
        self.classes = (0, 0)  # of `source` and of the new run
        self.resumed = self.loaded = self.was_there = False
        self.stored: StoredNetworks | None = None

    def begin(self, folder: Path, config: Any) -> None:
        """Check `source`, or that the run in `folder` began with it. Later runs in the same block are not changed."""
        if self.folder is not None:
            return
        self.folder, self.config, self.was_there = folder, config, (folder / "config.json").exists()
        self.resumed = has_saves(folder)
        if self.resumed:
            self.record = self._checked_origin(folder)
            self.stored = StoredNetworks(folder, own=True)
            return
        self.source = run_or_bundle(self.source, self.recipe)
        if self.source.resolve() == folder.resolve():
            raise InputError(f"{folder}: is the run itself; to resume it, omit --from")
        self.classes = len(stored_classes(run_settings(self.source, self.recipe))), 0
        self.stored = StoredNetworks(self.source)
        self.record = {"run": str(self.source.resolve()), "sha256": self.stored.sha256()}

    def _checked_origin(self, folder: Path) -> dict[str, str]:
        origin = stored_origin(folder)
        if not origin:
            raise InputError(
                f"{folder}: this run did not begin with another run; to resume it, omit --from; for a new run, choose "
                "another --output-dir"
            )
        if str(self.source.resolve()) != origin["run"]:
            try:
                moved = StoredNetworks(self.source).sha256() == origin.get("sha256")
            except InputError:
                moved = False
            if not moved:
                raise InputError(
                    f"{folder}: this run began with {origin['run']}, not with {self.source}; to resume it, omit "
                    "--from; for a new run, choose another --output-dir"
                )
        return origin

    def origin(self, folder: Path, classes: int) -> dict[str, str]:
        """Return what `config.json` of the run in `folder` says about its start, or {}."""
        if folder != self.folder:
            return {}
        self.classes = self.classes[0], classes
        return self.record

    def load(self, state: Mapping[str, object], output_dir: Path | str | None) -> None:
        """Set the weights of the networks in `state`, once, if they are those of the run in `output_dir`."""
        mine = output_dir is not None and Path(output_dir) in (self.folder, Path(self.folder or "", "head"))
        if self.resumed or self.loaded or not mine or self.stored is None:
            return
        try:
            self._load(self.stored, {name: part for name, part in state.items() if isinstance(part, keras.Model)})
        except InputError:
            if not self.was_there and is_chief():  # a run with these options cannot begin
                Path(self.folder or "", "config.json").unlink(missing_ok=True)
            raise
        self.loaded = True

    def load_frozen(self, name: str, network: Any) -> None:
        """Set the weights of a network that is used before training begins.

        A resumed run takes them from its own first stage, where they do not change.
        """
        if self.stored is not None:
            self._set(self.stored, name, network)

    def _more_classes(self) -> int:
        return self.classes[0] - self.classes[1] if all(self.classes) else 0

    def _load(self, stored: StoredNetworks, networks: dict[str, keras.Model]) -> None:
        networks = {name: network for name, network in networks.items() if network.trainable_weights}
        said, missing = [], []
        for name, network in networks.items():
            there, here = self.classes
            match self._set(stored, name, network):
                case "missing":
                    missing.append(name)
                case "all":
                    said.append(name)
                case "new head":
                    said.append(f"{name} without its last layer ({there} classes there, {here} here)")
        if not said:
            raise InputError(
                f"{self.source}: contains none of the networks {', '.join(networks)}; choose a run that has them"
            )
        for name in list(missing):
            if (twin := _twin(name, networks, missing)) is not None:
                networks[name].set_weights(networks[twin].get_weights())
                missing.remove(name)
                said.append(f"{name} (from {twin})")
        if is_chief():
            fresh = f"; {', '.join(missing)} start{'s' * (len(missing) == 1)} new" if missing else ""
            say(f"beginning with the weights of {self.source}: {', '.join(said)}{fresh}")

    def _set(self, stored: StoredNetworks, name: str, network: keras.Model) -> Literal["missing", "all", "new head"]:
        """Set the weights of a network, if it is stored, and return which were set.

        A last layer with another number of classes starts new.
        """
        try:
            found = stored.weights(name, network, self._more_classes())
        except Misfit as error:
            self._misfit(name, f"{error}")
        if found is None:
            return "missing"
        weights = network.weights
        head = _head(network) if self._more_classes() else set()
        if len(found) != len(weights):
            self._misfit(name, f"has {len(found)} weights, but the new run needs {len(weights)}")
        new = []
        for weight, value in zip(weights, found, strict=True):
            here, there = tuple(weight.shape), value.shape
            if here == there:
                continue
            more = there[-1] - here[-1] if here and len(here) == len(there) else 0
            if id(weight) not in head or here[:-1] != there[:-1] or more != self._more_classes():
                shapes = [shown_shape(shape) or "one number" for shape in (there, here)]
                self._misfit(name, f"{weight.path} has the shape {shapes[0]}, but the new run needs {shapes[1]}")
            new.append(id(weight))
        for weight, value in zip(weights, found, strict=True):
            if id(weight) not in new:
                weight.assign(value)
        return "new head" if new else "all"

    def _misfit(self, name: str, what: str) -> NoReturn:
        """Raise InputError, with the options that the networks depend on and that differ."""
        stored, kind = stored_run(self.source)["config"], type(self.config)
        stored = with_new_names(self.recipe, stored, field_hints(kind))
        shaping = [*SHAPES, *(field for field, group in field_groups(kind).items() if group == "network")]
        differing = [
            f"--{field.replace('_', '-')} {stored[field]} (not {getattr(self.config, field)})"
            for field in dict.fromkeys(shaping)
            if hasattr(self.config, field) and field in stored and stored[field] != getattr(self.config, field)
        ]
        right = f"it was trained with {', '.join(differing)}" if differing else "its networks differ from the recipe's"
        raise InputError(f"{self.source}: {name}: {what}; {right}")


def _twin(name: str, networks: Mapping[str, keras.Model], missing: Sequence[str]) -> str | None:
    """Return the loaded network of which `name` is the EMA, or that is the EMA of `name`. None if there is none."""
    shapes = [tuple(weight.shape) for weight in networks[name].weights]
    for other, network in networks.items():
        if other not in missing and "ema" in (name, other) and [tuple(w.shape) for w in network.weights] == shapes:
            return other
    return None


def _head(network: keras.Model) -> set[int]:
    """Return the ids of the weights of the last layers: the dense layers that compute the outputs."""
    ends = [tensor._keras_history.operation for tensor in network.outputs]
    return {id(weight) for layer in ends if isinstance(layer, keras.layers.Dense) for weight in layer.weights}


class Misfit(Exception):
    """A checkpoint is damaged, or its networks have another structure."""


class StoredNetworks:
    """The networks in a run folder: the .keras files of a finished run, or else the newest readable checkpoint."""

    def __init__(self, folder: Path, own: bool = False) -> None:
        """Find the files. `own`: prefer the checkpoints of the first of two stages.

        Raises:
            InputError: the run has neither networks nor checkpoints.
        """
        self.folder = folder
        self.old_names = old_network_names(folder)
        self.files = [] if own else sorted(folder.glob("*.keras"))
        places = [folder / "head", folder] if own else [folder, folder / "head"]
        self.checkpoints = [each for place in places for each in checkpoint_folders(place)]
        if not self.files and not self.checkpoints:
            raise InputError(f"{folder}: has no networks and no checkpoints yet; choose a run that has been trained")

    def sha256(self) -> str:
        """Return the checksum of the files that `weights` reads: all networks, or the newest checkpoint."""
        digest = hashlib.sha256()
        for path in self.files or sorted(filter(Path.is_file, self.checkpoints[0].iterdir())):
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def weights(self, name: str, network: keras.Model, more_classes: int = 0) -> list[np.ndarray] | None:
        """Return the stored weights of a network, or None if it is not stored.

        Args:
            name: the name of the network in the run. Names of earlier versions are known.
            network: the network of the new run, whose structure is used to read a checkpoint.
            more_classes: by how many classes the stored network has more than `network`.

        Raises:
            InputError: a .keras file is damaged.
            Misfit: no checkpoint can be read into a network like `network`.
        """
        names = [name, self.old_names.get(name, name)]
        if self.files:
            paths = [self.folder / f"{each}.keras" for each in names]
            path = next((path for path in paths if path in self.files), None)
            return None if path is None else [np.asarray(weight) for weight in load_keras_file(path).weights]
        failure = ""
        for folder in self.checkpoints:
            try:
                return _from_checkpoint(folder, names, network, more_classes)
            except Exception as error:  # a damaged checkpoint, or one of another structure, can fail in many ways
                failure = failure or f"checkpoints/{folder.name} does not fit ({first_line(error)})"
        raise Misfit(failure)


def _from_checkpoint(
    folder: Path, names: Sequence[str], network: keras.Model, more_classes: int
) -> list[np.ndarray] | None:
    """Read the weights of a network from a checkpoint; None if it is not there."""
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    with readable_checkpoint(folder) as path:
        graph = TrackableObjectGraph.FromString(
            tf.train.load_checkpoint(path).get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")
        )
        stored = {child.local_name for child in graph.nodes[0].children}
        name = next((each for each in names if each in stored), None)
        if name is None:
            return None
        copy = _with_classes(network, more_classes)
        tf.train.Checkpoint(**{name: copy}).read(path).assert_existing_objects_matched().expect_partial()
        return [np.asarray(weight) for weight in copy.weights]


def _with_classes(network: keras.Model, more: int) -> keras.Model:
    """Return a copy of a network whose last layers have `more` more units, if it has such layers."""
    head = _head(network) if more else set()

    def copied(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if isinstance(layer, keras.layers.Dense) and head & {id(weight) for weight in layer.weights}:
            config["units"] += more
        return type(layer).from_config(config)

    return keras.models.clone_model(network, clone_function=copied)
