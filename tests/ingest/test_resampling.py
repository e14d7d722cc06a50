"""Marks of resampled images, on generated pictures whose history is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from ingest.image_metadata import ImageMetadata
from ingest.resampling import (
    MIN_CAMERA_SIDE_PX,
    MIN_HIGH_BAND,
    MIN_JPEG_QUALITY,
    ResamplingMark,
    find_marks,
    measure_high_band,
    measure_high_bands,
)

SIDE = 224


def draw(side: int, seed: int) -> NDArray[np.uint8]:
    """Return a picture (side, side, 3) whose amplitudes fall with frequency as those of photographs do."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    spectrum = np.fft.rfft2(rng.standard_normal((side, side))) / np.maximum(frequency, 1 / side) ** 1.5
    grey = np.fft.irfft2(spectrum, (side, side))
    levels = np.clip(128 + 60 * grey / grey.std(), 0, 255).astype(np.uint8)
    return np.repeat(levels[:, :, None], 3, axis=2)


@pytest.mark.parametrize("kernel", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])
@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_an_enlarged_picture_lacks_detail(kernel: Image.Resampling, factor: int, seed: int) -> None:
    """A picture that any usual kernel enlarged has less than half of the fine detail of an original one."""
    small = Image.fromarray(draw(SIDE // factor, seed))
    assert measure_high_band(np.asarray(small.resize((SIDE, SIDE), kernel))) < measure_high_band(draw(SIDE, seed)) / 2
    assert measure_high_band(draw(SIDE, seed)) > 2 * MIN_HIGH_BAND


@given(level=st.integers(0, 255), size=st.integers(128, 300))
def test_a_flat_crop_has_no_share(level: int, size: int) -> None:
    """The share of detail of a crop of one colour is NaN."""
    assert math.isnan(measure_high_band(np.full((size, size, 3), level, np.uint8)))


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(128, 300))
def test_the_share_is_between_0_and_1(seed: int, size: int) -> None:
    """The share of detail of any crop lies between 0 and 1."""
    crop = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    assert 0 <= measure_high_band(crop) <= 1


@pytest.mark.parametrize(
    ("size", "metadata", "bands", "marks"),
    [
        ((4000, 3000), ImageMetadata(), [], ()),
        ((4000, 3000), ImageMetadata("Canon", 95, 4000, 3000), [0.2, math.nan], ()),
        ((3000, 4000), ImageMetadata("Canon", 95, 4000, 3000), [], ()),
        ((4000, 2250), ImageMetadata("Canon", 95, 4000, 3000), [], ()),
        ((2000, 1500), ImageMetadata("Canon", 95, 4000, 3000), [], (ResamplingMark.RESIZED,)),
        ((2000, 1500), ImageMetadata("Canon", 95, 4000, None), [], ()),
        ((MIN_CAMERA_SIDE_PX, 480), ImageMetadata(), [], ()),
        ((480, MIN_CAMERA_SIDE_PX - 1), ImageMetadata(), [], (ResamplingMark.THUMBNAIL,)),
        ((4000, 3000), ImageMetadata("", MIN_JPEG_QUALITY), [], ()),
        ((4000, 3000), ImageMetadata("", MIN_JPEG_QUALITY - 1), [], (ResamplingMark.LOW_QUALITY,)),
        ((4000, 3000), ImageMetadata(), [MIN_HIGH_BAND / 2], (ResamplingMark.UPSAMPLED,)),
        ((4000, 3000), ImageMetadata(), [MIN_HIGH_BAND / 2, MIN_HIGH_BAND], ()),
        ((4000, 3000), ImageMetadata(), [math.nan], ()),
        ((200, 200), ImageMetadata("", 10, 300, 300), [0.01], tuple(ResamplingMark)),
    ],
)
def test_marks(
    size: tuple[int, int], metadata: ImageMetadata, bands: list[float], marks: tuple[ResamplingMark, ...]
) -> None:
    """Each mark is given on one side of its threshold, and one sharp face is enough for an image without the mark."""
    assert find_marks(*size, metadata, bands) == marks


@pytest.mark.parametrize("size", [128, 224, 225])
def test_a_batch_gives_the_share_of_each_crop(size: int) -> None:
    """A batch, as a GPU measures it, gives the shares of single crops, and NaN where these are NaN."""
    crops = np.stack([*(draw(size, seed) for seed in range(3)), np.full((size, size, 3), 77, np.uint8)])
    np.testing.assert_allclose(
        measure_high_bands(crops, np), [measure_high_band(crop) for crop in crops], rtol=1e-4, equal_nan=True
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_share_follows_its_definition(seed: int) -> None:
    """Luminance, window, spectrum and octaves in double precision, written directly, give the same share."""
    crop = draw(SIDE, seed)
    crop[..., 1] //= 2  # coloured
    middle = slice((SIDE - 128) // 2, (SIDE + 128) // 2)
    luminance = crop[middle, middle].astype(float) @ [0.299, 0.587, 0.114]
    window = np.outer(np.hanning(128), np.hanning(128))
    energy = np.abs(np.fft.fft2((luminance - luminance.mean()) * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128))
    upper, lower = (energy[(frequency >= low) & (frequency < 2 * low)].sum() for low in (0.25, 0.125))
    assert measure_high_band(crop) == pytest.approx(upper / (upper + lower), rel=1e-4)
