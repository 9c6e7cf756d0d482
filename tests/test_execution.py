from __future__ import annotations

import subprocess
import threading
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from common.data.batches import batches
from common.system import cluster
from common.system.cluster import all_devices
from common.training import Execution, Noise, adam, executing, fit, precision
from common.training.execution import active_execution
from recipes import pix2pix
from tests.forked import forked_python
from tests.test_contract import STEPPED, load, tiny


def adam_by_hand(weights, gradients, rate, beta_1, beta_2=0.999, epsilon=1e-7, decay=0.0):
    """Kingma & Ba, arXiv:1412.6980, the end of section 2; Loshchilov & Hutter, arXiv:1711.05101, algorithm 2."""
    mean, square = np.zeros_like(weights), np.zeros_like(weights)
    for number, gradient in enumerate(gradients, 1):
        weights = weights - rate * decay * weights
        mean = beta_1 * mean + (1 - beta_1) * gradient
        square = beta_2 * square + (1 - beta_2) * gradient**2
        step = rate * np.sqrt(1 - beta_2**number) / (1 - beta_1**number)
        weights = weights - step * mean / (np.sqrt(square) + epsilon)
    return weights


@pytest.mark.parametrize("decay", [None, 0.1])
@pytest.mark.parametrize("beta_1", [0.5, 0.9])
def test_adam_is_that_of_the_paper(beta_1, decay):
    random = np.random.default_rng(0)
    start, gradients = random.normal(size=(3, 2)), random.normal(size=(5, 3, 2))
    variable = keras.Variable(start.astype(np.float32))
    optimizer = adam(0.1, [variable], beta_1, decay)
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient, tf.float32)], [variable])
    expected = adam_by_hand(start, gradients, 0.1, beta_1, decay=decay or 0.0)
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_optimizers_are_not_numbered_since_the_order_of_their_names_changes_how_sums_round(precision):
    weights = [keras.Variable(np.ones(3, np.float32))]
    with executing(Execution(precision=precision)):
        made = [adam(0.1, weights) for _ in range(2)]
    assert {getattr(optimizer, "inner_optimizer", optimizer).name for optimizer in made} == {"adam"}


def test_a_loss_is_scaled_in_float16_alone_and_a_step_with_infinite_gradients_is_left_out():
    variable, one = keras.Variable(np.ones(2, np.float32)), tf.ones([])
    assert adam(0.1, [variable]).scale_loss(one) is one
    with executing(Execution(precision="mixed_float16")):
        optimizer = adam(0.1, [variable])
    scale = float(optimizer.scale_loss(one))
    assert scale > 1000
    optimizer.apply([tf.constant([np.inf, 1.0])], [variable])
    assert variable.numpy().tolist() == [1, 1] and float(optimizer.scale_loss(one)) == scale / 2
    with tf.GradientTape() as tape:
        scaled = optimizer.scale_loss(tf.reduce_sum(variable.value**2))
    (gradient,) = tape.gradient(scaled, [variable.value])
    assert gradient.numpy().tolist() == [scale, scale]  # 2 w, times half the scale
    optimizer.apply([gradient], [variable])
    np.testing.assert_allclose(variable.numpy(), adam_by_hand(np.ones(2), [np.full(2, 2.0)], 0.1, 0.9), rtol=1e-6)


def leaves(network: keras.Model) -> list[keras.layers.Layer]:
    """The layers of a network, and in place of a network within it the layers of that."""
    nested = [leaves(layer) if isinstance(layer, keras.Model) else [layer] for layer in network.layers]
    return [layer for layers in nested for layer in layers]


@pytest.mark.parametrize("name", STEPPED)
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_networks_compute_in_16_bits_and_end_in_float32(name, precision):
    with executing(Execution(precision=precision)):
        networks = load(name).build(tiny(load(name), name))
    assert keras.config.dtype_policy().name == "float32"
    within = set()
    for network in networks:
        assert {variable.dtype for variable in network.trainable_variables} <= {"float32"}
        if name != "mobilenet" or network is not networks.features:  # its end is inside
            assert {tensor.dtype for tensor in tf.nest.flatten(network.outputs)} == {"float32"}, network.name
        within |= {layer.compute_dtype for layer in leaves(network) if layer.weights}
    assert precision.removeprefix("mixed_") in within


def policy() -> str:
    return keras.config.dtype_policy().name


def test_the_policy_is_restored_where_building_fails():
    with pytest.raises(ValueError, match="mixed_bfloat16"), executing(Execution(precision="mixed_bfloat16")):
        raise ValueError(policy())
    assert policy() == "float32"


