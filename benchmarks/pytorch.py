"""Four recipes in eager PyTorch: pix2pix, dcgan, vae and diffusion (flow matching). `benchmarks.speed` times them.

The architectures match those of the recipes; `benchmarks.speed` checks that the parameter counts are equal. A step has
the same forward and backward passes as the recipe's step, in the same order, and computes all gradients before any
update. The learning rate is constant here; the recipes of the VAE and of diffusion decay it. On a
CPU, fused Adam and contiguous memory are faster than PyTorch's default Adam and the channels-last format.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.optim import Adam, Optimizer

Losses = tuple[torch.Tensor, ...]
Step = Callable[..., Losses]
"""A function that trains the networks in place on uint8 images [n, channels, height, width] and returns the losses."""


def make_torch_step(recipe: str, config: Any) -> tuple[list[nn.Module], Step]:
    """Return the networks of a recipe and a step that trains them. `recipe` is a key of `RECIPES`."""
    build, make_step = RECIPES[recipe]
    networks = build(config)
    return networks, make_step(config, networks)


def _images(batch: torch.Tensor) -> torch.Tensor:
    return batch.float() / 127.5 - 1.0


def _cross_entropy(target: float, logits: torch.Tensor) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def _adam(config: Any, network: nn.Module) -> Optimizer:
    betas = (getattr(config, "beta_1", 0.9), 0.999)
    return Adam(network.parameters(), config.learning_rate, betas, eps=1e-7, fused=True)


def _minimise(
    networks: Sequence[nn.Module], optimizers: Sequence[torch.optim.Optimizer], *losses: torch.Tensor
) -> Losses:
    """Compute the gradients of each network's loss, then update all networks. Return the losses."""
    gradients = []
    for network, loss in zip(networks, losses, strict=True):  # the losses share a graph: keep it until the last loss
        keep = loss is not losses[-1]
        gradients.append(torch.autograd.grad(loss, list(network.parameters()), retain_graph=keep))
    for network, optimizer, values in zip(networks, optimizers, gradients, strict=True):
        for weight, gradient in zip(network.parameters(), values, strict=True):
            weight.grad = gradient.contiguous()  # fused Adam needs gradients in the weights' memory layout
        optimizer.step()
    return tuple(loss.detach() for loss in losses)


def _normal_init(network: nn.Module) -> nn.Module:
    """Initialise all kernels with N(0, 0.02), as the Pix2Pix and DCGAN papers do."""
    for weight in network.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.02)
    return network


# %% Pix2Pix


