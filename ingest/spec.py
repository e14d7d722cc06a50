"""How a face is cut: the one definition that training and serving share.

A bundle stores a `PreprocessSpec`; `crop_window` turns a face box into the integer pixel window that
every decoder (DALI, Pillow, later Triton's Python backend) cuts. Nothing else may decide geometry.
"""

import math
from dataclasses import dataclass
from typing import Literal, Self

MAX_COORDINATE = 2**24  # pixels; no image is so large, and every sum of such numbers is finite

# Share of a face's box that must lie in the image for a score. A crop that is cut at an edge is stretched to a square,
# which is unlike photographs. Of 130 photographed faces cut at a side, the top or the bottom, under the starter bundle:
# with 60 % of the box left p <= 0.01 for 1 to 2 % and p <= 0.05 for 3 to 6 %; with 50 % left up to 5 % and 17 %.
MIN_VISIBLE_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class FaceBox:
    """A face in upright image pixels: `x` runs right, `y` runs down, both from the top-left corner.

    "Upright" means after the EXIF orientation is applied. The box may reach outside the image; its
    numbers lie between -2^24 and 2^24, and it has a positive area.

    Raises:
        ValueError: a number is NaN, infinite or out of bounds, or a side is not positive.
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
        """Return which share of the box's area lies in an image of these sides."""
        visible = self.clip(image_width, image_height)
        return visible.area / self.area if visible else 0.0

    def is_cut_off(self, image_width: int, image_height: int) -> bool:
        """Return whether too little of the box lies in an image of these sides for the face to be looked at."""
        return self.visible_share(image_width, image_height) < MIN_VISIBLE_SHARE

    def clip(self, image_width: int, image_height: int) -> "FaceBox | None":
        """Return the part of the box that lies in an image of these sides, or None when no part does."""
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
    """Everything between encoded bytes and the extractor's input.

    A crop is `uint8`, NHWC, `colour` ordered, `size` x `size`. Normalisation with `mean` and `std`
    (per channel, of values scaled to 0..1) is the first layer of the exported extractor, so that it
    exists once, and a crop costs a quarter of the memory traffic of a float tensor.
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
            TypeError: a field is missing or unknown, so the bundle was cut for another version.
        """
        lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        return cls(**{**fields, **lists})  # type: ignore[arg-type]


def crop_window(box: FaceBox, image_width: int, image_height: int, spec: PreprocessSpec) -> Window | None:
    """Return the window to cut for `box`, or None when it misses the image.

    The window is a square of `spec.margin` times the longer side of the box around its centre,
    widened to whole pixels and clipped to the image (the paper's crop, section IV-A); the resize then
    stretches it to `spec.size`. `image_width` and `image_height` are upright pixels.
    """
    half = max(box.width, box.height) * spec.margin / 2
    centre_x, centre_y = box.x + box.width / 2, box.y + box.height / 2
    left, right = max(0, math.floor(centre_x - half)), min(image_width, math.ceil(centre_x + half))
    top, bottom = max(0, math.floor(centre_y - half)), min(image_height, math.ceil(centre_y + half))
    if right <= left or bottom <= top:
        return None
    return Window(left, top, right - left, bottom - top)
