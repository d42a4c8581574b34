"""Random changes to training images: pure functions of (key, images), for use inside a step.

Images are floats [batch, height, width, channels] in [0, 1]; the result is float32. Strengths are
constants of what is compiled: Python numbers from 0 to 1,000,000, else a DataError.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp

from digits_jax.errors import DataError

Augment = Callable[[jax.Array, jax.Array], jax.Array]
_MOST = 1e6  # of any strength: beyond it are overflows, and nothing is left of an image
_AFFINE = {"rotation_degrees": 10.0, "scale_factor": 1.1, "shear_degrees": 8.0, "shift_pixels": 2.0}
_ELASTIC = {"rotation_degrees": 10.0, "scale_factor": 1.15, "shear_degrees": 10.0}
_ELASTIC |= {"elastic_pixels": 0.6}
# Strengths of the named policies, as `warp`, `cutout` and `add_noise` take them.
POLICIES: dict[str, dict[str, float]] = {
    "none": {},
    "shift": {"shift_pixels": 2.0},
    "affine": _AFFINE,
    "elastic": {**_ELASTIC, "shift_pixels": 2.0},
    # Of digits that are centred, as MNIST's are by their centres of mass.
    "centred": _ELASTIC,
    "cutout": {**_AFFINE, "cutout_pixels": 8},
    # Writers and cameras that MNIST doesn't have.
    "handwriting": {
        "rotation_degrees": 12.0,
        "scale_factor": 1.25,
        "shear_degrees": 12.0,
        "shift_pixels": 1.5,
        "elastic_pixels": 0.9,
        "stroke_change": 0.5,
        "blur": 0.6,
    },
    # The only one that changes pixels independently of their neighbours.
    "noise": {"noise_sd": 0.3},
}


def make_augment(policy: str, strength: float = 1.0) -> Augment | None:
    """Returns the function of a named policy, ``f(key, images) -> images``; None for "none".

    Args:
      policy: a name in `POLICIES`.
      strength: multiplies the policy's own strengths: 2 means 20 degrees for 10, and up to 1.3
        times the size for 1.15; the side of a square is rounded.

    Examples:
      >>> make_augment("none") is None
      True
      >>> make_augment("noise", 2.0).keywords
      {'noise_sd': 0.6}
    """
    if not isinstance(policy, str) or policy not in POLICIES:
        raise DataError(f"augment={policy!r}: must be one of {', '.join(POLICIES)}")
    _check_strength("augment_strength", strength)
    strengths = {name: strength * value for name, value in POLICIES[policy].items()}
    if "noise_sd" in strengths:
        return partial(add_noise, **strengths)
    if "scale_factor" in strengths:  # 1 means no scaling
        strengths["scale_factor"] += 1 - strength
    size = round(strengths.pop("cutout_pixels", 0))
    strokes = {n: min(strengths.pop(n), 1.0) for n in ("stroke_change", "blur") if n in strengths}
    if strokes:

        def warp_and_vary(key: jax.Array, images: jax.Array) -> jax.Array:
            warp_key, stroke_key = jax.random.split(key)
            return vary_strokes(stroke_key, warp(warp_key, images, **strengths), **strokes)

        return warp_and_vary
    if not size:
        return partial(warp, **strengths) if strengths else None

    def warp_and_cut(key: jax.Array, images: jax.Array) -> jax.Array:
        warp_key, cut_key = jax.random.split(key)
        return cutout(cut_key, warp(warp_key, images, **strengths), size_pixels=size)

    return warp_and_cut


def warp(
    key: jax.Array,
    images: jax.Array,
    *,
    rotation_degrees: float = 0.0,
    scale_factor: float = 1.0,
    shear_degrees: float = 0.0,
    shift_pixels: float = 0.0,
    elastic_pixels: float = 0.0,
    elastic_sigma_pixels: float = 4.0,
) -> jax.Array:
    """Rotates, scales, shears, shifts and bends each image by its own random amounts.

    All of it is one map of coordinates about the image's centre, sampled once (bilinear, zero
    outside), so that strokes are blurred no more than by a single change.

    Args:
      key: a JAX key.
      images: see the top of this module.
      rotation_degrees: angles are uniform in plus and minus this.
      scale_factor: width and height are each multiplied by a factor that is log-uniform
        between one over this and this; 1 leaves them.
      shear_degrees: slant, uniform in plus and minus this.
      shift_pixels: along each axis, uniform in plus and minus this.
      elastic_pixels: standard deviation of the displacement field.
      elastic_sigma_pixels: its smoothness, the standard deviation of the Gaussian that
        filters it.

    Examples:
      >>> images = jax.random.uniform(jax.random.key(0), (2, 28, 28, 1))
      >>> bool(jnp.all(warp(jax.random.key(1), images) == images))
      True

    Reference:
      Simard, Steinkraus and Platt, Best Practices for Convolutional Neural Networks Applied
      to Visual Document Analysis, 2003 (the elastic field).
    """
    _check_strength("rotation_degrees", rotation_degrees)
    _check_strength("scale_factor", scale_factor, least=1)
    _check_strength("shear_degrees", shear_degrees)
    _check_strength("shift_pixels", shift_pixels)
    _check_strength("elastic_pixels", elastic_pixels)
    _check_strength("elastic_sigma_pixels", elastic_sigma_pixels, least=1e-6)
    images = _float32(images)
    if not images.size:
        return images
    batch, height, width, _ = images.shape
    affine_key, elastic_key = jax.random.split(key)
    # Uniform in [-1, 1): angle, slant, two log scales, two shifts.
    angle, slant, *rest = jax.random.uniform(affine_key, (6, batch), minval=-1.0)
    log_scale_y, log_scale_x, shift_y, shift_x = rest
    angle = jnp.deg2rad(rotation_degrees) * angle
    slant = jnp.tan(jnp.deg2rad(shear_degrees) * slant)
    scale_y, scale_x = (scale_factor**s for s in (log_scale_y, log_scale_x))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    rows = jnp.stack([cos * scale_y, -sin * scale_y, shift_pixels * shift_y], -1)
    columns = jnp.stack([sin * scale_x + slant, cos * scale_x, shift_pixels * shift_x], -1)

    y, x = jnp.arange(height) - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2
    y, x = jnp.meshgrid(y, x, indexing="ij")
    grid = jnp.stack([y, x, jnp.ones_like(y)])
    # One matrix product: XLA on CPU would otherwise compute the sines again for each pixel, six
    # times over, in every operation that reads the coordinates, which doubled a CNN's step.
    source = jnp.einsum("cbi,ihw->cbhw", jnp.stack([rows, columns]), grid, precision="highest")
    if elastic_pixels:
        field = _smooth_field(elastic_key, batch, height, width, elastic_sigma_pixels)
        source = source + elastic_pixels * field
    return _sample(images, source[0] + (height - 1) / 2, source[1] + (width - 1) / 2)


def cutout(key: jax.Array, images: jax.Array, *, size_pixels: int) -> jax.Array:
    """Blanks a square of each image, with sides of ``size_pixels``, a whole number.

    Its centre is anywhere in the image, so a part of the square may be outside.

    Examples:
      >>> images = jnp.ones((1, 28, 28, 1))
      >>> blank = 784 - int(cutout(jax.random.key(0), images, size_pixels=8).sum())
      >>> 16 <= blank <= 64
      True

    Reference:
      DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout,
      2017.
    """
    _check_strength("size_pixels", size_pixels)
    if size_pixels != int(size_pixels):
        raise DataError(f"size_pixels={size_pixels}: must be a whole number")
    size_pixels = int(size_pixels)
    images = _float32(images)
    batch, height, width, _ = images.shape
    first = jax.random.randint(key, (2, batch, 1), 0, jnp.array([height, width])[:, None, None])
    first = first - size_pixels // 2

    def inside(start: jax.Array, size: int) -> jax.Array:
        place = jnp.arange(size)[None]
        return (place >= start) & (place < start + size_pixels)

    blank = inside(first[0], height)[:, :, None] & inside(first[1], width)[:, None, :]
    return jnp.where(blank[..., None], 0, images)


def vary_strokes(
    key: jax.Array, images: jax.Array, *, stroke_change: float = 0.0, blur: float = 0.0
) -> jax.Array:
    """Makes the strokes of each image thicker or thinner, and blurs it, by random amounts.

    Args:
      key: a JAX key.
      images: see the top of this module.
      stroke_change: at most 1; how far a pixel may go towards the largest or the smallest of its
        3x3 neighbours, uniform in plus and minus this.
      blur: at most 1; how far it may go then towards their binomial mean, uniform from 0.

    Examples:
      >>> images = jnp.zeros((1, 28, 28, 1)).at[:, :, 14].set(1)
      >>> changed = vary_strokes(jax.random.key(0), images, blur=1.0)
      >>> bool(0.5 < changed.max() < 1), round(float(changed.sum()))
      (True, 28)
    """
    _check_strength("stroke_change", stroke_change, most=1)
    _check_strength("blur", blur, most=1)
    images = _float32(images)
    amounts = jax.random.uniform(key, (2, len(images), 1, 1, 1), minval=-1.0)
    change, mixed = stroke_change * amounts[0], blur * jnp.abs(amounts[1])
    thick, thin = (_over_neighbours(images, most) for most in (jnp.maximum, jnp.minimum))
    images = images + jnp.where(change > 0, change * (thick - images), change * (images - thin))
    return images + mixed * (_binomial_mean(images) - images)


def _over_neighbours(
    images: jax.Array, combine: Callable[[jax.Array, jax.Array], jax.Array]
) -> jax.Array:
    """Combines each pixel with its 3x3 neighbours; outside is zero."""
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = combine(combine(padded[:, :-2], padded[:, 1:-1]), padded[:, 2:])
    return combine(combine(rows[:, :, :-2], rows[:, :, 1:-1]), rows[:, :, 2:])


def _binomial_mean(images: jax.Array) -> jax.Array:
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), "edge")
    rows = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    return (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4


def add_noise(key: jax.Array, images: jax.Array, *, noise_sd: float) -> jax.Array:
    """Adds Gaussian noise of a standard deviation to each pixel, and clips the result to [0, 1].

    Examples:
      >>> images = jnp.full((1, 28, 28, 1), 0.5)
      >>> round(float(add_noise(jax.random.key(0), images, noise_sd=0.1).std()), 1)
      0.1

    Reference:
      Sietsma and Dow, Creating artificial neural networks that generalize, 1991.
    """
    _check_strength("noise_sd", noise_sd)
    images = _float32(images)
    return jnp.clip(images + noise_sd * jax.random.normal(key, images.shape), 0, 1)


def _check_strength(name: str, value: Any, least: float = 0, most: float = _MOST) -> None:
    if not isinstance(value, (int, float)) or not least <= value <= most:
        raise DataError(f"{name}={value!r}: must be a number from {least:g} to {most:,.0f}")


def _float32(images: jax.Array) -> jax.Array:
    chex.assert_rank(images, 4)
    chex.assert_type(images, float)
    return jnp.asarray(images, jnp.float32)


def _smooth_field(key: jax.Array, batch: int, height: int, width: int, sigma: float) -> jax.Array:
    """Two Gaussian fields of unit variance, smooth over ``sigma`` pixels: [2, batch, h, w]."""
    # The noise is on a grid with spacing ``sigma``, not on every pixel: smoothed, it looks the
    # same, and drawing normal numbers is what an elastic warp spends its time on.

    def kernel(size: int) -> jax.Array:
        grid = jnp.arange(-sigma, size + 2 * sigma, sigma)
        weights = jnp.exp(-0.5 * ((jnp.arange(size)[:, None] - grid[None, :]) / sigma) ** 2)
        # Unit variance everywhere, at the border and between the grid's points too.
        return weights / jnp.sqrt(jnp.sum(weights**2, axis=1, keepdims=True))

    rows, columns = kernel(height), kernel(width)
    # One large product instead of two small ones for each image, which cost three times as much.
    both = jnp.einsum("ij,lk->jkil", rows, columns).reshape(-1, height, width)
    noise = jax.random.normal(key, (2, batch, len(both)))
    return jnp.einsum("cbk,khw->cbhw", noise, both, precision="highest")


def _sample(images: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
    """Bilinear samples of images at (y, x), both [batch, height, width]; zero outside."""
    batch, height, width, channels = images.shape
    # A border of two zeros: every coordinate, once clipped to it, has four neighbours.
    padded = jnp.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    y = jnp.clip(y + 2, 0.0, height + 2.0)
    x = jnp.clip(x + 2, 0.0, width + 2.0)
    y0, x0 = jnp.floor(y), jnp.floor(x)
    wy, wx = (y - y0).reshape(batch, -1, 1), (x - x0).reshape(batch, -1, 1)
    stride = width + 4
    index = (y0.astype(jnp.int32) * stride + x0.astype(jnp.int32)).reshape(batch, -1, 1)
    flat = padded.reshape(batch, -1, channels)

    def pixels(offset: int) -> jax.Array:
        return jnp.take_along_axis(flat, index + offset, axis=1, mode="clip")

    top = pixels(0) * (1 - wx) + pixels(1) * wx
    bottom = pixels(stride) * (1 - wx) + pixels(stride + 1) * wx
    return (top * (1 - wy) + bottom * wy).reshape(images.shape)
