from __future__ import annotations

import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from common.data import Batches, Domains
from common.data.batches import batches
from common.images import from_uint8, read_image
from common.images.writing import write_image
from common.runs import Run
from common.system.options import check_value, range_checks
from common.training import Noise, fit
from recipes import cyclegan
from recipes.cyclegan import (
    Config,
    ImagePool,
    LinearDecay,
    Networks,
    adversarial_loss,
    build,
    exchange,
    l1_loss,
    train,
    translate,
    translate_batch,
    translate_files,
)
from tests.pictures import noise

TINY = Config(size=32, base_filters=4, residual_blocks=1, pool_size=2, jitter=1.0, epochs=1)


@pytest.fixture(scope="module")
def paper():
    return build()


# %% Networks


@pytest.mark.slow
def test_parameters_of_the_paper_s_networks_counted_by_hand(paper):
    """Appendix 7.2: c7s1-64, d128, d256, nine blocks of two 3 x 3 of 256, u128, u64, c7s1-3; C64-C128-C256-C512."""
    kernels = 49 * 3 * 64 + 9 * (64 * 128 + 128 * 256 + 18 * 256 * 256 + 256 * 128 + 128 * 64) + 49 * 64 * 3
    scales_and_offsets = 2 * (64 + 128 + 256 + 18 * 256 + 128 + 64)
    assert paper.generator_a2b.count_params() == paper.generator_b2a.count_params() == kernels + scales_and_offsets + 3
    widths = [3, 64, 128, 256, 512, 1]
    kernels = sum(16 * a * b for a, b in zip(widths, widths[1:], strict=False))
    for judge in (paper.discriminator_a, paper.discriminator_b):  # C64 is not normalised, so it has a bias
        assert judge.count_params() == kernels + 64 + 2 * (128 + 256 + 512) + 1


