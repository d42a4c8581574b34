"""Our two nets as PyTorch modules.

images: float32 [batch, 1, 28, 28] in [0, 1]; logits: [batch, 10].
"""

from collections.abc import Sequence

import torch
from torch import nn


def cnn(
    channels: Sequence[int] = (24, 48),
    convs_per_block: int = 1,
    dense_size: int = 128,
    *,
    batch_norm: bool = True,
    dropout: float = 0.0,
) -> nn.Sequential:
    """`digits_jax.models.cnn.CNN`: BatchNorm after the pooling, 2x2 pixels folded to channels."""
    layers: list[nn.Module] = [nn.PixelUnshuffle(2)]
    before, side = 4, 14
    for size in channels:
        for place in range(convs_per_block):
            layers.append(nn.Conv2d(before, size, 3, padding=1, bias=not batch_norm))
            if place == convs_per_block - 1:
                layers.append(nn.MaxPool2d(2))
                side //= 2
            if batch_norm:
                layers.append(nn.BatchNorm2d(size))
            layers.append(nn.ReLU())
            before = size
    layers.append(nn.Flatten())
    before *= side * side
    if dense_size:
        layers += _dense(before, dense_size, batch_norm)
        before = dense_size
    return nn.Sequential(*layers, *_dropout(dropout), nn.Linear(before, 10))


def mlp(
    hidden_sizes: Sequence[int] = (512, 512), *, batch_norm: bool = True, dropout: float = 0.0
) -> nn.Sequential:
    """`digits_jax.models.mlp.MLP`."""
    layers: list[nn.Module] = [nn.Flatten()]
    before = 28 * 28
    for size in hidden_sizes:
        layers += [*_dense(before, size, batch_norm), *_dropout(dropout)]
        before = size
    return nn.Sequential(*layers, nn.Linear(before, 10))


def _dense(before, size, batch_norm):
    norm = [nn.BatchNorm1d(size)] if batch_norm else []
    return [nn.Linear(before, size, bias=not batch_norm), *norm, nn.ReLU()]


def _dropout(share):
    return [nn.Dropout(share)] if share else []


def warp(images: torch.Tensor, amounts: torch.Tensor, strengths: Sequence[float]) -> torch.Tensor:
    """`digits_jax.data.augment.warp` without its elastic field.

    Args:
      images: float32 [batch, 1, side, side].
      amounts: float32 [6, batch], uniform in [-1, 1): angle, slant, log scale of y and x, shift
        of y and x.
      strengths: rotation in degrees, scale factor, shear in degrees, shift in pixels.
    """
    rotation, scale, shear, shift = strengths
    angle, slant, log_y, log_x, shift_y, shift_x = amounts
    angle = torch.deg2rad(rotation * angle)
    slant = torch.tan(torch.deg2rad(shear * slant))
    scale_y, scale_x = scale**log_y, scale**log_x
    # affine_grid measures from -1 to 1 over the image's side.
    unit = 2 * shift / images.shape[-1]
    cos, sin = torch.cos(angle), torch.sin(angle)
    columns = torch.stack([cos * scale_x, sin * scale_x + slant, unit * shift_x], -1)
    rows = torch.stack([-sin * scale_y, cos * scale_y, unit * shift_y], -1)
    grid = nn.functional.affine_grid(
        torch.stack([columns, rows], 1), list(images.shape), align_corners=False
    )
    return nn.functional.grid_sample(images, grid, align_corners=False)
