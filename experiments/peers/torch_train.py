"""Our recipe as a PyTorch user would write it: python -m experiments.peers.torch_train RECIPE

It is the fastest plain PyTorch that we know of on CPU: all images in one uint8 tensor, batches by
index (a DataLoader would only cost), fused AdamW, and nothing read back between steps.
Images are float32 [batch, 1, 28, 28] in [0, 1], logits [batch, 10].
"""

import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from experiments.peers.common import ENDLESS, read_mnist, read_recipe, serve


def make_model(recipe: Any) -> nn.Module:
    """Makes `digits_jax.models.cnn.CNN` or `digits_jax.models.mlp.MLP`, in its memory format."""
    layers: list[nn.Module] = []
    if recipe.arch == "cnn":
        layers.append(nn.PixelUnshuffle(2))
        before, side = 4, 14
        for size in recipe.channels:
            for place in range(recipe.convs_per_block):
                layers.append(nn.Conv2d(before, size, 3, padding=1, bias=not recipe.batch_norm))
                if place == recipe.convs_per_block - 1:
                    layers.append(nn.MaxPool2d(2))
                    side //= 2
                layers += [nn.BatchNorm2d(size)] if recipe.batch_norm else []
                layers.append(nn.ReLU())
                before = size
        before *= side * side
        dense_sizes = [recipe.dense_size] if recipe.dense_size else []
    else:
        before, dense_sizes = 28 * 28, recipe.hidden_sizes
    layers.append(nn.Flatten())
    for size in dense_sizes:
        layers.append(nn.Linear(before, size, bias=not recipe.batch_norm))
        layers += [nn.BatchNorm1d(size)] if recipe.batch_norm else []
        layers.append(nn.ReLU())
        layers += [nn.Dropout(recipe.dropout)] if recipe.dropout else []
        before = size
    if recipe.dropout and not dense_sizes:
        layers.append(nn.Dropout(recipe.dropout))
    model: Any = nn.Sequential(*layers, nn.Linear(before, 10))
    return model.to(memory_format=torch.channels_last) if recipe.channels_last else model


def warp(images: torch.Tensor, amounts: torch.Tensor, strengths: Sequence[float]) -> torch.Tensor:
    """Warps images as `digits_jax.data.augment.warp`, without its elastic field.

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


def make_optimizer(model: nn.Module, recipe: Any) -> torch.optim.Optimizer:
    """Makes AdamW that decays matrices and filters, not biases and normalization."""
    kernels = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": kernels}, {"params": others, "weight_decay": 0.0}]
    rates = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    return torch.optim.AdamW(groups, **rates, fused=True)


def make_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, recipe: Any
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Makes ``step(images, labels) -> loss``: uint8 images [batch, 1, 28, 28], one update."""
    loss_fn = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    forward = torch.compile(model) if recipe.compile else model

    def step(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        images = to_float(images, recipe)
        if recipe.affine:
            amounts = torch.rand(6, len(images)) * 2 - 1
            images = warp(images, amounts, recipe.affine)
        optimizer.zero_grad(set_to_none=True)
        with autocast(recipe):
            loss = loss_fn(forward(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    return step


def to_float(images: torch.Tensor, recipe: Any) -> torch.Tensor:
    """Converts uint8 in [0, 255] to float32 in [0, 1]."""
    images = images.float().div_(255)
    return images.to(memory_format=torch.channels_last) if recipe.channels_last else images


def autocast(recipe: Any) -> torch.autocast:
    """Computes in bfloat16 if the recipe asks for it."""
    return torch.autocast("cpu", torch.bfloat16, enabled=recipe.dtype == "bfloat16")


def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, recipe: Any) -> float:
    """Scores all images in evaluation mode."""
    model.eval()
    correct = 0
    with torch.inference_mode(), autocast(recipe):
        for some, answers in zip(images.split(1000), labels.split(1000), strict=True):
            correct += (model(to_float(some, recipe)).argmax(1) == answers).sum().item()
    return correct / len(labels)


def main(argv: list[str]) -> None:
    """Trains and scores; or takes steps when asked to."""
    recipe = read_recipe(argv)
    torch.manual_seed(recipe.seed)
    arrays = read_mnist(recipe.data_dir)
    images, test_images = (torch.from_numpy(a.copy()).unsqueeze(1) for a in arrays[::2])
    labels, test_labels = (torch.from_numpy(a.astype("int64")) for a in arrays[1::2])
    model = make_model(recipe)
    optimizer = make_optimizer(model, recipe)
    steps = math.ceil(recipe.epochs * len(labels) / recipe.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        recipe.learning_rate,
        total_steps=ENDLESS if recipe.worker else steps,
        pct_start=0.1,
        cycle_momentum=False,
    )
    step = make_step(model, optimizer, recipe)

    def run_steps(count: int) -> None:
        model.train()
        epochs = math.ceil(count * recipe.batch_size / len(labels))
        order = torch.cat([torch.randperm(len(labels)) for _ in range(epochs)])
        for indices in order[: count * recipe.batch_size].split(recipe.batch_size):
            step(images[indices], labels[indices])
            schedule.step()

    if recipe.worker:
        run_steps(5)  # the first calls compile and tune
        serve(run_steps, threads=torch.get_num_threads())
        return
    started = time.perf_counter()
    run_steps(steps)
    seconds = time.perf_counter() - started
    reached = accuracy(model, test_images, test_labels, recipe)
    print(f"test accuracy {reached:.2%}; training {seconds:.2f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