@pytest.mark.parametrize(("halvings", "pixels", "logits"), [(3, 70, 14), (2, 34, 30), (1, 16, 62)])
def test_a_logit_sees_the_stated_patch(halvings, pixels, logits):
    judge = build(Config(size=128, base_filters=2, residual_blocks=0, patch_layers=halvings)).discriminator_a
    picture = tf.Variable(tf.random.stateless_normal((1, 128, 128, 3), (0, 1)))
    assert judge(picture, training=False).shape == (1, logits, logits, 1)
    with tf.GradientTape() as tape:  # without normalisation, by which every pixel reaches every logit
        x = picture
        for layer in judge.layers:
            if type(layer).__name__ in ("ZeroPadding2D", "Conv2D", "LeakyReLU"):
                x = layer(x)
        logit = x[0, logits // 2, logits // 2, 0]
    seen = np.abs(tape.gradient(logit, picture).numpy()[0]).sum(-1) > 0
    assert [np.ptp(np.flatnonzero(seen.any(axis))) + 1 for axis in (0, 1)] == [pixels, pixels]


@pytest.mark.parametrize("generator", ["resnet", "unet"])
def test_normalisation_is_by_each_channel_of_each_image(generator):
    networks = build(Config(size=32, base_filters=4, residual_blocks=1, generator=generator))
    for network in networks:
        layers = [layer for layer in network.layers if "norm" in layer.name]
        assert layers and all(type(layer).__name__ == "GroupNormalization" for layer in layers)
        for layer in layers:
            x = np.random.default_rng(0).normal(3.0, 2.0, (2, 9, 7, layer.gamma.shape[0])).astype(np.float32)
            mean, variance = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
            np.testing.assert_allclose(layer(x), (x - mean) / np.sqrt(variance + 1e-5), atol=2e-5)


def test_layer_normalisation_in_discriminators_keeps_the_differences_between_channels():
    networks = build(Config(size=32, base_filters=4, residual_blocks=1, layer_norm=True))
    for network, axes in zip(networks, ((1, 2), (1, 2), (1, 2, 3), (1, 2, 3)), strict=True):
        layers = [layer for layer in network.layers if isinstance(layer, keras.layers.GroupNormalization)]
        assert layers
        for layer in layers:
            x = np.random.default_rng(0).normal(np.arange(layer.gamma.shape[0]), 2.0, (2, 9, 7, layer.gamma.shape[0]))
            mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
            np.testing.assert_allclose(layer(x), (x - mean) / np.sqrt(variance + 1e-5), atol=2e-5)


@pytest.mark.parametrize("generator", ["resnet", "unet"])
def test_the_two_generators_and_the_two_discriminators_do_not_start_equal(generator):
    networks = build(Config(size=32, base_filters=4, residual_blocks=1, generator=generator))
    image = from_uint8(noise(1, 32, 32, 3))
    for one, other in (networks[:2], networks[2:]):
        assert np.abs(one(image) - other(image)).max() > 1e-3
        kernels = [(a, b) for a, b in zip(one.weights, other.weights, strict=True) if a.path.endswith("kernel")]
        assert kernels and not any(np.array_equal(a, b) for a, b in kernels)


def test_what_a_generator_does_at_an_edge_is_what_it_does_to_the_mirror_image_beyond_it():
    """A convolution of c7s1 against NumPy's mirror and SciPy's correlation."""
    from scipy.signal import correlate

    network = build(TINY).generator_a2b
    first = next(layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D))
    image = np.random.default_rng(0).normal(size=(1, 16, 20, 3)).astype(np.float32)
    found = keras.Model(network.input, first.output)(image)
    padded = np.pad(image[0], ((3, 3), (3, 3), (0, 0)), mode="reflect")
    kernel = np.asarray(first.kernel)
    expected = np.stack([correlate(padded, kernel[..., n], "valid")[..., 0] for n in range(4)], axis=-1)
    np.testing.assert_allclose(found[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "rule"),
    [({"size": 30}, "size must be a multiple of 4 from 32"), ({"size": 4100}, "got 4100"),
     ({"size": 48, "generator": "unet"}, "size must be a power of two from 32 to 4096, got 48"),
     ({"size": 32, "patch_layers": 4}, "multiple of 4 from 48")],
)  # fmt: skip
def test_a_size_it_cannot_take(settings, rule):
    with pytest.raises(ValueError, match=rule):
        Config(base_filters=1, **settings)
    with range_checks(False):  # as the command line makes it
        config = Config(base_filters=1, **settings)
    with pytest.raises(ValueError, match=rule):
        check_value("config", config, Config)


# %% The image pool


def numbered(*numbers: int) -> tf.Tensor:
    return tf.reshape(tf.constant(numbers, tf.float32), (-1, 1, 1, 1)) + tf.zeros((1, 2, 2, 3))


@pytest.mark.parametrize("batch", [1, 3])
def test_the_pool_gives_new_images_until_it_is_full_then_half_of_the_time_old_ones_which_leave(batch):
    pool, noise_of_run = ImagePool.empty(5, 2), Noise(4)
    give = tf.function(lambda images: exchange(pool, images, noise_of_run))
    given = [
        number
        for start in range(0, 600, batch)
        for number in give(numbered(*range(start, start + batch))).numpy()[:, 0, 0, 0]
    ]
    assert given[:5] == [0, 1, 2, 3, 4] and int(pool.count) == 5
    inside, kept, old = {0, 1, 2, 3, 4}, [], 0
    for new, returned in zip(range(5, 600), given[5:], strict=True):
        if returned != new:  # one that was there, once, and the new one is there from now on
            inside.remove(returned)
            inside.add(new)
            kept.append(new - returned)
            old += 1
    assert 250 < old < 345  # 297.5 and four standard deviations
    assert {float(image[0, 0, 0]) for image in pool.images} == inside
    assert min(inside) > 500  # nothing stays for ever
    assert 8 < np.mean(kept) < 12  # each goes with chance 1/10 a step: ten steps on average


def test_a_pool_of_0_gives_back_what_it_gets():
    images = numbered(1, 2)
    assert exchange(ImagePool.empty(0, 2), images, Noise(0)) is images


# %% Losses and the learning rate


