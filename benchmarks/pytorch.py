"""Pix2Pix, DCGAN and CycleGAN in PyTorch: the recipes' networks and steps again, for `benchmarks.speed` to time.

The arithmetic is the recipes': the same passes, batches put together where theirs are, all gradients before any update.
CycleGAN's rate stays even, where the recipe's falls. Fused Adam and contiguous memory are PyTorch's faster settings on
a CPU: its default Adam, and channels last, are slower.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from recipes import cyclegan, dcgan, pix2pix

if TYPE_CHECKING:
    import torch

Config = pix2pix.Config | dcgan.Config | cyclegan.Config

# %% Networks


def torch_networks(config: Config) -> tuple[torch.nn.Module, ...]:
    """Return a recipe's networks, in the order of its `build`, as PyTorch modules with the same layers."""
    if isinstance(config, dcgan.Config):
        return _torch_dcgan(config)
    if isinstance(config, pix2pix.Config):
        generator = _torch_unet(config.size, config.base_filters, config.dropout)
        return generator, _torch_patch_gan(6, config.base_filters, 3)
    if config.generator == "unet":
        make = functools.partial(_torch_unet, config.size, config.base_filters, 0.0)
    else:
        make = functools.partial(_torch_resnet, config.base_filters, config.residual_blocks)
    return make(), make(), *(_torch_patch_gan(3, config.base_filters, config.patch_layers) for _ in "ab")


def _torch_unet(size: int, base_filters: int, dropout: float) -> torch.nn.Module:
    import torch
    from torch import nn

    depth = min(size.bit_length() - 1, 8)
    widths = [base_filters * min(2**level, 8) for level in range(depth)]

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            before, self.down, self.up = 3, nn.ModuleList(), nn.ModuleList()
            for level, width in enumerate(widths):
                norm = [nn.InstanceNorm2d(width, affine=True)] if 0 < level < depth - 1 else []
                self.down.append(nn.Sequential(nn.Conv2d(before, width, 4, 2, 1, bias=False), *norm, nn.LeakyReLU(0.2)))
                before = width
            for level, width in enumerate(reversed(widths[:-1])):
                rest = [nn.InstanceNorm2d(width, affine=True), nn.Dropout(dropout if level < 3 else 0.0)]
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

    return UNet()