def test_blocks_within_blocks_have_their_own_execution():
    halves, others = Execution(precision="mixed_bfloat16", xla=True), Execution(precision="mixed_float16")
    with executing(halves):
        with executing(Execution()):
            assert (policy(), active_execution()) == ("float32", Execution())
            with executing(others):
                assert (policy(), active_execution()) == ("mixed_float16", others)
            assert (policy(), active_execution()) == ("float32", Execution())
        assert (policy(), active_execution()) == ("mixed_bfloat16", halves)
    assert (policy(), active_execution()) == ("float32", Execution())


def test_a_thread_has_its_own_execution():
    found = []

    def look() -> None:
        found.append((policy(), active_execution()))
        with executing(Execution(steps_per_call=3)):
            found.append((policy(), active_execution()))

    with executing(Execution(precision="mixed_bfloat16", steps_per_call=2)):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert active_execution().steps_per_call == 2
    assert found == [("float32", Execution()), ("float32", Execution(steps_per_call=3))]


def test_a_policy_that_the_program_set_itself_stays_and_is_known():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert active_execution() == Execution(precision="mixed_bfloat16")
        with executing(Execution(xla=True)):
            assert policy() == "mixed_bfloat16"
        keras.config.set_dtype_policy("float64")
        assert active_execution() == Execution()
    finally:
        keras.config.set_dtype_policy("float32")


def test_a_training_without_a_gradient_for_a_variable_goes_on():
    used, unused = keras.Variable(np.ones(2, np.float32)), keras.Variable(np.ones(2, np.float32))
    for name in ("float32", "mixed_float16"):
        with executing(Execution(precision=name)):
            optimizer = adam(0.1, [used, unused])
        with pytest.warns(UserWarning, match="Gradients do not exist"):
            optimizer.apply([tf.ones(2), None], [used, unused])
    assert used.numpy()[0] < 1 and unused.numpy().tolist() == [1, 1]


def regression(execution: Execution, epochs: int = 3) -> tuple[list, list]:
    with executing(execution):
        return _regression(epochs)


def _regression(epochs: int) -> tuple[list, list]:
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(1, kernel_initializer="zeros")(inputs))
    optimizer = adam(0.05, model.trainable_variables)
    noise = Noise(5)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x + 0.01 * noise.normal(tf.shape(x)), training=True) - y) ** 2)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return {"loss": loss}

    x = np.random.default_rng(1).normal(size=(44, 3)).astype(np.float32)
    data = batches((x, x @ np.array([[1.0], [-2.0], [0.5]], np.float32)), 4, seed=3)
    history = fit(step, data, epochs, {"model": model, "optimizer": optimizer, "noise": noise})
    return [row["loss"] for row in history], model.get_weights()


@pytest.mark.parametrize("steps", [2, 4, 100, 0])
def test_no_number_depends_on_how_many_steps_a_call_does(steps):
    losses, weights = regression(Execution(steps_per_call=1))
    others, their_weights = regression(Execution(steps_per_call=steps))
    assert losses == others
    for one, other in zip(weights, their_weights, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_compiled_step_learns_as_one_that_is_not():
    losses, _ = regression(Execution())
    compiled, _ = regression(Execution(xla=True))
    np.testing.assert_allclose(compiled, losses, rtol=0.02)  # XLA draws other noise
    assert compiled != losses


class Device:
    def __init__(self, number: int):
        self.name = f"/physical_device:GPU:{number}"


@pytest.mark.parametrize(("batch", "used"), [(1, 1), (4, 4), (6, 3), (8, 4)])
def test_as_many_gpus_are_used_as_share_a_batch_evenly(batch, used, monkeypatch, capsys):
    joined = []

    class Mirrored:
        def __init__(self, devices):
            joined.extend(devices)

        def scope(self):
            return tf.name_scope("within")

    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [Device(number) for number in range(4)])
    monkeypatch.setattr(cluster.tf.distribute, "MirroredStrategy", Mirrored)
    with all_devices(batch):
        pass
    assert joined == [f"GPU:{number}" for number in range(used)]
    said = capsys.readouterr().err
    assert (f"training on {used} of 4 GPUs" in said and f"--batch-size {batch * 4}" in said) == (used < 4)


