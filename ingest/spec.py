"""How a face is cut: the one definition that training and serving share.

A bundle stores a `PreprocessSpec`. `crop_window` computes from a face box the window in whole pixels that every path
(DALI on a CPU and on a GPU, Triton, Pillow) cuts. No other code computes a window.
"""

import math
from dataclasses import dataclass
from typing import Literal, Self

MAX_COORDINATE = 2**24  # pixels; no image is so large, and every sum of such numbers is finite

# Share of a face's box that must lie in the image for a score. A window that is cut at an edge is stretched to a
# square, which makes the face unlike photographs. Measured with the starter bundle on 130 photographed faces, cut at a
# side, the top or the bottom: with 60 % of the box left, p <= 0.01 for 1 to 2 % and p <= 0.05 for 3 to 6 % of the
# faces; with 50 % left, up to 5 % and 17 %.
MIN_VISIBLE_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class FaceBox:
    """A face in upright image pixels: `x` runs right, `y` runs down, both from the top-left corner.

    "Upright" means after the EXIF orientation is applied. A part of the box may lie outside the image. Its
    coordinates lie between -2^24 and 2^24, and its area is positive.

    Raises:
        ValueError: a number is NaN, infinite or out of range, or a side is not positive.
    """

    x: float
    y: float
    width: float
    height: float

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.x, self.y, self.width, self.height))):
            message = f"face box {self.as_tuple()} has a coordinate that is not a finite number"
            raise ValueError(message)
        if max(map(abs, self.as_tuple())) > MAX_COORDINATE:
            message = f"face box {self.as_tuple()} has a coordinate beyond {MAX_COORDINATE} pixels"
            raise ValueError(message)
        if self.width <= 0 or self.height <= 0:
            message = f"face box {self.as_tuple()} has no area"
            raise ValueError(message)

    def as_tuple(self) -> tuple[float, float, float, float]:
        """Return (x, y, width, height) in pixels."""
        return (self.x, self.y, self.width, self.height)

    @property
    def short_side(self) -> float:
        """The shorter side in pixels: what "a face of 100 px" refers to."""
        return min(self.width, self.height)

    @property
    def area(self) -> float:
        """Width times height in square pixels."""
        return self.width * self.height

    def visible_share(self, image_width: int, image_height: int) -> float:
        """Return the share of the box's area, 0 to 1, that lies in an image of these sides."""
        visible = self.clip(image_width, image_height)
        return visible.area / self.area if visible else 0.0

    def visible_short_side(self, image_width: int, image_height: int) -> float:
        """Return the shorter side in pixels of the part that lies in an image of these sides; 0 where there is none."""
        visible = self.clip(image_width, image_height)
        return visible.short_side if visible else 0.0

    def is_cut_off(self, image_width: int, image_height: int) -> bool:
        """Return whether too little of the box lies in an image of these sides to score the face."""
        return self.visible_share(image_width, image_height) < MIN_VISIBLE_SHARE

    def clip(self, image_width: int, image_height: int) -> "FaceBox | None":
        """Return the part of the box that lies in an image of these sides, or None where there is none."""
        left, right = max(0.0, self.x), min(float(image_width), self.x + self.width)
        top, bottom = max(0.0, self.y), min(float(image_height), self.y + self.height)
        if right <= left or bottom <= top:
            return None
        return FaceBox(left, top, right - left, bottom - top)


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of whole pixels inside an upright image; never empty."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class PreprocessSpec:
    """How encoded bytes become the extractor's input.

    A crop is `uint8`, NHWC, with channels in `colour` order, `size` x `size` pixels. The first layer of the exported
    extractor normalises with `mean` and `std` (per channel, of values scaled to 0..1): so the rule exists once, and a
    crop takes a quarter of the memory traffic of a float tensor.
    """

    size: int = 224
    margin: float = 1.3
    colour: Literal["RGB"] = "RGB"
    orientation: Literal["exif"] = "exif"
    clamp: Literal["image"] = "image"
    resize: Literal["stretch"] = "stretch"
    interpolation: Literal["triangular"] = "triangular"
    antialias: bool = True
    layout: Literal["NHWC"] = "NHWC"
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    @classmethod
    def from_json(cls, fields: dict[str, object]) -> Self:
        """Rebuild a spec from a bundle's JSON object.

        Raises:
            TypeError: a field is missing or unknown, so that the bundle is of another version.
        """
        lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        return cls(**{**fields, **lists})  # type: ignore[arg-type]


def crop_window(box: FaceBox, image_width: int, image_height: int, spec: PreprocessSpec) -> Window | None:
    """Return the window to cut for `box`, or None where it lies outside the image.

    The window is a square around the box's centre. Its side is `spec.margin` times the longer side of the box. It is
    widened to whole pixels and clipped to the image, as in the training of the authors' release; the paper states no
    crop. The resize then stretches it to `spec.size`. `image_width` and `image_height` are upright pixels.
    """
    half = max(box.width, box.height) * spec.margin / 2
    centre_x, centre_y = box.x + box.width / 2, box.y + box.height / 2
    left, right = max(0, math.floor(centre_x - half)), min(image_width, math.ceil(centre_x + half))
    top, bottom = max(0, math.floor(centre_y - half)), min(image_height, math.ceil(centre_y + half))
    if right <= left or bottom <= top:
        return None
    return Window(left, top, right - left, bottom - top)