def test_losses_against_their_formulas():
    logits = np.array([2.0, -1.0, 0.5], np.float32)
    assert float(adversarial_loss(1.0, tf.constant(logits), "least_squares")) == pytest.approx(
        ((logits - 1) ** 2).mean()
    )
    assert float(adversarial_loss(0.0, tf.constant(logits), "least_squares")) == pytest.approx((logits**2).mean())
    log_sigmoid = lambda x: -np.log1p(np.exp(-x))  # noqa: E731
    for target, expected in ((1.0, log_sigmoid(logits)), (0.0, log_sigmoid(-logits))):
        found = float(adversarial_loss(target, tf.constant(logits), "cross_entropy"))
        assert found == pytest.approx(-expected.mean(), rel=1e-6)
    assert float(adversarial_loss(1.0, tf.fill([4], 0.5), "least_squares")) == 0.25
    assert float(l1_loss(tf.constant([1.0, -1.0]), tf.constant([0.0, 0.5]))) == pytest.approx(1.25)


@pytest.mark.parametrize(
    ("decay_from", "expected"),
    [(0.5, [8, 8, 8, 8, 8, 8, 6.4, 4.8, 3.2, 1.6, 0]), (0.0, [8, 7.2, 6.4, 5.6, 4.8, 4, 3.2, 2.4, 1.6, 0.8, 0]),
     (1.0, [8] * 10 + [0])],
)  # fmt: skip
def test_the_learning_rate_is_even_then_falls_linearly_to_0(decay_from, expected):
    schedule = LinearDecay(8.0, 10, decay_from)
    for step, learning_rate in enumerate(expected):
        assert float(schedule(step)) == pytest.approx(learning_rate, abs=1e-5)


@pytest.mark.slow
def test_training_takes_the_learning_rate_of_its_steps(monkeypatch):
    given = captured(monkeypatch, Config(size=32, base_filters=2, residual_blocks=0, epochs=3, learning_rate=1.0))
    for name in ("g_optimizer", "d_optimizer"):
        optimizer = given["state"][name]
        rates = []
        for step in range(0, 13, 3):  # four steps an epoch
            optimizer.iterations.assign(step)
            rates.append(float(optimizer.learning_rate))
        np.testing.assert_allclose(rates, [1, 1, 1, 0.5, 0], atol=1e-6)
        assert optimizer.beta_1 == 0.5


# %% A step


def captured(monkeypatch, config=TINY, networks=None):
    """Return the step that `train` would take, and the state it would save."""
    given = {}

    def spy(step, data, epochs, state, *_, **__):
        given.update(step=step, state=state)
        return []

    monkeypatch.setattr(cyclegan, "fit", spy)
    train(networks or build(config), two_domains(config), config)
    return given


def two_domains(config: Config, **held_out):
    one, other = noise(4, config.size, config.size, 3), noise(3, config.size, config.size, 3, seed=1)
    return Batches.zip(batches(one, 1, 0, **held_out), batches(other, 1, 1, **held_out))


def unchanging() -> keras.Model:
    """A generator that gives back what it gets, by a 1 x 1 convolution."""
    inputs = keras.Input((None, None, 3))
    convolution = keras.layers.Conv2D(3, 1)
    model = keras.Model(inputs, convolution(inputs))
    convolution.kernel.assign(np.eye(3)[None, None])
    return model


