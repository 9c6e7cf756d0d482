"""The recipes' training steps in PyTorch, for `benchmarks.speed` to time.

Networks are the recipes', translated layer by layer. The arithmetic of a step is the recipe's: the same passes, batches
put together where its are, all gradients before any update. Learning rates stay even, where some of the recipes' fall.
Fused Adam and contiguous memory are PyTorch's faster settings on a CPU: its usual Adam, and channels last, are slower.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.translation import Translated
from common.canvas import read_style, weighted_names
from common.lazy import keras

Step = Callable[..., tuple[torch.Tensor, ...]]
"""The arrays of a batch, images uint8 [n, channels, height, width] or class numbers int64 [n] -> losses."""


def torch_networks(recipe: str, config: Any, networks: Sequence[keras.Model]) -> list[Translated]:
    """Return a recipe's networks, in the order of its `build`, as its step calls them.

    Those of `fast_style_transfer` are followed by the part of what looks that gives the maps of content alone.

    Raises:
        NotImplementedError: a layer has no translation.
    """
    seen = list(networks)
    if recipe == "ssgan":
        classifier = seen[1]
        seen[1] = keras.Model(classifier.inputs, [classifier.get_layer("features").output, classifier.output])
    elif recipe == "adversarial_autoencoder":
        decoder = seen[1]
        seen[1] = keras.Model(decoder.inputs, decoder.get_layer("pixel_logits").output)
    elif recipe == "fast_style_transfer":
        inner = seen[1].layers[-1]
        seen.append(keras.Model(inner.inputs, inner.outputs[: len(weighted_names(config.content_layers))]))
        seen[2].trainable = False
    return [Translated(network) for network in seen]


def make_torch_step(recipe: str, config: Any, networks: Sequence[nn.Module]) -> Step:
    """Return a recipe's step, which trains its networks in place.

    Raises:
        NotImplementedError: the recipe has no step here, or not with such a configuration.
    """
    if recipe not in STEPS:
        raise NotImplementedError(f"no step of {recipe} in PyTorch")
    return STEPS[recipe](config, networks)


# %% Parts


class Learner(NamedTuple):
    """Weights and what moves them."""

    weights: list[nn.Parameter]
    optimizer: torch.optim.Optimizer

    def gradients(self, loss: torch.Tensor, keep: bool = False) -> tuple[torch.Tensor, ...]:
        """Return those of a loss; `keep` its passes for another."""
        return torch.autograd.grad(loss, self.weights, retain_graph=keep)

    def apply(self, gradients: Sequence[torch.Tensor]) -> None:
        """Move the weights."""
        for weight, gradient in zip(self.weights, gradients, strict=True):
            weight.grad = gradient.contiguous()  # the fused optimizer takes its memory to lie as the weight's does
        self.optimizer.step()

    def descend(self, loss: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Move the weights by the gradients of a loss, and return it."""
        self.apply(self.gradients(loss))
        return (loss.detach(),)


def _adam(networks: Sequence[nn.Module], rate: float, beta_1: float = 0.9) -> Learner:
    weights = _weights(networks)
    return Learner(weights, torch.optim.Adam(weights, rate, (beta_1, 0.999), eps=1e-7, fused=True))


def _weights(networks: Sequence[nn.Module]) -> list[nn.Parameter]:
    return [weight for network in networks for weight in network.parameters() if weight.requires_grad]


def _floats(images: torch.Tensor) -> torch.Tensor:
    return images.float() / 127.5 - 1.0


