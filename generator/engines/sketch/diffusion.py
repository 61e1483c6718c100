"""An oracle diffusion: the denoising previews of a picture that is already known.

The schedule is the one Stable Diffusion was trained with (``scaled_linear`` betas from
0.00085 to 0.012 over 1000 steps; Rombach et al. 2022, and ``scheduling_ddim.py`` and
``scheduling_euler_discrete.py`` in diffusers). With x0 known, the deterministic DDIM
trajectory (Song et al. 2021, eq. 12) is ``x_t = sqrt(ab_t) x0 + sqrt(1 - ab_t) eps`` with one
fixed eps. What a denoiser believes x0 to be at t is the posterior mean under its prior;
under a Gaussian prior with the power spectrum of natural images, about 1/f² (Field 1987),
that is a Wiener filter per spatial frequency: large masses of colour come out of the fog
first, detail last.

It is computed in the cosine domain: mirrored edges need no padding, an orthonormal transform
of white noise is white noise again (so eps is drawn where it is used), and frequencies that
the filter suppresses are cut off, so that early previews cost next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from generator.engines.sketch.painting.colour import Field
from generator.engines.sketch.painting.noise import Random

TRAIN_TIMESTEPS = 1000
_BETA_START, _BETA_END = 0.00085, 0.012
_FEW_STEPS = 8
"""Models drawn in so few steps are distilled ones: trailing spacing, better guesses."""

_LATENT_FACTOR = 8.0
"""Pixels a latent: the noise is as strong at a frequency as noise on a grid this coarse."""
_KNOWLEDGE = 0.09
"""Share of the noise power left to a denoiser that knows more than a Gaussian prior does."""
_SLOPE = 1.3
"""The prior's power falls with frequency to minus twice this."""
_GRAIN = 0.12
"""How much of the posterior's spread is shown: a denoiser's guess is never a plain blur."""
_NEGLIGIBLE = 0.02
_PREVIEW_EDGE = 680
"""Longest edge of a preview before it is enlarged, pixels."""
_UNIT = 52.0
"""8-bit codes for one standard deviation of luma."""


@lru_cache(maxsize=1)
def alphas_cumprod() -> npt.NDArray[np.float64]:
    """The cumulative product of 1 - beta for training timesteps 0 to 999."""
    betas = np.linspace(_BETA_START**0.5, _BETA_END**0.5, TRAIN_TIMESTEPS) ** 2
    return np.asarray(np.cumprod(1.0 - betas), np.float64)


def timesteps(steps: int) -> tuple[int, ...]:
    """The descending timesteps that `steps` inference steps visit.

    ``leading`` spacing with an offset of 1, as SD 1.5 and SDXL are configured; ``trailing``
    for few steps, as turbo models are (Lin et al. 2023, "Common diffusion noise schedules and
    sample steps are flawed", table 2).
    """
    if steps <= _FEW_STEPS:
        spaced = np.round(np.arange(TRAIN_TIMESTEPS, 0, -TRAIN_TIMESTEPS / steps)) - 1
        return tuple(int(t) for t in spaced[:steps])
    stride = TRAIN_TIMESTEPS / steps
    return tuple(
        min(round(index * stride) + 1, TRAIN_TIMESTEPS - 1) for index in range(steps - 1, -1, -1)
    )


def _smooth(size: int) -> int:
    """The smallest length not below `size` without a prime factor above 5: quick to transform."""
    while True:
        rest = size
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 1


def _twiddle(size: int) -> npt.NDArray[np.complex64]:
    turn = np.exp(-0.5j * np.pi * np.arange(size) / size) * np.sqrt(2.0 / size)
    turn[0] *= np.sqrt(0.5)
    return np.asarray(turn, np.complex64)


def _dct(field: Field) -> Field:
    """Orthonormal DCT-II along the last axis, by one FFT of the same length (Makhoul 1980)."""
    size = field.shape[-1]
    shuffled = np.concatenate([field[..., ::2], field[..., 1::2][..., ::-1]], axis=-1)
    half = np.fft.rfft(shuffled, axis=-1)
    turned = half * _twiddle(size)[: half.shape[-1]]
    result = np.empty(field.shape, np.float32)
    result[..., : half.shape[-1]] = turned.real
    # The missing half of a real signal's spectrum is the conjugate of the first.
    upper = np.arange(half.shape[-1], size)
    mirrored = np.conj(half[..., size - upper]) * _twiddle(size)[upper]
    result[..., half.shape[-1] :] = mirrored.real
    return result


def _idct(field: Field) -> Field:
    """The inverse of `_dct`, along the last axis."""
    size = field.shape[-1]
    count = size // 2 + 1
    flipped = np.zeros((*field.shape[:-1], count), np.float32)
    flipped[..., 1:] = field[..., ::-1][..., : count - 1]
    unturn = np.conj(np.exp(-0.5j * np.pi * np.arange(count) / size)).astype(np.complex64)
    scale = np.full(count, np.sqrt(size / 2.0), np.float32)
    scale[0] = np.sqrt(size)
    spectrum = (field[..., :count] - 1j * flipped) * (unturn * scale)
    shuffled = np.fft.irfft(spectrum.astype(np.complex64), n=size, axis=-1)
    result = np.empty(field.shape, np.float32)
    middle = (size + 1) // 2
    result[..., ::2] = shuffled[..., :middle]
    result[..., 1::2] = shuffled[..., middle:][..., ::-1]
    return result