@pytest.mark.slow
@pytest.mark.parametrize("identity_weight", [5.0, 0.0])
@pytest.mark.usefixtures("untraced")
def test_generators_that_change_nothing_have_no_cycle_and_no_identity_loss(monkeypatch, identity_weight):
    config = Config(size=32, base_filters=2, residual_blocks=0, pool_size=0, identity_weight=identity_weight)
    _, _, judge_a, judge_b = build(config)
    networks = Networks(unchanging(), unchanging(), judge_a, judge_b)
    a, b = noise(1, 32, 32, 3), noise(1, 32, 32, 3, seed=1)
    on_a, on_b = ([judge(from_uint8(x)).numpy() for x in (a, b)] for judge in (judge_a, judge_b))
    losses = captured(monkeypatch, config, networks)["step"](tf.constant(a), tf.constant(b))
    assert float(losses["cycle"]) == 0 and float(losses["identity"]) == 0
    expected = {  # A's discriminator gets pictures of B as translations, and the other way round
        "generator_a2b": ((on_b[0] - 1) ** 2).mean(),
        "generator_b2a": ((on_a[1] - 1) ** 2).mean(),
        "discriminator_a": 0.5 * (((on_a[0] - 1) ** 2).mean() + (on_a[1] ** 2).mean()),
        "discriminator_b": 0.5 * (((on_b[1] - 1) ** 2).mean() + (on_b[0] ** 2).mean()),
    }
    for name, value in expected.items():
        assert float(losses[name]) == pytest.approx(value, rel=1e-4), name


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["least_squares", "cross_entropy"])
@pytest.mark.parametrize("generator", ["resnet", "unet"])
@pytest.mark.usefixtures("untraced")
def test_a_step_goes_down_the_gradient_of_each_network_s_own_loss(monkeypatch, loss, generator):
    """Both cycle terms and one identity term in a generator's loss, worked out one by one from the paper's (3)."""
    config = Config(size=32, base_filters=2, residual_blocks=1, generator=generator, loss=loss, cycle_weight=7.0)
    networks = build(config)
    for variable in (v for network in networks for v in network.trainable_variables):
        variable.assign(variable * 5)  # so that gradients are not lost in rounding
    a, b = noise(2, 32, 32, 3), noise(2, 32, 32, 3, seed=1)
    a2b, b2a, judge_a, judge_b = networks
    real_a, real_b = from_uint8(a), from_uint8(b)
    with tf.GradientTape(persistent=True) as tape:
        fake_a, fake_b = b2a(real_b), a2b(real_a)
        cycle = l1_loss(real_a, b2a(fake_b)) + l1_loss(real_b, a2b(fake_a))
        own = [
            adversarial_loss(1.0, judge_b(fake_b), loss) + 7 * cycle + 5 * l1_loss(real_b, a2b(real_b)),
            adversarial_loss(1.0, judge_a(fake_a), loss) + 7 * cycle + 5 * l1_loss(real_a, b2a(real_a)),
            0.5 * (adversarial_loss(1.0, judge_a(real_a), loss) + adversarial_loss(0.0, judge_a(fake_a), loss)),
            0.5 * (adversarial_loss(1.0, judge_b(real_b), loss) + adversarial_loss(0.0, judge_b(fake_b), loss)),
        ]
    gradients = [tape.gradient(each, network.trainable_variables) for each, network in zip(own, networks, strict=True)]
    before = [[v.numpy() for v in network.trainable_variables] for network in networks]

    def plain_descent(learning_rate, variables, beta_1):
        optimizer = keras.optimizers.SGD(1.0)
        optimizer.build(variables)
        return optimizer

    monkeypatch.setattr(cyclegan, "adam", plain_descent)
    captured(monkeypatch, config, networks)["step"](tf.constant(a), tf.constant(b))  # the pool is empty: no exchange
    for network, olds, slopes in zip(networks, before, gradients, strict=True):
        for variable, old, slope in zip(network.trainable_variables, olds, slopes, strict=True):
            scale = np.abs(slope).max()
            np.testing.assert_allclose(old - variable.numpy(), slope, atol=2e-3 * scale + 1e-6, err_msg=variable.path)