def _torch_resnet(base_filters: int, residual_blocks: int) -> torch.nn.Module:
    from torch import nn

    class Cropped(nn.ConvTranspose2d):
        def forward(self, *given):  # as TensorFlow does: twice the size, without the last row and column
            return super().forward(*given)[:, :, :-1, :-1]

    class Residual(nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    def normalised(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
        return [convolution, nn.InstanceNorm2d(convolution.out_channels, affine=True)]

    def mirrored(before: int, after: int, margin: int, bias: bool = False) -> nn.Conv2d:
        return nn.Conv2d(before, after, 2 * margin + 1, 1, margin, bias=bias, padding_mode="reflect")

    width = base_filters
    layers = [*normalised(mirrored(3, width, 3)), nn.ReLU()]
    for factor in (2, 4):
        halved = nn.Conv2d(width * factor // 2, width * factor, 3, 2, bias=False)
        layers += [nn.ZeroPad2d((0, 1, 0, 1)), *normalised(halved), nn.ReLU()]
    for _ in range(residual_blocks):
        first, second = (normalised(mirrored(4 * width, 4 * width, 1)) for _ in range(2))
        layers.append(Residual(*first, nn.ReLU(), *second))
    for factor in (2, 1):
        layers += [*normalised(Cropped(width * factor * 2, width * factor, 3, 2, bias=False)), nn.ReLU()]
    return nn.Sequential(*layers, mirrored(width, 3, 3, bias=True), nn.Tanh())


def _torch_patch_gan(channels: int, base_filters: int, halvings: int) -> torch.nn.Module:
    from torch import nn

    layers: list[nn.Module] = []
    before = channels
    for level in range(halvings + 1):
        width = base_filters * min(2**level, 8)
        layers.append(nn.Conv2d(before, width, 4, 2 if level < halvings else 1, 1, bias=False))
        if level:
            layers.append(nn.InstanceNorm2d(width, affine=True))
        layers.append(nn.LeakyReLU(0.2))
        before = width
    return nn.Sequential(*layers, nn.Conv2d(before, 1, 4, 1, 1))


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


# %% Steps


class TorchPool:
    """The pool of `common.domains`, in place: earlier images for a discriminator to learn from."""

    def __init__(self, capacity: int, size: int):
        import torch

        self.images = torch.zeros((capacity, 3, size, size))
        self.count = 0

    def exchange(self, images: torch.Tensor) -> torch.Tensor:
        """Return for each image itself, kept too while there is room; then, with chance 1/2, the one it replaces."""
        import torch

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


def make_torch_step(config: Config, networks: Sequence[torch.nn.Module]) -> Callable[..., tuple[torch.Tensor, ...]]:
    """Return a recipe's step: uint8 [n, channels, size, size] (an array for each kind) -> the sums of both losses."""
    import torch

    middle = len(networks) // 2  # generators, then as many discriminators; an optimizer for either
    weights = [[w for each in half for w in each.parameters()] for half in (networks[:middle], networks[middle:])]
    betas = (config.beta_1, 0.999)
    optimizers = [torch.optim.Adam(each, config.learning_rate, betas, fused=True) for each in weights]
    if isinstance(config, cyclegan.Config):
        gradients_of = _cyclegan_gradients(config, networks, weights)
    else:
        gradients_of = _gan_gradients(config, networks, weights)

    def step(*images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        losses, gradients = gradients_of(*(each.float() / 127.5 - 1.0 for each in images))
        for variables, values, optimizer in zip(weights, gradients, optimizers, strict=True):
            for weight, value in zip(variables, values, strict=True):
                weight.grad = value
            optimizer.step()
        return tuple(loss.detach() for loss in losses)

    return step


Gradients = Callable[..., tuple[tuple["torch.Tensor", ...], list[Sequence["torch.Tensor"]]]]
"""float32 images in [-1, 1] -> both losses; the gradients of the generators' and of the discriminators' weights."""


def _cross_entropy(target: float, logits: torch.Tensor) -> torch.Tensor:
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def _gan_gradients(
    config: pix2pix.Config | dcgan.Config,
    networks: Sequence[torch.nn.Module],
    weights: Sequence[Sequence[torch.Tensor]],
) -> Gradients:
    import torch

    generator, discriminator = networks

    def gradients_of(*pictures: torch.Tensor):
        if isinstance(config, pix2pix.Config):
            source, target = pictures
            made = generator(source)
            real_logits = discriminator(torch.cat([source, target], dim=1))
            fake_logits = discriminator(torch.cat([source, made], dim=1))
            l1 = (target - made).abs().mean()
            g_loss = config.gan_weight * _cross_entropy(1.0, fake_logits) + config.l1_weight * l1
            d_loss = 0.5 * (_cross_entropy(1.0, real_logits) + _cross_entropy(0.0, fake_logits))
        else:
            made = generator(torch.randn(len(pictures[0]), config.latent_dim))
            real_logits, fake_logits = discriminator(pictures[0]), discriminator(made)
            g_loss = _cross_entropy(1.0, fake_logits)
            d_loss = _cross_entropy(1.0, real_logits) + _cross_entropy(0.0, fake_logits)
        g_gradients = torch.autograd.grad(g_loss, weights[0], retain_graph=True)
        return (g_loss, d_loss), [g_gradients, torch.autograd.grad(d_loss, weights[1])]

    return gradients_of


def _cyclegan_gradients(
    config: cyclegan.Config, networks: Sequence[torch.nn.Module], weights: Sequence[Sequence[torch.Tensor]]
) -> Gradients:
    import torch

    a2b, b2a, judge_a, judge_b = networks
    pools = [TorchPool(config.pool, config.size) for _ in "ab"]

    def adversarial(target: float, logits: torch.Tensor) -> torch.Tensor:
        return ((logits - target) ** 2).mean() if config.loss == "least_squares" else _cross_entropy(target, logits)

    def l1(target: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        return (target - output).abs().mean()

    def judged(judge: torch.nn.Module, real: torch.Tensor, fake: torch.Tensor, pool: TorchPool) -> torch.Tensor:
        on_real, on_fake = judge(torch.cat([real, pool.exchange(fake)])).chunk(2)
        return 0.5 * (adversarial(1.0, on_real) + adversarial(0.0, on_fake))

    def gradients_of(a: torch.Tensor, b: torch.Tensor):
        fake_b, same_b = a2b(torch.cat([a, b])).chunk(2)
        fake_a, same_a = b2a(torch.cat([b, a])).chunk(2)
        cycle = l1(a, b2a(fake_b)) + l1(b, a2b(fake_a))
        identity = l1(a, same_a) + l1(b, same_b)
        gan = adversarial(1.0, judge_b(fake_b)) + adversarial(1.0, judge_a(fake_a))
        g_loss = gan + config.cycle_weight * cycle + config.identity_weight * identity
        g_gradients = torch.autograd.grad(g_loss, weights[0])  # its passes are free before the next ones begin
        d_loss = judged(judge_a, a, fake_a, pools[0]) + judged(judge_b, b, fake_b, pools[1])
        return (g_loss, d_loss), [g_gradients, torch.autograd.grad(d_loss, weights[1])]

    return gradients_of
