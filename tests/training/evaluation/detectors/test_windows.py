"""Windows: the pixels of the file, read from disk, and nothing is detected twice."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image
from rich.console import Console

from ingest.detect import DetectorSpec
from ingest.reference import decode_upright
from ingest.spec import PreprocessSpec
from scorer.commands.progress import Progress
from training.evaluation.detectors import windows as windows_module
from training.evaluation.detectors.windows import CutRule, Windows, cut_windows
from training.evaluation.generated import LocatedPart, PictureCutter


def cut(folder: Path, rule: CutRule, cache: Path, **options: int) -> tuple[Windows, Progress]:
    """Return the windows of `folder` and the progress."""
    with Progress("cutting", None, "pictures", Console(file=io.StringIO())) as progress:
        return cut_windows(folder, rule, cache, progress, **options), progress


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two portraits of two sources, one on its side, a blank picture and a damaged file."""
    folder = tmp_path / "photographs"
    (folder / "camera").mkdir(parents=True)
    (folder / "phone" / "deeper").mkdir(parents=True)
    portrait = Image.fromarray(skimage.data.astronaut()).crop((40, 0, 460, 380))
    portrait.save(folder / "camera" / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = portrait.transpose(Image.Transpose.ROTATE_90)
    turned.save(folder / "phone" / "deeper" / "turned.jpg", quality=90, subsampling="4:2:0", exif=exif)
    Image.new("RGB", (256, 256), "grey").save(folder / "phone" / "blank.png")
    whole = (folder / "phone" / "deeper" / "turned.jpg").read_bytes()
    (folder / "phone" / "quarter.jpg").write_bytes(whole[: len(whole) // 4])
    return folder


@pytest.fixture
def rule(root: Path) -> CutRule:
    """The starter bundle's detector, on one thread."""
    return CutRule(root / "model_repository", threads=1)


def test_windows_have_the_pixels_of_the_file(photographs: Path, rule: CutRule, tmp_path: Path) -> None:
    """Each window is a part of the upright picture as Pillow decodes it."""
    found, progress = cut(photographs, rule, tmp_path / "cache")
    assert found.names.tolist() == ["camera/upright.png", "phone/deeper/turned.jpg"]
    assert found.sources.tolist() == ["camera", "phone"]
    assert found.jpeg_qualities.tolist() == [0, 90]
    assert found.examined == progress.done == progress.total == 4
    assert sum(found.dropped.values()) == 2
    assert found.dropped["no_face"] == 1
    cutter = rule.open_cutter()
    for name, pixels, side in zip(found.names, found.pictures, found.short_sides, strict=True):
        path = photographs / str(name)
        located = cutter.locate(path)
        window = located.encoded.window
        whole = decode_upright(path.read_bytes())
        expected = whole[window.top : window.top + window.height, window.left : window.left + window.width]
        np.testing.assert_array_equal(pixels, expected)
        assert side == located.short_side > 90


def test_nothing_is_detected_twice(
    photographs: Path, rule: CutRule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a kill only missing chunks are cut; a third call needs no detector."""
    monkeypatch.setattr(windows_module, "PICTURES_PER_CHUNK", 1)
    cache = tmp_path / "cache"
    first, _ = cut(photographs, rule, cache)
    record = next(path for path in sorted(cache.rglob("*.json")) if json.loads(path.read_text())["windows"])
    record.unlink()
    located: list[str] = []
    locate = PictureCutter.locate

    def count(cutter: PictureCutter, path: Path) -> LocatedPart | None:
        located.append(path.relative_to(photographs).as_posix())
        return locate(cutter, path)

    monkeypatch.setattr(PictureCutter, "locate", count)
    second, progress = cut(photographs, rule, cache)
    assert located == [first.names[0]]
    assert progress.done == progress.total == 4
    third, _ = cut(photographs, CutRule(tmp_path / "absent"), cache)
    for again in (second, third):
        assert again.names.tolist() == first.names.tolist()
        assert all(np.array_equal(*pair) for pair in zip(again.pictures, first.pictures, strict=True))


@pytest.mark.slow
def test_other_inputs_are_cut_again(photographs: Path, rule: CutRule, tmp_path: Path) -> None:
    """The files of other pictures or another rule are not used."""
    cache, whole = tmp_path / "cache", replace(rule, part="image")
    cut(photographs, whole, cache)
    cut(photographs, replace(whole, preprocess=PreprocessSpec(margin=1.0)), cache)
    cut(photographs, replace(whole, detector=DetectorSpec(min_confidence=0.6)), cache)
    cut(photographs, whole, cache, most=3)
    (photographs / "phone" / "blank.png").unlink()
    cut(photographs, whole, cache)
    assert len(list(cache.iterdir())) == 5


def test_selected_windows_stay_on_disk(photographs: Path, rule: CutRule, tmp_path: Path) -> None:
    """A selection by rows or a mask and a slice give the same pictures as their indices."""
    found, _ = cut(photographs, rule, tmp_path / "cache")
    one = found.select(np.array([False, True]))
    assert one.names.tolist() == found.names[1:].tolist()
    np.testing.assert_array_equal(one.pictures[0], found.pictures[1])
    np.testing.assert_array_equal(found.pictures[1:][0], found.pictures[1])
    np.testing.assert_array_equal(found.select(np.array([1, 0])).pictures[1], found.pictures[0])


def test_a_folder_without_a_face_is_named(tmp_path: Path, rule: CutRule) -> None:
    """The error says how many pictures there are and why they were left out."""
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (256, 256), "grey").save(tmp_path / "empty" / "blank.png")
    with pytest.raises(FileNotFoundError, match=r"no face was found in the 1 pictures of .*empty: \{'no_face': 1\}"):
        cut(tmp_path / "empty", rule, tmp_path / "cache")
