"""Pix2Pix and DCGAN in PyTorch: the recipes' networks and steps once more, for `benchmarks.speed` to time.

The arithmetic is the recipes': one pass through each network, all gradients before any update. Fused Adam and
contiguous memory are PyTorch's faster settings on a CPU: its default Adam, and channels last, are slower.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from recipes import dcgan, pix2pix

if TYPE_CHECKING:
    import torch


def torch_networks(config: pix2pix.Config | dcgan.Config) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Return a recipe's generator and discriminator as PyTorch modules, layer by layer in the same order."""
    return _torch_pix2pix(config) if isinstance(config, pix2pix.Config) else _torch_dcgan(config)


def _torch_pix2pix(config: pix2pix.Config) -> tuple[torch.nn.Module, torch.nn.Module]:
    import torch
    from torch import nn

    depth = min(config.size.bit_length() - 1, 8)
    widths = [config.base_filters * min(2**level, 8) for level in range(depth)]

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            before, self.down, self.up = 3, nn.ModuleList(), nn.ModuleList()
            for level, width in enumerate(widths):
                norm = [nn.InstanceNorm2d(width, affine=True)] if 0 < level < depth - 1 else []
                self.down.append(nn.Sequential(nn.Conv2d(before, width, 4, 2, 1, bias=False), *norm, nn.LeakyReLU(0.2)))
                before = width
            for level, width in enumerate(reversed(widths[:-1])):
                rest = [nn.InstanceNorm2d(width, affine=True), nn.Dropout(config.dropout if level < 3 else 0.0)]
                self.up.append(nn.Sequential(nn.ConvTranspose2d(before, width, 4, 2, 1, bias=False), *rest))
                before = 2 * width
            self.last = nn.ConvTranspose2d(before, 3, 4, 2, 1)

        def forward(self, x):
            skips = []
            for block in self.down:
                x = block(x)
                skips.append(x)
            for block, skip in zip(self.up, reversed(skips[:-1]), strict=True):
                x = torch.relu(torch.cat([block(x), skip], dim=1))
            return torch.tanh(self.last(x))

    layers: list[nn.Module] = []
    before = 6
    for level, width in enumerate([config.base_filters * factor for factor in (1, 2, 4, 8)]):
        layers.append(nn.Conv2d(before, width, 4, 2 if level < 3 else 1, 1, bias=False))
        if level:
            layers.append(nn.InstanceNorm2d(width, affine=True))
        layers.append(nn.LeakyReLU(0.2))
        before = width
    return UNet(), nn.Sequential(*layers, nn.Conv2d(before, 1, 4, 1, 1))


def _torch_dcgan(config: dcgan.Config) -> tuple[torch.nn.Module, torch.nn.Module]:
    from torch import nn

    smallest = config.size
    widths: list[int] = []
    while smallest > 7 and smallest % 2 == 0:
        smallest //= 2
        widths.append(config.base_filters * 2 ** len(widths))
    before = widths[-1]
    up: list[nn.Module] = [nn.Linear(config.latent_dim, before * smallest**2, bias=False)]
    up.append(nn.Unflatten(1, (before, smallest, smallest)))
    for width in [*reversed(widths[:-1]), config.channels]:
        up += [nn.BatchNorm2d(before, eps=1e-3), nn.ReLU()]
        up.append(nn.ConvTranspose2d(before, width, 4, 2, 1, bias=width == config.channels))
        before = width
    down: list[nn.Module] = []
    for level, width in enumerate(widths):
        down.append(nn.Conv2d(before, width, 4, 2, 1, bias=level == 0))
        if level:
            down.append(nn.BatchNorm2d(width, eps=1e-3))
        down.append(nn.LeakyReLU(0.2))
        before = width
    return nn.Sequential(*up, nn.Tanh()), nn.Sequential(*down, nn.Flatten(), nn.Linear(before * smallest**2, 1))


def make_torch_step(
    config: pix2pix.Config | dcgan.Config, networks: Sequence[torch.nn.Module]
) -> Callable[..., tuple[torch.Tensor, ...]]:
    """Return a recipe's step: uint8 [n, channels, size, size] (two of them for pairs) -> both losses."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    generator, discriminator = networks
    weights = [list(network.parameters()) for network in networks]
    betas = (config.beta_1, 0.999)
    optimizers = [torch.optim.Adam(each, config.learning_rate, betas, fused=True) for each in weights]

    def cross_entropy(target: float, logits: torch.Tensor) -> torch.Tensor:
        return binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))

    def step(*images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        pictures = [each.float() / 127.5 - 1.0 for each in images]
        if isinstance(config, pix2pix.Config):
            source, target = pictures
            made = generator(source)
            real_logits = discriminator(torch.cat([source, target], dim=1))
            fake_logits = discriminator(torch.cat([source, made], dim=1))
            l1 = (target - made).abs().mean()
            g_loss = config.gan_weight * cross_entropy(1.0, fake_logits) + config.l1_weight * l1
            d_loss = 0.5 * (cross_entropy(1.0, real_logits) + cross_entropy(0.0, fake_logits))
        else:
            made = generator(torch.randn(len(pictures[0]), config.latent_dim))
            real_logits, fake_logits = discriminator(pictures[0]), discriminator(made)
            g_loss = cross_entropy(1.0, fake_logits)
            d_loss = cross_entropy(1.0, real_logits) + cross_entropy(0.0, fake_logits)
        g_gradients = torch.autograd.grad(g_loss, weights[0], retain_graph=True)
        gradients = [g_gradients, torch.autograd.grad(d_loss, weights[1])]
        for network, values, optimizer in zip(weights, gradients, optimizers, strict=True):
            for weight, value in zip(network, values, strict=True):
                weight.grad = value
            optimizer.step()
        return g_loss.detach(), d_loss.detach()

    return step
