"""Our recipe as a PyTorch user would write it: python -m experiments.peers.torch_train

It is the fastest plain PyTorch that we know of on CPU: all images in one uint8 tensor, batches by
index (a DataLoader would only cost), fused AdamW, and nothing read back between steps.
"""

import math
import os
import sys
import time

import torch
from torch import nn

from experiments.peers import torch_nets
from experiments.peers.flags import parse_flags
from experiments.peers.mnist import read_mnist
from experiments.peers.server import serve

ENDLESS = 10**6  # steps of the schedule, where `compare` says how many there are


def make_model(args) -> nn.Module:
    """The net, in the memory format that is asked for."""
    more = {"batch_norm": not args.no_batch_norm, "dropout": args.dropout}
    if args.arch == "cnn":
        model = torch_nets.cnn(args.channels, args.convs_per_block, args.dense_size, **more)
    else:
        model = torch_nets.mlp(args.hidden_sizes, **more)
    return model.to(memory_format=torch.channels_last) if args.channels_last else model


def make_optimizer(model: nn.Module, args) -> torch.optim.Optimizer:
    """AdamW that decays matrices and filters, not biases and normalisation."""
    kernels = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": kernels}, {"params": others, "weight_decay": 0.0}]
    rates = {"lr": args.learning_rate, "weight_decay": args.weight_decay}
    return torch.optim.AdamW(groups, **rates, fused=True)


def make_step(model: nn.Module, optimizer, args):
    """``step(images, labels) -> loss``: uint8 images [batch, 1, 28, 28], one update."""
    loss_fn = nn.CrossEntropyLoss(label_smoothing=args.label_smoothing)
    forward = torch.compile(model) if args.compile else model

    def step(images, labels):
        images = to_float(images, args)
        if args.affine:
            amounts = torch.rand(6, len(images)) * 2 - 1
            images = torch_nets.warp(images, amounts, args.affine)
        optimizer.zero_grad(set_to_none=True)
        with autocast(args):
            loss = loss_fn(forward(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    return step


def to_float(images: torch.Tensor, args) -> torch.Tensor:
    """uint8 in [0, 255] to float32 in [0, 1]."""
    images = images.float().div_(255)
    return images.to(memory_format=torch.channels_last) if args.channels_last else images


def autocast(args):
    """bfloat16 where it is asked for."""
    return torch.autocast("cpu", torch.bfloat16, enabled=args.dtype == "bfloat16")


def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, args) -> float:
    """Over all images, in evaluation mode."""
    model.eval()
    correct = 0
    with torch.inference_mode(), autocast(args):
        for some, answers in zip(images.split(1000), labels.split(1000), strict=True):
            correct += (model(to_float(some, args)).argmax(1) == answers).sum().item()
    return correct / len(labels)


def main(argv: list[str]) -> None:
    """Trains and scores; or runs steps as it is told."""
    started = time.perf_counter()
    args = parse_flags(argv, __doc__)
    torch.manual_seed(args.seed)
    arrays = read_mnist(args.data_dir)
    images, test_images = (torch.from_numpy(a.copy()).unsqueeze(1) for a in arrays[::2])
    labels, test_labels = (torch.from_numpy(a.astype("int64")) for a in arrays[1::2])
    model = make_model(args)
    optimizer = make_optimizer(model, args)
    steps = math.ceil(args.epochs * len(labels) / args.batch_size)
    total = ENDLESS if args.worker else steps
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.learning_rate, total_steps=total, pct_start=0.1, cycle_momentum=False
    )
    step = make_step(model, optimizer, args)

    def run_steps(count):
        model.train()
        epochs = math.ceil(count * args.batch_size / len(labels))
        order = torch.cat([torch.randperm(len(labels)) for _ in range(epochs)])
        for indices in order[: count * args.batch_size].split(args.batch_size):
            step(images[indices], labels[indices])
            schedule.step()

    if args.worker:
        run_steps(5)  # what is compiled or tuned on the first calls isn't measured
        serve(run_steps, threads=torch.get_num_threads(), pid=os.getpid())
        return
    train_started = time.perf_counter()
    run_steps(steps)
    seconds = time.perf_counter() - train_started
    reached = accuracy(model, test_images, test_labels, args)
    whole = time.perf_counter() - started
    print(f"test accuracy {reached:.2%}; training {seconds:.2f} s, of {whole:.2f} s since imports")


if __name__ == "__main__":
    main(sys.argv[1:])