@pytest.mark.slow
@pytest.mark.usefixtures("untraced")
def test_discriminators_learn_from_the_pool_and_generators_from_their_newest_translations(monkeypatch):
    """With a pool full of one picture, a discriminator's losses are those of that picture or of the newest one."""
    config = Config(size=32, base_filters=2, residual_blocks=0, pool_size=3, learning_rate=0.0)
    networks = build(config)
    given = captured(monkeypatch, config, networks)
    kept = from_uint8(noise(3, 32, 32, 3, seed=9)) * 0.5
    for pool in given["state"]["pools"]:
        pool.images.assign(tf.repeat(kept[:1], 3, axis=0))
        pool.count.assign(3)
    a, b = tf.constant(noise(1, 32, 32, 3)), tf.constant(noise(1, 32, 32, 3, seed=1))
    losses = [{name: float(value) for name, value in given["step"](a, b).items()} for _ in range(8)]
    assert len({round(row["generator_a2b"], 5) for row in losses}) == 1
    judge = networks.discriminator_b
    on_kept, on_new = judge(kept[:1]), judge(networks.generator_a2b(from_uint8(a)))
    real = ((judge(from_uint8(b)).numpy() - 1) ** 2).mean()
    either = [0.5 * (real + (np.asarray(logits) ** 2).mean()) for logits in (on_kept, on_new)]
    found = [row["discriminator_b"] for row in losses]
    distances = np.abs(np.subtract.outer(found, either))
    assert distances.min(axis=1).max() < 1e-5 < abs(either[0] - either[1])
    assert set(distances.argmin(axis=1)) == {0, 1}


@pytest.mark.slow
def test_a_run_that_goes_on_has_the_pool_of_one_that_was_not_stopped(monkeypatch, tmp_path):
    config = Config(size=32, base_filters=2, residual_blocks=0, pool_size=2, epochs=4)
    ends = []
    for name, stops in (("whole", [4]), ("stopped", [2, 4])):
        for epochs in stops:
            states = []

            def spy(step, data, _, state, *rest, epochs=epochs, states=states, **options):
                states.append(state)
                return fit(step, data, epochs, state, *rest, **options)

            monkeypatch.setattr(cyclegan, "fit", spy)
            networks = build(config)
            train(networks, two_domains(config), config, tmp_path / name)
        pools = [variable.numpy() for pool in states[0]["pools"] for variable in pool]
        ends.append([v.numpy() for network in networks for v in network.variables] + pools)
    assert ends[0][-1] == 2 and np.abs(ends[0][-2]).max() > 0
    assert all(np.array_equal(one, other) for one, other in zip(*ends, strict=True))


@pytest.mark.slow
def test_on_two_pictures_the_cycle_closes():
    blocks = noise(2, 4, 4, 3).repeat(8, 1).repeat(8, 2)
    config = Config(size=32, base_filters=8, residual_blocks=1, epochs=60, learning_rate=2e-3)
    history = train(build(config), Batches.zip(batches(blocks[:1], 1, 0), batches(blocks[1:], 1, 1)), config)
    assert history[-1]["cycle"] < 0.4 * history[0]["cycle"]
    assert history[-1]["identity"] < 0.4 * history[0]["identity"]


# %% Use


@pytest.mark.parametrize("generator", ["resnet", "unet"])
@pytest.mark.parametrize("shape", [(50, 20), (33, 64), (1, 3), (32, 32)])
def test_any_size_in_the_same_size_out(generator, shape):
    network = build(Config(size=32, base_filters=2, residual_blocks=1, generator=generator)).generator_a2b
    image = noise(*shape, 3)
    translated = translate(network, image)
    assert translated.shape == image.shape and translated.dtype == np.uint8
    np.testing.assert_array_equal(translated, translate(network, image))
    multiple = 32 if generator == "unet" else 8
    edges = [(0, -side % multiple) for side in shape]
    whole = translate(network, np.pad(image, (*edges, (0, 0)), mode="symmetric"))
    np.testing.assert_array_equal(translated, whole[: shape[0], : shape[1]])


def test_a_u_net_that_resizes_blends_a_colour_with_its_input_by_a_mask():
    config = Config(size=32, base_filters=2, generator="unet", upsampling="bilinear", levels=3)
    network = build(config).generator_a2b
    *_, last = (layer for layer in network.layers if isinstance(layer, keras.layers.Conv2D))
    kernel, _ = last.get_weights()
    image = from_uint8(noise(1, 16, 24, 3))
    for logit, mask in ((-50.0, 0), (0.0, 0.5), (math.log(3), 0.75), (50.0, 1)):
        last.set_weights([kernel * 0, np.array([0.25, 0, -50, logit], np.float32)])
        expected = mask * np.array([math.tanh(0.25), 0, -1]) + (1 - mask) * image
        np.testing.assert_allclose(network(image), expected, atol=1e-6)