REPLICAS = """
import sys
import numpy as np
import tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from common.data.batches import batches
from common.system.files import InputError
from common.training import Execution, executing
from recipes import dcgan_faces, pix2pix
images = np.random.default_rng(0).integers(0, 256, (2, 16, 32, 32, 3), np.uint8)
both = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

def losses(recipe, strategy, items, batch_size, execution=Execution(), **settings):
    config = recipe.Config(size=32, base_filters=4, batch_size=batch_size, epochs=2, **settings)
    held_out = tuple(part[:2] for part in images[:1 if recipe is dcgan_faces else 2])
    data = items if isinstance(items, tf.data.Dataset) else batches(items, batch_size, 0, held_out=held_out)
    with executing(execution), strategy.scope():
        history = recipe.train(recipe.build(config), data, config)
    left_out = {name for name in history[0] if "second" in name or "validation" in name}  # of 8-bit images: too coarse
    return [[row[name] for name in row if name not in left_out] for row in history]

one = tf.distribute.get_strategy()
faces = [losses(dcgan_faces, each, images[0], 4, synchronized=True) for each in (one, both)]
np.testing.assert_allclose(*faces, rtol=1e-5)
halves = Execution(precision="mixed_float16")  # whose first steps have infinite gradients on one of both
pairs = [losses(pix2pix, each, tuple(images), 4, halves, dropout=0.0) for each in (one, both)]
np.testing.assert_allclose(*pairs, rtol=1e-3)
dataset = tf.data.Dataset.from_tensor_slices(tuple(images[:, :14]))  # three batches of 4, and two more examples
pairs = [losses(pix2pix, each, dataset.batch(4, drop_remainder=True), 4, dropout=0.0) for each in (one, both)]
np.testing.assert_allclose(*pairs, rtol=1e-5)
for wrong in (tuple(images), dataset.batch(4)):
    try:
        losses(pix2pix, both, wrong, 3)
    except InputError as error:
        print(error)
"""


@pytest.mark.slow
def test_two_devices_train_as_one_does():
    done = subprocess.run([*forked_python(), "-c", REPLICAS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "a batch of 3 cannot be split evenly between 2 devices; --batch-size must be a multiple of 2" in done.stdout
    assert "2 devices need batches of a fixed size" in done.stdout


def test_settings_of_the_execution_are_flags_and_stand_in_the_runs_settings(tmp_path):
    from common.runs.run import Run, read_execution, settings_of
    from common.system.files import InputError

    config, execution = pix2pix.Config(), Execution(precision="mixed_bfloat16", xla=True, steps_per_call=7)
    with executing(execution):
        assert settings_of(config)["precision"] == "mixed_bfloat16" and "execution" not in settings_of(config)
        Run(tmp_path, "pix2pix", config, "sample").start()
    assert Run.load(tmp_path, "pix2pix", pix2pix.Config).config == config
    assert read_execution(tmp_path) == execution
    (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    with executing(replace(execution, steps_per_call=1)):
        Run(tmp_path, "pix2pix", config, "sample")
    with pytest.raises(InputError, match="precision 'mixed_bfloat16', not 'float32'"):
        Run(tmp_path, "pix2pix", config, "sample")


def test_scores_are_computed_as_the_run_is(tmp_path, monkeypatch):
    """Of several devices the chief evaluates in a thread of its own, which would have another dtype policy."""
    from common.runs.run import Run

    execution = Execution(precision="mixed_bfloat16", steps_per_call=7)
    networks = pix2pix.Networks(*[keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])] * 2)
    for several in (False, True):
        monkeypatch.setattr(cluster.tf.distribute, "has_strategy", lambda several=several: several)
        found = []
        with executing(execution):
            run = Run(tmp_path, "pix2pix", pix2pix.Config(), "sample")
            run.finish(networks, lambda found=found: found.append((policy(), active_execution())) or {"l1": 1.0})
        assert found == [("mixed_bfloat16", execution)]


@pytest.mark.usefixtures("untraced")
def test_a_step_is_timed_in_each_precision_and_both_train_the_same_network(monkeypatch):
    monkeypatch.setattr(precision, "ROUNDS", 1)
    times = precision.step_times(["float32", "mixed_bfloat16"])
    assert [*times] == ["float32", "mixed_bfloat16"] and all(0 < seconds < 600 for seconds in times.values())
    exact, rounded = (precision._training_step(name)() for name in times)
    assert len(exact) == len(rounded) == 24 and all(part.dtype == np.float32 for part in rounded)
    assert keras.config.dtype_policy().name == "float32"


def test_a_gain_that_is_hardly_one_is_not_worth_sixteen_bits(monkeypatch):
    monkeypatch.setattr(precision, "step_times", lambda names: dict(zip(names, (1.0, 0.95), strict=True)))
    with executing(Execution(precision="auto")):
        assert active_execution().precision == "float32" == keras.config.dtype_policy().name
    monkeypatch.setattr(precision, "step_times", lambda names: dict(zip(names, (1.0, 0.5), strict=True)))
    with executing(Execution(precision="auto")):
        assert active_execution().precision == "mixed_bfloat16" == keras.config.dtype_policy().name
