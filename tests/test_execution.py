from __future__ import annotations

import subprocess
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from common import cluster
from common.batches import batches
from common.cluster import all_devices
from common.execution import Execution, adam, draw_part, in_precision, loss_scale
from common.training import fit, share
from recipes import mlp
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
    optimizer = adam(0.1, [variable], Execution(), beta_1, decay)
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient, tf.float32)], [variable])
    expected = adam_by_hand(start, gradients, 0.1, beta_1, decay=decay or 0.0)
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_optimizers_are_not_numbered_since_the_order_of_their_names_changes_how_sums_round(precision):
    weights = [keras.Variable(np.ones(3, np.float32))]
    made = [adam(0.1, weights, Execution(precision=precision)) for _ in range(2)]
    assert {getattr(optimizer, "inner_optimizer", optimizer).name for optimizer in made} == {"adam"}


def test_a_loss_is_scaled_in_float16_alone_and_a_step_with_infinite_gradients_is_left_out():
    variable = keras.Variable(np.ones(2, np.float32))
    assert float(loss_scale(adam(0.1, [variable], Execution()))) == 1
    optimizer = adam(0.1, [variable], Execution(precision="mixed_float16"))
    scale = float(loss_scale(optimizer))
    assert scale > 1000
    optimizer.apply([tf.constant([np.inf, 1.0])], [variable])
    assert variable.numpy().tolist() == [1, 1] and float(loss_scale(optimizer)) == scale / 2
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(variable.value**2)
    (gradient,) = tape.gradient(loss, [variable.value], loss_scale(optimizer))
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
    networks = load(name).build(tiny(load(name), name, execution=Execution(precision=precision)))
    assert keras.config.dtype_policy().name == "float32"
    within = set()
    for network in networks:
        assert {variable.dtype for variable in network.trainable_variables} <= {"float32"}
        if name != "mobilenet" or network is not networks.features:  # its end is inside
            assert {tensor.dtype for tensor in tf.nest.flatten(network.outputs)} == {"float32"}, network.name
        within |= {layer.compute_dtype for layer in leaves(network) if layer.weights}
    assert precision.removeprefix("mixed_") in within


def test_the_policy_is_restored_where_building_fails():
    @in_precision
    def build(config):
        raise ValueError(keras.config.dtype_policy().name)

    with pytest.raises(ValueError, match="mixed_bfloat16"):
        build(mlp.Config(execution=Execution(precision="mixed_bfloat16")))
    assert keras.config.dtype_policy().name == "float32"


def regression(execution: Execution, epochs: int = 3) -> tuple[list, list]:
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(1, kernel_initializer="zeros")(inputs))
    optimizer = adam(0.05, model.trainable_variables, execution)
    noise = keras.random.SeedGenerator(5)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            drawn = draw_part(keras.random.normal, tf.shape(x), seed=noise)
            loss = share(tf.reduce_mean((model(x + 0.01 * drawn, training=True) - y) ** 2))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return {"loss": loss}

    x = np.random.default_rng(1).normal(size=(44, 3)).astype(np.float32)
    data = batches((x, x @ np.array([[1.0], [-2.0], [0.5]], np.float32)), 4, seed=3)
    history = fit(step, data, epochs, {"model": model, "optimizer": optimizer, "noise": noise}, execution=execution)
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
from common.batches import batches
from common.errors import InputError
from common.execution import Execution
from recipes import dcgan_faces, pix2pix
pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 32, 32, 3), np.uint8)
both = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

def losses(recipe, strategy, items, batch_size, **settings):
    config = recipe.Config(size=32, base_filters=4, batch_size=batch_size, epochs=2, **settings)
    held_out = tuple(part[:2] for part in pictures[:1 if recipe is dcgan_faces else 2])
    with strategy.scope():
        history = recipe.train(recipe.build(config), batches(items, batch_size, 0, held_out=held_out), config)
    return [[value for name, value in row.items() if "second" not in name] for row in history]

one = tf.distribute.get_strategy()
faces = [losses(dcgan_faces, each, pictures[0], 4, execution=Execution(synchronized=True)) for each in (one, both)]
np.testing.assert_allclose(*faces, rtol=1e-5)
halves = Execution(precision="mixed_float16")  # whose first steps have infinite gradients on one of both
pairs = [losses(pix2pix, each, tuple(pictures), 4, dropout=0.0, execution=halves) for each in (one, both)]
np.testing.assert_allclose(*pairs, rtol=1e-3)
try:
    losses(pix2pix, both, tuple(pictures), 3)
except InputError as error:
    print(error)
"""


@pytest.mark.slow
def test_two_devices_train_as_one_does():
    done = subprocess.run([*forked_python(), "-c", REPLICAS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "a batch of 3 cannot be shared evenly by 2 devices; give --batch-size a multiple of 2" in done.stdout


def test_settings_of_the_execution_are_flags_and_stand_in_the_runs_settings(tmp_path):
    from common.errors import InputError
    from common.runs import check_run, read_run, settings_of, start_run

    config = mlp.Config(execution=Execution(precision="mixed_bfloat16", xla=True, steps_per_call=7))
    assert settings_of(config)["precision"] == "mixed_bfloat16" and "execution" not in settings_of(config)
    start_run(tmp_path, "mlp", config, "sample")
    assert read_run(tmp_path, "mlp", mlp.Config) == config
    (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    check_run(tmp_path, "mlp", replace(config, execution=replace(config.execution, steps_per_call=1)), "sample")
    with pytest.raises(InputError, match="precision 'mixed_bfloat16', not 'float32'"):
        check_run(tmp_path, "mlp", mlp.Config(), "sample")