@pytest.mark.parametrize("generator", ["resnet", "unet"])
def test_only_transposed_convolutions_show_a_grid(generator):
    """Far from the borders of a grey image, an untrained generator makes one colour, or a grid."""
    grid = []
    for upsampling in ("bilinear", "transposed"):
        config = Config(
            size=32, base_filters=4, residual_blocks=1, levels=4, generator=generator, upsampling=upsampling
        )
        middle = build(config).generator_a2b(tf.fill((1, 256, 256, 3), 0.5)).numpy()[0, 112:144, 112:144]
        grid.append(np.abs(np.diff(middle, axis=1)).mean() / np.abs(middle).mean())
    assert grid[0] < 0.01 < grid[1]


def test_many_pictures_are_translated_as_one_by_one():
    network = build(TINY).generator_a2b
    images = noise(11, 32, 32, 3)
    many = translate_batch(network, images).astype(int)
    assert np.abs(many - np.stack([translate(network, image) for image in images])).max() <= 1


# %% A whole run


@pytest.fixture
def run(tmp_path):
    """A run of domains of different size."""
    for name, count in (("lakes", 7), ("deserts", 4)):
        for number in range(count):
            write_image(noise(40, 36 + number, 3, seed=number), tmp_path / "photos" / name / f"{number}.png")
    image = cyclegan.run(str(tmp_path / "photos"), TINY, tmp_path / "run")
    assert image == tmp_path / "run" / "translations.png" and image.is_file()
    return tmp_path / "run"


@pytest.mark.slow
def test_a_run_on_own_pictures_and_both_directions(run, tmp_path):
    settings = json.loads((run / "config.json").read_text())
    assert settings["classes"] == ["deserts", "lakes"]
    assert json.loads((run / "results.json").read_text()).keys() == {"a_cycle_l1", "b_cycle_l1"}
    assert [path.name for path in (run / "samples").iterdir()] == ["epoch-0001.png"]
    photo = noise(30, 45, 3, seed=9)
    write_image(photo, tmp_path / "photo.png")
    for direction in ("a2b", "b2a"):
        translate_files(tmp_path / "photo.png", tmp_path / f"{direction}.png", direction, run)
        expected = translate(Run.load(run, "cyclegan", Config).network(f"generator_{direction}"), photo)
        np.testing.assert_array_equal(read_image(tmp_path / f"{direction}.png"), expected)
    translate_files(tmp_path / "photos" / "lakes", tmp_path / "out", run=run)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{number}.png" for number in range(7)]
    assert read_image(tmp_path / "out" / "3.png").shape == (40, 39, 3)


@pytest.mark.slow
def test_a_run_of_the_sample_is_scored_by_the_truth(tmp_path, monkeypatch):
    summer, winter = noise(6, 32, 32, 3), noise(6, 32, 32, 3, seed=1)
    truth = noise(3, 32, 32, 3, seed=2), noise(3, 32, 32, 3, seed=3)
    domains = Domains.of_arrays((summer, winter), truth, ("summer", "winter"))
    monkeypatch.setattr(cyclegan, "unpaired_images", lambda *_, **__: domains)
    cyclegan.run("sample", TINY, tmp_path)
    scores = json.loads((tmp_path / "results.json").read_text())
    translated = translate_batch(Run.load(tmp_path, "cyclegan", Config).network("generator_a2b"), truth[0])
    assert scores["a2b_l1"] == pytest.approx(np.abs(translated / 255 - truth[1] / 255).mean(), rel=1e-3)
    assert (
        scores["a2b_unchanged_l1"]
        == scores["b2a_unchanged_l1"]
        == pytest.approx(np.abs(truth[0] / 255 - truth[1] / 255).mean())
    )


# %% Runs of earlier versions


def test_a_run_that_calls_the_pool_size_pool(tmp_path):
    settings = {"recipe": "cyclegan", "data": "sample", "config": {"size": 64, "pool": 7, "precision": "float32"}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert Run.load(tmp_path, "cyclegan", Config).config == Config(size=64, pool_size=7)
