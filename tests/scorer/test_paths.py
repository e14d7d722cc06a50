"""Which files a command line means."""

import io
import os
from pathlib import Path

import pytest

from ingest.reasons import Reason, Unscorable
from scorer.paths import UsageError, expand_paths, read_boxes, read_image, request_for


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two images in nested folders beside a text file."""
    (tmp_path / "in").mkdir()
    for name in ("a.JPG", "in/b.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def expand(*arguments: object, listed: str = "") -> list[Path]:
    """Expand command-line arguments with `listed` on standard input."""
    return expand_paths([str(argument) for argument in arguments], io.StringIO(listed))


def test_directory_means_the_images_below_it(archive: Path) -> None:
    """Images are found by name in every folder below, in order; other files are not."""
    assert expand(archive) == [archive / "a.JPG", archive / "in/b.png"]


def test_file_is_taken_whatever_its_name(archive: Path) -> None:
    """A file named outright is answered for even when it is no image."""
    assert expand(archive / "notes.txt") == [archive / "notes.txt"]


def test_glob_and_repetition(archive: Path) -> None:
    """A glob expands, and a file that two arguments name comes once."""
    assert expand(archive / "**/*.png", archive / "in") == [archive / "in/b.png"]


def test_standard_input_lists_files(archive: Path) -> None:
    """A dash reads one path per line; a listed file may be gone by then."""
    assert expand("-", listed=f"{archive}/a.JPG\n\n{archive}/gone.jpg\n") == [archive / "a.JPG", archive / "gone.jpg"]


@pytest.mark.parametrize("argument", ["missing.jpg", "none/*.jpg", "empty"])
def test_what_names_nothing_is_a_usage_error(tmp_path: Path, argument: str) -> None:
    """A missing file, a glob without match and a directory without images are refused by name."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=argument.split("/", maxsplit=1)[0]):
        expand(tmp_path / argument)


def test_unreadable_files_have_a_reason(tmp_path: Path) -> None:
    """A vanished file, a pipe, a link to itself and a large file each end as a typed reason, without blocking."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"12345")
    (tmp_path / "loop").symlink_to("loop")
    expected = {
        "gone": Reason.UNREADABLE,
        "pipe": Reason.UNREADABLE,
        "loop": Reason.UNREADABLE,
        "large": Reason.TOO_MANY_BYTES,
    }
    for name, reason in expected.items():
        with pytest.raises(Unscorable) as caught:
            read_image((tmp_path / name).as_uri(), max_bytes=4)
        assert caught.value.reason is reason


def test_forbidden_file_has_a_reason(tmp_path: Path) -> None:
    """A file that may not be read ends as a typed reason."""
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"x")
    secret.chmod(0)
    if os.access(secret, os.R_OK):
        pytest.skip("this user may read every file")
    with pytest.raises(Unscorable, match="unreadable"):
        read_image(secret.as_uri(), max_bytes=4)


def test_boxes_file_brings_the_faces(tmp_path: Path) -> None:
    """With boxes given, a request carries those of its image, and none when its image is not named."""
    file = tmp_path / "boxes.json"
    file.write_text('{"a.jpg": [{"face_id": "left", "box": [1, 2, 3, 4]}]}')
    boxes = read_boxes(file)
    named, other = request_for(Path("a.jpg"), boxes), request_for(Path("b.jpg"), boxes)
    assert named.faces is not None
    assert [face.box for face in named.faces] == [(1, 2, 3, 4)]
    assert other.faces == ()
    assert request_for(Path("a.jpg"), None).faces is None


@pytest.mark.parametrize("content", ["", "[]", '{"a.jpg": [{"face_id": "f", "box": [0, 0, 0, 0]}]}', '{"a.jpg": 3}'])
def test_bad_boxes_file_is_a_usage_error(tmp_path: Path, content: str) -> None:
    """A file that is no JSON, of another shape, or with an empty box is refused by name."""
    file = tmp_path / "boxes.json"
    file.write_text(content)
    with pytest.raises(UsageError, match=r"boxes\.json"):
        read_boxes(file)


def test_any_file_name_survives(tmp_path: Path) -> None:
    """A name with bytes that are no text, spaces and per cent signs is read back exactly and can be printed."""
    path = tmp_path / os.fsdecode(b"50% \xff #?.jpg")
    path.write_bytes(b"abc")
    request = request_for(path, None)
    assert read_image(str(request.image.uri), max_bytes=4) == b"abc"
    assert request.content_id.endswith("50% \\xff #?.jpg")
    assert request.model_dump_json()