class UNet(nn.Module):
    """The generator of Pix2Pix."""

    def __init__(self, config: Any):
        super().__init__()
        depth = min(config.size.bit_length() - 1, 8)
        widths = [config.base_filters * min(2**level, 8) for level in range(depth)]
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        for level, (channels, width) in enumerate(zip([3, *widths], widths, strict=False)):
            normalise = [nn.InstanceNorm2d(width, affine=True)] if 0 < level < depth - 1 else []
            convolution = nn.Conv2d(channels, width, 4, 2, 1, bias=False)
            self.encoder.append(nn.Sequential(convolution, *normalise, nn.LeakyReLU(0.2)))
        channels = widths[-1]
        for level, width in enumerate(reversed(widths[:-1])):
            transposed = nn.ConvTranspose2d(channels, width, 4, 2, 1, bias=False)
            dropout = [nn.Dropout(config.dropout)] if level < 3 else []
            self.decoder.append(nn.Sequential(transposed, nn.InstanceNorm2d(width, affine=True), *dropout))
            channels = 2 * width
        self.outputs = nn.Sequential(nn.ConvTranspose2d(channels, 3, 4, 2, 1), nn.Tanh())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Translate images [n, 3, height, width] in [-1, 1]."""
        skips = []
        for layer in self.encoder:
            x = layer(x)
            skips.append(x)
        for layer, skip in zip(self.decoder, reversed(skips[:-1]), strict=True):
            x = torch.relu(torch.cat([layer(x), skip], 1))
        return self.outputs(x)


def _pix2pix_networks(config: Any) -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels = 6
    for level, factor in enumerate((1, 2, 4, 8)):
        width = factor * config.base_filters
        layers.append(nn.Conv2d(channels, width, 4, 2 if level < 3 else 1, 1, bias=False))
        layers += [nn.InstanceNorm2d(width, affine=True)] if level else []
        layers.append(nn.LeakyReLU(0.2))
        channels = width
    patch_gan = nn.Sequential(*layers, nn.Conv2d(channels, 1, 4, 1, 1))
    return [_normal_init(UNet(config)), _normal_init(patch_gan)]


def _pix2pix_step(config: Any, networks: Sequence[nn.Module]) -> Step:
    generator, discriminator = networks
    optimizers = _adam(config, generator), _adam(config, discriminator)

    def step(inputs: torch.Tensor, targets: torch.Tensor) -> Losses:
        inputs, targets = _images(inputs), _images(targets)
        translations = generator(inputs)
        real_logits = discriminator(torch.cat([inputs, targets], 1))
        fake_logits = discriminator(torch.cat([inputs, translations], 1))
        l1 = (targets - translations).abs().mean()
        g_loss = config.gan_weight * _cross_entropy(1.0, fake_logits) + config.l1_weight * l1
        d_loss = 0.5 * (_cross_entropy(1.0, real_logits) + _cross_entropy(0.0, fake_logits))
        return _minimise(networks, optimizers, g_loss, d_loss)

    return step


# %% DCGAN


def _dcgan_networks(config: Any) -> list[nn.Module]:
    smallest = config.size
    widths: list[int] = []
    while smallest > 7 and smallest % 2 == 0:
        smallest //= 2
        widths.append(config.base_filters * 2 ** len(widths))

    def normalise(width: int) -> nn.Module:
        return nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)  # Keras's defaults

    channels = widths[-1]
    dense = nn.Linear(config.latent_dim, channels * smallest**2, bias=False)
    layers: list[nn.Module] = [dense, nn.Unflatten(1, (channels, smallest, smallest))]
    for width in reversed(widths[:-1]):
        layers += [normalise(channels), nn.ReLU(), nn.ConvTranspose2d(channels, width, 4, 2, 1, bias=False)]
        channels = width
    layers += [normalise(channels), nn.ReLU(), nn.ConvTranspose2d(channels, config.channels, 4, 2, 1), nn.Tanh()]
    generator = nn.Sequential(*layers)

    layers, channels = [], config.channels
    for level, width in enumerate(widths):
        layers.append(nn.Conv2d(channels, width, 4, 2, 1, bias=level == 0))
        layers += [normalise(width)] if level else []
        layers.append(nn.LeakyReLU(0.2))
        channels = width
    discriminator = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * smallest**2, 1))
    return [_normal_init(generator), _normal_init(discriminator)]


def _dcgan_step(config: Any, networks: Sequence[nn.Module]) -> Step:
    generator, discriminator = networks
    optimizers = _adam(config, generator), _adam(config, discriminator)

    def step(real: torch.Tensor) -> Losses:
        fake = generator(torch.randn(len(real), config.latent_dim))
        real_logits = discriminator(_images(real))
        fake_logits = discriminator(fake)
        g_loss = _cross_entropy(1.0, fake_logits)
        d_loss = _cross_entropy(1.0, real_logits) + _cross_entropy(0.0, fake_logits)
        return _minimise(networks, optimizers, g_loss, d_loss)

    return step


# %% VAE


class Encoder(nn.Module):
    """The encoder of the VAE."""

    def __init__(self, pixels: int, units: int, latent_dim: int):
        super().__init__()
        hidden = [nn.Linear(pixels, units), nn.SiLU(), nn.Linear(units, units), nn.SiLU()]
        self.hidden = nn.Sequential(nn.Flatten(), *hidden)
        self.mean, self.log_variance = nn.Linear(units, latent_dim), nn.Linear(units, latent_dim)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean and log variance of the latents."""
        x = self.hidden(x)
        return self.mean(x), self.log_variance(x)


def _vae_networks(config: Any) -> list[nn.Module]:
    pixels, units = config.size**2 * config.channels, config.units
    hidden = [nn.Linear(config.latent_dim, units), nn.SiLU(), nn.Linear(units, units), nn.SiLU()]
    networks = [Encoder(pixels, units, config.latent_dim), nn.Sequential(*hidden, nn.Linear(units, pixels))]
    for weight in (weight for network in networks for weight in network.parameters()):
        nn.init.xavier_uniform_(weight) if weight.ndim > 1 else nn.init.zeros_(weight)
    return networks


def _vae_step(config: Any, networks: Sequence[nn.Module]) -> Step:
    encoder, decoder = networks
    both = nn.ModuleList(networks)
    optimizers = [_adam(config, both)]

    def step(images: torch.Tensor) -> Losses:
        binary = torch.bernoulli(images.float() / 255)
        mean, log_variance = encoder(2 * binary - 1)
        latents = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
        logits = decoder(latents).view_as(binary)
        entropies = functional.binary_cross_entropy_with_logits(logits, binary, reduction="sum")
        kl = 0.5 * (mean**2 + log_variance.exp() - 1.0 - log_variance).sum(1).mean()
        loss = entropies / len(images) + config.kl_weight * kl
        return _minimise([both], optimizers, loss)

    return step


# %% Diffusion


class ResidualBlock(nn.Module):
    """Two convolutions; the condition sets the scale and the shift of the second normalisation."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.norm_1, self.scale = nn.GroupNorm(8, channels), nn.Linear(128, width)
        self.conv_1 = nn.Conv2d(channels, width, 3, padding=1)
        self.norm_2, self.shift = nn.GroupNorm(8, width), nn.Linear(128, width)
        self.conv_2 = nn.Conv2d(width, width, 3, padding=1)
        self.shortcut = nn.Identity() if channels == width else nn.Conv2d(channels, width, 1)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Return feature maps [n, width, height, width] for maps x and conditions [n, 128]."""
        scale, shift = (dense(condition)[:, :, None, None] for dense in (self.scale, self.shift))
        y = self.conv_1(functional.silu(self.norm_1(x)))
        y = self.conv_2(functional.silu(self.norm_2(y) * (1 + scale) + shift))
        return self.shortcut(x) + y