def _dct2(field: Field) -> Field:
    return np.ascontiguousarray(_dct(np.ascontiguousarray(_dct(field).T)).T)


def _idct2(field: Field) -> Field:
    return np.ascontiguousarray(_idct(np.ascontiguousarray(_idct(field).T)).T)


class OracleDenoiser:
    """Predicted-x0 previews on the way to `final`, perhaps from a `base` image.

    Args:
        final: the finished picture, RGB.
        rng: where eps comes from.
        steps: inference steps of the schedule; few make the denoiser a distilled one.
        base: for image-to-image, what the trajectory starts from, same size as `final`.
    """

    def __init__(
        self, final: Image.Image, rng: Random, steps: int, base: Image.Image | None = None
    ) -> None:
        scale = min(1.0, _PREVIEW_EDGE / max(final.size))
        self._size = final.size
        self._grid = (_smooth(round(final.width * scale)), _smooth(round(final.height * scale)))
        self._final = final.convert("YCbCr")
        self._x0 = self._transform(self._final)
        self._base = None if base is None else self._transform(base.convert("YCbCr"))
        shape = (3, self._grid[1], self._grid[0])
        self._eps = rng.standard_normal(shape, dtype=np.float32)
        self._grain = rng.standard_normal(shape, dtype=np.float32)
        # Spatial frequency in half cycles over the picture's height, both axes alike.
        rows = np.arange(self._grid[1], dtype=np.float32)[:, None]
        columns = np.arange(self._grid[0], dtype=np.float32)[None, :]
        frequency2 = rows**2 + (columns * self._grid[1] / self._grid[0]) ** 2
        power = ((frequency2 + 2.0) ** -_SLOPE).astype(np.float32)
        self._power = power / power.mean()
        # Each plane's prior has the variance that the picture has; the mean is not noise's.
        self._variance = [float(np.mean(plane[1:, 1:] ** 2)) + 1e-3 for plane in self._x0]
        pixels_each = final.height / self._grid[1]
        latent = _LATENT_FACTOR / max(pixels_each, 1.0)
        distilled = min(1.0, steps / (2 * _FEW_STEPS))
        self._noise_power = (latent * distilled) ** 2 * _KNOWLEDGE

    def _transform(self, image: Image.Image) -> Field:
        small = image.resize(self._grid, Image.Resampling.BOX, reducing_gap=2.0)
        codes = np.asarray(small, dtype=np.float32)
        return np.stack([_dct2((codes[..., index] - 128.0) / _UNIT) for index in range(3)])

    def preview(self, timestep: int, progress: float) -> Image.Image:
        """What the denoiser believes the finished picture to be.

        Args:
            timestep: 0 to 999.
            progress: 0 at the first step, 1 at the last: how far from the base the
                denoiser has been drawn; without a base it means nothing.

        Returns:
            A picture of the final's size, mode YCbCr.
        """
        alpha = float(alphas_cumprod()[timestep])
        planes = [self._plane(index, alpha, progress) for index in range(3)]
        image = Image.merge("YCbCr", planes)
        # Above the preview grid's own frequencies the filter goes on: blend the detail in.
        finest = float(self._power[-1, -1])
        gain = alpha * finest / (alpha * finest + (1.0 - alpha) * self._noise_power)
        return image if gain < _NEGLIGIBLE else Image.blend(image, self._final, gain)

    def _plane(self, index: int, alpha: float, progress: float) -> Image.Image:
        prior = self._power * np.float32(self._variance[index])
        noise = (1.0 - alpha) * self._noise_power
        kept = alpha * prior / (alpha * prior + noise)
        height = self._reach(kept[:, 0])
        width = self._reach(kept[0, :])
        prior, kept = prior[:height, :width], kept[:height, :width]
        x0 = self._x0[index, :height, :width]
        if self._base is not None:
            base = self._base[index, :height, :width]
            x0 = base + (x0 - base) * np.float32(progress)
        believed = kept * (
            x0 + self._eps[index, :height, :width] * np.float32(np.sqrt(noise / alpha))
        )
        spread = np.sqrt(prior * (1.0 - kept)) * np.sqrt(kept)
        believed += np.float32(_GRAIN) * spread * self._grain[index, :height, :width]
        shrink = np.sqrt(height * width / (self._grid[0] * self._grid[1]))
        codes = _idct2(believed * np.float32(shrink)) * np.float32(_UNIT) + 128.5
        plane = Image.fromarray(np.clip(codes, 0, 255).astype(np.uint8))
        return plane.resize(self._size, Image.Resampling.BICUBIC)

    @staticmethod
    def _reach(kept: Field) -> int:
        """How many frequencies along an axis still matter."""
        above = int(np.count_nonzero(kept > _NEGLIGIBLE))
        return min(len(kept), _smooth(max(12, above)))


def progressions(count: int) -> Sequence[float]:
    """How far from its base image a run of `count` steps has gone at each step, 0 to 1."""
    return [((index + 1) / count) ** 0.7 for index in range(count)]
