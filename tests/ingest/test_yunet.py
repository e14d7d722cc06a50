"""YuNet's rows: where a cell's box lies, and which files are refused."""

from pathlib import Path

import numpy as np
import pytest

from ingest.detect import TILES, DetectorSpec, load_detector, plan_scales
from ingest.yunet import decode_grid


def test_a_cell_gives_its_box() -> None:
    """Cell (column 2, row 1) of a grid with stride 8: centre and sides are in cells, the confidence is a mean."""
    cells = np.full((3, 4, 6), -9.0, np.float32)
    cells[1, 2] = (3, 1, 0.5, 0.25, np.log(4), np.log(5))
    ((x, y, width, height, confidence),) = decode_grid(cells, stride=8, min_confidence=0.5)
    assert (x + width / 2, y + height / 2) == (20.0, 10.0)
    assert (width, height) == pytest.approx((32, 40), abs=1e-5)
    assert confidence == pytest.approx(np.sqrt(1 / (1 + np.exp(-3)) / (1 + np.exp(-1))), abs=1e-6)


def test_numbers_that_overflow_give_finite_boxes() -> None:
    """The largest numbers of single precision give finite boxes."""
    rows = decode_grid(np.full((1, 1, 6), 3e38, np.float32), stride=32, min_confidence=0.5)
    assert np.isfinite(rows).all()


@pytest.mark.parametrize(
    ("size", "scale"), [((4032, 3024), 1 / 8), ((3000, 4000), 1 / 8), ((4608, 2592), 1 / 9), ((256, 192), 1.0)]
)
def test_phones_photographs_fill_one_tile(size: tuple[int, int], scale: float) -> None:
    """12 megapixels are decoded at an eighth, or fill one tile; a picture of a tile's size is not reduced."""
    spec = DetectorSpec()
    first = plan_scales(size, spec, spec.min_face_px)[0]
    assert first == pytest.approx(scale)
    assert any(size[0] * first <= width and size[1] * first <= height for width, height in TILES)


def test_refuses_a_file_of_another_network(root: Path) -> None:
    """The extractor's files are no YuNet, and the message names the file."""
    with pytest.raises(ValueError, match=r"face_extractor/1/model\.xml\.xz: "):
        load_detector(root / "model_repository", DetectorSpec(file="face_extractor/1/model.xml.xz"), threads=1)