def _cross_entropy(target: float, logits: torch.Tensor) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def _l1(target: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    return (target - output).abs().mean()


def _kl_divergence(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    return 0.5 * (mean**2 + log_variance.exp() - 1.0 - log_variance).sum(1).mean()


def _drawn(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    return mean + torch.exp(log_variance / 2) * torch.randn_like(mean)


# %% Classifiers


def _classifier(config: Any, networks: Sequence[nn.Module]) -> Step:
    (classifier,) = networks
    learner = _adam(networks, config.learning_rate)
    return lambda images, labels: learner.descend(functional.cross_entropy(classifier(_floats(images)), labels))


def _mobilenet(config: Any, networks: Sequence[nn.Module]) -> Step:
    features, classifier = networks
    features.train(config.weights == "random")  # learnt statistics stay as they are
    learner = _adam([classifier, features], config.learning_rate)

    def step(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return learner.descend(functional.cross_entropy(classifier(features(_floats(images))), labels))

    return step


def _fgsm(config: Any, networks: Sequence[nn.Module]) -> Step:
    classifier, hardened = networks
    learner, bound = _adam(networks, config.learning_rate), 2 * config.epsilon
    length = 1.25 * bound if config.random_start else bound

    def within(origin: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return torch.clamp(torch.clamp(images, origin - bound, origin + bound), -1, 1)

    def step(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        first = origin = _floats(images)
        if config.random_start:
            first = within(origin, origin + torch.empty_like(origin).uniform_(-bound, bound))
        watched = first.requires_grad_()
        (slope,) = torch.autograd.grad(functional.cross_entropy(hardened(watched), labels), watched)
        with torch.no_grad():
            attacked = within(origin, first + length * slope.sign())
            origin = origin.detach()
        loss = functional.cross_entropy(classifier(origin), labels)
        clean, under_attack = hardened(torch.cat([origin, attacked])).chunk(2)
        clean_loss, attacked_loss = (functional.cross_entropy(each, labels) for each in (clean, under_attack))
        hardened_loss = (1 - config.adversarial) * clean_loss + config.adversarial * attacked_loss
        return learner.descend(loss + hardened_loss)

    return step


# %% Autoencoders


def _autoencoder(config: Any, networks: Sequence[nn.Module]) -> Step:
    encoder, decoder = networks
    learner, noise = _adam(networks, config.learning_rate), getattr(config, "noise", 0.0)
    if hasattr(config, "weight_decay"):
        decay = {"weight_decay": config.weight_decay}
        optimizer = torch.optim.AdamW(learner.weights, config.learning_rate, eps=1e-7, fused=True, **decay)
        learner = Learner(learner.weights, optimizer)

    def step(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        images = _floats(batch)
        inputs = torch.clamp(images + 2 * noise * torch.randn_like(images), -1, 1) if noise else images
        return learner.descend(((images - decoder(encoder(inputs))) ** 2).mean() / 4)

    return step


def _vae(config: Any, networks: Sequence[nn.Module]) -> Step:
    encoder, _, decoder = networks
    learner = _adam(networks, config.learning_rate)

    def step(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        binary = torch.bernoulli(images.float() / 255)
        mean, log_variance = encoder(2 * binary - 1)
        logits = decoder(_drawn(mean, log_variance))
        entropy = functional.binary_cross_entropy_with_logits(logits, binary, reduction="sum") / len(images)
        return learner.descend(entropy + config.kl_weight * _kl_divergence(mean, log_variance))

    return step


def _vae_faces(config: Any, networks: Sequence[nn.Module]) -> Step:
    encoder, decoder = networks
    learner = _adam(networks, config.learning_rate)

    def step(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        images = _floats(batch)
        mean, log_variance = encoder(images)
        error = ((images - decoder(_drawn(mean, log_variance))) ** 2).mean()
        likelihood = 0.5 * math.prod(images.shape[1:]) * (torch.log(2 * math.pi * error) + 1)
        return learner.descend(likelihood + config.kl_weight * _kl_divergence(mean, log_variance))

    return step


def _adversarial_autoencoder(config: Any, networks: Sequence[nn.Module]) -> Step:
    encoder, pixel_logits, discriminator = networks
    few, width, count = config.labels == "few", config.latent_dim, config.batch_size
    if config.prior != "gaussian":
        raise NotImplementedError(f"no step with the prior {config.prior} in PyTorch")
    given_classes = config.labels in ("decoder", "few")
    learner = _adam([encoder, pixel_logits], config.learning_rate)
    rivals = _adam([discriminator, encoder], config.adversarial_rate, 0.5)
    judges, fooled = list(discriminator.parameters()), list(encoder.parameters())

    def step(images: torch.Tensor, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        kinds = given[0] if given and not few else torch.randint(config.outputs, (count,))
        one_hot = functional.one_hot(kinds, config.outputs).float()
        real = torch.cat([config.deviation * torch.randn(count, width), one_hot], 1)
        found = encoder(_floats(torch.cat([images, given[0]]) if few else images))
        codes, logits = found[:count, :width], found[:, width:]
        fake = torch.cat([codes, logits[:count].softmax(1) if few else one_hot], 1)
        drawn = pixel_logits(fake if given_classes else codes)
        seen = slice(None) if config.labels != "none" else slice(width)
        on_real, on_fake = discriminator(real[:, seen]), discriminator(fake[:, seen])
        own = functional.binary_cross_entropy_with_logits(drawn, images.float() / 255)
        if few:
            own = own + functional.cross_entropy(logits[count:], given[1])
        d_loss, g_loss = _cross_entropy(1.0, on_real) + _cross_entropy(0.0, on_fake), _cross_entropy(1.0, on_fake)
        own_gradients = learner.gradients(own, keep=True)
        rival_gradients = torch.autograd.grad(d_loss, judges, retain_graph=True)
        rival_gradients += torch.autograd.grad(g_loss, fooled)
        learner.apply(own_gradients)
        rivals.apply(rival_gradients)
        return own.detach(), d_loss.detach(), g_loss.detach()

    return step


def _face_swap(config: Any, networks: Sequence[nn.Module]) -> Step:
    encoder, inter, decoder_a, decoder_b = networks
    learner, size = _adam(networks, config.learning_rate, config.beta_1), config.size
    pixels = torch.arange(float(size))
    places = torch.stack(torch.meshgrid(pixels, pixels, indexing="xy"), -1)  # across, then down

    def warped(images: torch.Tensor) -> torch.Tensor:
        moves = config.warp * size * torch.randn(len(images), 2, 5, 5)
        moves = functional.interpolate(moves, (size, size), mode="bilinear", align_corners=True)
        grid = 2 / (size - 1) * (places + moves.permute(0, 2, 3, 1)) - 1
        return functional.grid_sample(images, grid, padding_mode="border", align_corners=True)

    def step(faces_a: torch.Tensor, faces_b: torch.Tensor) -> tuple[torch.Tensor, ...]:
        faces = _floats(torch.cat([faces_a, faces_b]))
        if config.mirror:
            faces = torch.where(torch.rand(len(faces), 1, 1, 1) < 0.5, faces.flip(3), faces)
        codes_a, codes_b = inter(encoder(warped(faces))).chunk(2)
        plain_a, plain_b = faces.chunk(2)
        return learner.descend(_l1(plain_a, decoder_a(codes_a)) + _l1(plain_b, decoder_b(codes_b)))

    return step


# %% Generative adversarial networks


def _gan(config: Any, networks: Sequence[nn.Module]) -> Step:
    generator, discriminator = networks
    learners = [_adam([network], config.learning_rate, config.beta_1) for network in networks]

    def step(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        fake = generator(torch.randn(len(images), config.latent_dim))
        on_real, on_fake = discriminator(_floats(images)), discriminator(fake)
        d_loss = _cross_entropy(1.0, on_real) + _cross_entropy(0.0, on_fake)
        return _both(learners, _cross_entropy(1.0, on_fake), d_loss)

    return step


def _both(learners: Sequence[Learner], g_loss: torch.Tensor, d_loss: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Take the gradients of both losses, then make both updates."""
    gradients = learners[0].gradients(g_loss, keep=True), learners[1].gradients(d_loss)
    for learner, values in zip(learners, gradients, strict=True):
        learner.apply(values)
    return g_loss.detach(), d_loss.detach()


def _average(average: Sequence[torch.Tensor], values: Sequence[torch.Tensor], share: float, number: int) -> None:
    """Move an average towards values after step `number`, counted from 1; at first it is the mean."""
    with torch.no_grad():
        torch._foreach_lerp_(list(average), list(values), 1 - min(share, 1 - 1 / number))


def _floating(network: nn.Module) -> list[torch.Tensor]:
    return [value for value in network.state_dict().values() if value.is_floating_point()]


def _dcgan_faces(config: Any, networks: Sequence[nn.Module]) -> Step:
    generator, discriminator, averaged = networks
    rates = (config.learning_rate, config.learning_rate / 2)
    learners = [_adam([n], rate, config.beta_1) for n, rate in zip(networks[:2], rates, strict=True)]
    average, values, done, size = _floating(averaged), _floating(generator), [0], config.size
    centres = torch.arange(0.5, size)

    def augmented(images: torch.Tensor) -> torch.Tensor:
        count = len(images)
        if config.colour:
            images = images + config.colour * (torch.rand(count, 1, 1, 1) - 0.5)
            for axes, most in (((1,), 1.0), ((1, 2, 3), 0.5)):
                mean = images.mean(axes, keepdim=True)
                images = mean + (images - mean) * (1 + config.colour * most * (2 * torch.rand(count, 1, 1, 1) - 1))
        if config.translation:
            margin = max(1, round(config.translation * size))
            padded = functional.pad(images, [margin] * 4).permute(0, 2, 3, 1)
            rows, columns = (torch.randint(2 * margin + 1, (count, 1)) + torch.arange(size) for _ in "hw")
            each = torch.arange(count)[:, None, None]
            images = padded[each, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2).contiguous()
        if config.cutout:
            rows, columns = ((centres - size * torch.rand(count, 1)).abs() < config.cutout * size / 2 for _ in "hw")
            images = images * ~(rows[:, None, :, None] & columns[:, None, None, :])
        return images

    def step(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        fake = generator(torch.randn(len(images), config.latent_dim))
        on_real, on_fake = discriminator(augmented(_floats(images))), discriminator(augmented(fake))
        d_loss = functional.softplus(-on_real).mean() + functional.softplus(on_fake).mean()
        losses = _both(learners, functional.softplus(-on_fake).mean(), d_loss)
        done[0] += 1
        _average(average, values, config.averaging, done[0])
        return losses

    return step


def _ssgan(config: Any, networks: Sequence[nn.Module]) -> Step:
    generator, seen, averaged = networks
    learners = [_adam([network], config.learning_rate, config.beta_1) for network in (generator, seen)]
    average, values, done = list(averaged.parameters()), _weights([seen]), [0]
    averaged.eval()

    def step(unlabelled: torch.Tensor, labelled: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        fake = generator(torch.randn(len(unlabelled), config.latent_dim))
        _, class_logits = seen(_floats(labelled))
        real_features, real = seen(_floats(unlabelled))
        drawn_features, drawn = seen(fake)
        on_real, on_drawn = real.logsumexp(1), drawn.logsumexp(1)
        with torch.no_grad():
            surest, found = averaged(_floats(unlabelled)).softmax(1).max(1)
        agreement = (functional.cross_entropy(real, found, reduction="none") * (surest >= config.sure)).mean()
        c_loss = functional.cross_entropy(class_logits, labels) + config.consistency * agreement
        c_loss = c_loss + functional.softplus(-on_real).mean() + functional.softplus(on_drawn).mean()
        g_loss = _l1(real_features.mean(0), drawn_features.mean(0))
        if not config.matching:
            g_loss = functional.softplus(-on_drawn).mean()
        losses = _both(learners, g_loss, c_loss)
        done[0] += 1
        _average(average, values, config.averaging, done[0])
        return losses

    return step


def _pix2pix(config: Any, networks: Sequence[nn.Module]) -> Step:
    generator, discriminator = networks
    learners = [_adam([network], config.learning_rate, config.beta_1) for network in networks]

    def step(inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, ...]:
        source, target = _floats(inputs), _floats(targets)
        made = generator(source)
        on_real, on_fake = discriminator(source, target), discriminator(source, made)
        g_loss = config.gan_weight * _cross_entropy(1.0, on_fake) + config.l1_weight * _l1(target, made)
        return _both(learners, g_loss, 0.5 * (_cross_entropy(1.0, on_real) + _cross_entropy(0.0, on_fake)))

    return step


class TorchPool:
    """The pool of `common.domains`, in place: earlier images for a discriminator to learn from."""

    def __init__(self, capacity: int, size: int):
        self.images = torch.zeros((capacity, 3, size, size))
        self.count = 0

    def exchange(self, images: torch.Tensor) -> torch.Tensor:
        """Return for each image itself, kept too while there is room; then, with chance 1/2, the one it replaces."""
        given = []
        for image in images.detach():
            if self.count < len(self.images):
                self.images[self.count] = image
                self.count += 1
            elif self.count and torch.rand(()) < 0.5:
                place = int(torch.randint(self.count, ()))
                earlier = self.images[place].clone()
                self.images[place] = image
                image = earlier
            given.append(image)
        return torch.stack(given)


def _cyclegan(config: Any, networks: Sequence[nn.Module]) -> Step:
    a2b, b2a, judge_a, judge_b = networks
    learners = [_adam(half, config.learning_rate, config.beta_1) for half in (networks[:2], networks[2:])]
    pools = [TorchPool(config.pool, config.size) for _ in "ab"]

    def adversarial(target: float, logits: torch.Tensor) -> torch.Tensor:
        return ((logits - target) ** 2).mean() if config.loss == "least_squares" else _cross_entropy(target, logits)

    def judged(judge: nn.Module, real: torch.Tensor, fake: torch.Tensor, pool: TorchPool) -> torch.Tensor:
        on_real, on_fake = judge(torch.cat([real, pool.exchange(fake)])).chunk(2)
        return 0.5 * (adversarial(1.0, on_real) + adversarial(0.0, on_fake))

    def step(batch_a: torch.Tensor, batch_b: torch.Tensor) -> tuple[torch.Tensor, ...]:
        a, b = _floats(batch_a), _floats(batch_b)
        fake_b, same_b = a2b(torch.cat([a, b])).chunk(2)
        fake_a, same_a = b2a(torch.cat([b, a])).chunk(2)
        cycle, identity = _l1(a, b2a(fake_b)) + _l1(b, a2b(fake_a)), _l1(a, same_a) + _l1(b, same_b)
        gan = adversarial(1.0, judge_b(fake_b)) + adversarial(1.0, judge_a(fake_a))
        g_loss = gan + config.cycle_weight * cycle + config.identity_weight * identity
        g_gradients = learners[0].gradients(g_loss)  # its passes are free before the next ones begin
        d_loss = judged(judge_a, a, fake_a, pools[0]) + judged(judge_b, b, fake_b, pools[1])
        d_gradients = learners[1].gradients(d_loss)
        learners[0].apply(g_gradients)
        learners[1].apply(d_gradients)
        return g_loss.detach(), d_loss.detach()

    return step


# %% Style


def _gram(maps: torch.Tensor) -> torch.Tensor:
    flat = maps.flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[2]


def _share_left(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    left, whole = (each.pow(2).flatten(1).sum(1) for each in (found - wanted, wanted))
    return torch.where(whole > 0, left / whole, 0.0).mean()


def _mean_and_covariance(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean = images.mean((2, 3), keepdim=True)
    return mean, _gram(images - mean) + 1e-2 * torch.eye(3)


def _power(matrices: torch.Tensor, power: float) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(matrices)
    return vectors * values[:, None] ** power @ vectors.transpose(1, 2)


def _fast_style_transfer(config: Any, networks: Sequence[nn.Module]) -> Step:
    painter, features, of_content = networks
    learner = _adam([painter], config.learning_rate)
    content_names, style_names = weighted_names(config.content_layers), weighted_names(config.style_layers)
    first = len(content_names)
    weights = [np.array(list(names.values())) / sum(names.values()) for names in (content_names, style_names)]
    content_weights, style_weights = (each.tolist() for each in weights)
    painting = _floats(torch.from_numpy(read_style(config.style, config.style_size).transpose(2, 0, 1).copy())[None])
    wanted_mean, wanted_colours = _mean_and_covariance(painting)
    root = _power(wanted_colours, 0.5)
    with torch.no_grad():
        grams = [_gram(maps) for maps in features(painting)[first:]]

    def with_colours(photos: torch.Tensor) -> torch.Tensor:
        mean, own = _mean_and_covariance(photos)
        moved = (_power(own, -0.5) @ root).transpose(1, 2) @ (photos - mean).flatten(2)
        return torch.clamp(moved.reshape(photos.shape) + wanted_mean, -1, 1)

    def step(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        photos = with_colours(_floats(batch))
        paintings = painter(photos)
        with torch.no_grad():
            seen = of_content(photos)
        wanted = seen if isinstance(seen, list) else [seen]
        maps = features(paintings)
        kept = [_share_left(found, target) for found, target in zip(maps[:first], wanted, strict=True)]
        painted = [_share_left(_gram(found), target) for found, target in zip(maps[first:], grams, strict=True)]
        content = sum(weight * each for weight, each in zip(content_weights, kept, strict=True))
        style = sum(weight * each for weight, each in zip(style_weights, painted, strict=True))
        across, down = (torch.diff(paintings, dim=axis).pow(2).mean() for axis in (3, 2))
        loss = config.content_weight * content + config.style_weight * style + config.variation * (across + down)
        return learner.descend(loss)

    return step


STEPS: dict[str, Callable[[Any, Sequence[nn.Module]], Step]] = {
    "adversarial_autoencoder": _adversarial_autoencoder,
    "autoencoder": _autoencoder,
    "conv_autoencoder": _autoencoder,
    "cyclegan": _cyclegan,
    "dcgan": _gan,
    "dcgan_faces": _dcgan_faces,
    "face_swap": _face_swap,
    "fast_style_transfer": _fast_style_transfer,
    "fgsm": _fgsm,
    "gan": _gan,
    "lenet": _classifier,
    "mlp": _classifier,
    "mobilenet": _mobilenet,
    "pix2pix": _pix2pix,
    "ssgan": _ssgan,
    "vae": _vae,
    "vae_faces": _vae_faces,
}