class SelfAttention(nn.Module):
    """Self-attention with one head between all positions of a feature map."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.query, self.value, self.key, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return feature maps of the shape of x."""
        y = self.norm(x).flatten(2).transpose(1, 2)
        y = functional.scaled_dot_product_attention(self.query(y), self.key(y), self.value(y))
        return x + self.out(y).transpose(1, 2).view_as(x)


class ConditionalUNet(nn.Module):
    """The U-Net of diffusion."""

    def __init__(self, config: Any):
        super().__init__()
        widths = [config.base_filters * min(2, 2**level) for level in range(config.levels)]
        self.waves, self.time = nn.Linear(1, 64), nn.Linear(64, 128)
        nn.init.normal_(self.waves.weight, std=8.0)
        nn.init.uniform_(self.waves.bias, -math.pi, math.pi)
        self.label = nn.Linear(config.outputs, 128, bias=False)
        channels = widths[0]
        self.entry = nn.Conv2d(config.channels, channels, 2 * config.patch + 1, config.patch, config.patch)
        self.hidden = nn.Linear(128, 128)
        self.down, skips = nn.ModuleList(), []
        for level, width in enumerate(widths):
            if level:
                self.down.append(nn.Conv2d(channels, width, 3, 2, 1))
                channels = width
            for _ in range(config.blocks):
                self.down.append(ResidualBlock(channels, width))
                channels = width
                skips.append(width)
        self.attention, self.middle = SelfAttention(channels), ResidualBlock(channels, channels)
        self.up = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(config.blocks):
                self.up.append(ResidualBlock(channels + skips.pop(), width))
                channels = width
            if level:
                self.up.append(nn.Conv2d(channels, widths[level - 1], 3, padding=1))
                channels = widths[level - 1]
        self.norm = nn.GroupNorm(8, channels)
        self.last = nn.ConvTranspose2d(channels, config.channels, config.patch + 2, config.patch, 1)

    def forward(self, images: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the velocity at the points `images` [n, channels, height, width], for times t [n, 1] and labels."""
        condition = functional.silu(self.time(torch.sin(self.waves(t))) + self.label(labels))
        condition = functional.silu(self.hidden(condition))
        x, skips = self.entry(images), []
        for layer in self.down:
            if isinstance(layer, nn.Conv2d):
                x = layer(x)
            else:
                x = layer(x, condition)
                skips.append(x)
        x = self.middle(self.attention(x), condition)
        for layer in self.up:
            if isinstance(layer, nn.Conv2d):
                x = layer(functional.interpolate(x, scale_factor=2))
            else:
                x = layer(torch.cat([x, skips.pop()], 1), condition)
        x = self.last(functional.silu(self.norm(x)))
        t = t[:, :, None, None]
        variance = (0.5 * t) ** 2 + (1 - t) ** 2
        return (0.25 * t - (1 - t)) / variance * images + 0.5 / variance.sqrt() * x


def _diffusion_networks(config: Any) -> list[nn.Module]:
    unet = ConditionalUNet(config)
    return [unet, copy.deepcopy(unet)]


def _diffusion_step(config: Any, networks: Sequence[nn.Module]) -> Step:
    unet, ema = networks
    optimizers = [_adam(config, unet)]
    averages, weights = tuple(ema.parameters()), tuple(unet.parameters())
    steps = 0

    def step(images: torch.Tensor, labels: torch.Tensor) -> Losses:
        nonlocal steps
        images = _images(images)
        noise = torch.randn_like(images)
        t = torch.sigmoid(torch.randn(len(images), 1))
        known = torch.rand(len(images), 1) >= config.label_dropout
        vectors = functional.one_hot(labels.long(), config.outputs) * known.float()
        mixed = t[:, :, None, None] * images + (1 - t[:, :, None, None]) * noise
        loss = functional.mse_loss(unet(mixed, t, vectors), images - noise)
        losses = _minimise([unet], optimizers, loss)
        steps += 1
        with torch.no_grad():
            torch._foreach_lerp_(averages, weights, 1 - min(config.ema_decay, 1 - 1 / steps))
        return losses

    return step


RECIPES: dict[str, tuple[Callable[[Any], list[nn.Module]], Callable[[Any, Any], Step]]] = {
    "dcgan": (_dcgan_networks, _dcgan_step),
    "diffusion": (_diffusion_networks, _diffusion_step),
    "pix2pix": (_pix2pix_networks, _pix2pix_step),
    "vae": (_vae_networks, _vae_step),
}
