"""Which files a command line means."""

import io
import os
from pathlib import Path

import pytest

from ingest.reasons import Reason, Unscorable
from scorer.commands.inputs import (
    FacesMissing,
    FoundFile,
    FoundFiles,
    Skipped,
    assign_boxes,
    expand_paths,
    read_list,
    request_for,
)
from scorer.errors import UsageError
from scorer.face_boxes import read_boxes
from scorer.payloads.local_file import read_image


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two images in nested folders beside a text file."""
    (tmp_path / "in").mkdir()
    for name in ("a.JPG", "in/b.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def find(*arguments: object, listed: str = "", pictures: Path | None = None) -> FoundFiles:
    """Expand command-line arguments with `listed` on standard input."""
    return expand_paths([str(argument) for argument in arguments], io.BytesIO(listed.encode()), pictures)


def expand(*arguments: object, listed: str = "") -> list[Path]:
    """Return the paths of `find`."""
    return [file.path for file in find(*arguments, listed=listed).files]


def test_directory_means_the_images_below_it(archive: Path) -> None:
    """Images are found by name in every folder below, in order; other files are not."""
    assert expand(archive) == [archive / "a.JPG", archive / "in/b.png"]


def test_file_is_taken_whatever_its_name(archive: Path) -> None:
    """A named file has a result even if it is not an image."""
    assert expand(archive / "notes.txt") == [archive / "notes.txt"]


def test_glob_and_repetition(archive: Path) -> None:
    """A glob expands, and a file that two arguments name comes once."""
    assert expand(archive / "**/*.png", archive / "in") == [archive / "in/b.png"]


def test_standard_input_lists_files(archive: Path) -> None:
    """A dash reads one path per line; a listed file may be missing."""
    assert expand("-", listed=f"{archive}/a.JPG\n\n{archive}/gone.jpg\n") == [archive / "a.JPG", archive / "gone.jpg"]


@pytest.mark.parametrize("argument", ["missing.jpg", "none/*.jpg", "empty", "emp*"])
def test_what_names_nothing_is_a_usage_error(tmp_path: Path, argument: str) -> None:
    """A missing file, globs without match or image, and a directory without images are refused by name."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_bytes(b"x")
    with pytest.raises(UsageError, match=argument.split("/", maxsplit=1)[0].replace("*", r"\\*")):
        expand(tmp_path / argument)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b"\r\n\r\n", "a.jpg\n".encode("utf-16")])
def test_a_list_that_names_nothing_is_refused(content: bytes) -> None:
    """An empty list is a mistake, not an empty run; so is one in UTF-16."""
    with pytest.raises(UsageError, match="standard input"):
        read_list(content)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"a.jpg\nb c.jpg\n", ["a.jpg", "b c.jpg"]),
        (b"\xef\xbb\xbfa.jpg\r\nb.jpg\r\n", ["a.jpg", "b.jpg"]),
        (b"a.jpg\r\nb.jpg", ["a.jpg", "b.jpg"]),
        (b"a.jpg\r\n", ["a.jpg"]),
        (b"a.jpg\r\nb.jpg\n", ["a.jpg\r", "b.jpg"]),
        (b"a.jpg\r", ["a.jpg\r"]),
        (b"\xff.jpg", [os.fsdecode(b"\xff.jpg")]),
    ],
)
def test_lists_come_from_any_system(content: bytes, names: list[str]) -> None:
    """Byte-order marks and line ends of Windows are not part of a name; a single carriage return is."""
    assert read_list(content) == [Path(name) for name in names]


def test_what_a_folder_hides_is_counted(archive: Path) -> None:
    """Text, sidecars, links to folders and earlier pictures are left out, by reason; hidden images are not."""
    for name in (".hidden/a.jpg", ".b.jpg", "._a.JPG", "@eaDir/a.jpg", "drawn/a.jpg"):
        (archive / name).parent.mkdir(exist_ok=True)
        (archive / name).write_bytes(b"x")
    (archive / "circle").symlink_to(archive)
    found = find(archive, pictures=archive / "drawn")
    names = (".b.jpg", ".hidden/a.jpg", "a.JPG", "in/b.png")
    assert [file.path for file in found.files] == [archive / name for name in names]
    assert +found.skipped == {Skipped.SUFFIX: 1, Skipped.SIDECAR: 2, Skipped.LINKED: 1, Skipped.OWN_PICTURES: 1}


def test_a_folder_that_may_not_be_read_is_counted(archive: Path) -> None:
    """It does not vanish silently."""
    closed = archive / "closed"
    closed.mkdir()
    closed.chmod(0)
    if os.access(closed, os.R_OK):
        pytest.skip("this user may read every folder")
    assert find(archive).skipped[Skipped.UNREADABLE] == 1


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


BOX = '{"face_id": "left", "box": [1, 2, 3, 4]}'


def bring(
    folder: Path, *keys: str, found: FoundFiles, missing: FacesMissing = FacesMissing.ERROR
) -> dict[str, int | None]:
    """Return how many boxes each request has when a file names `keys`, one box each."""
    file = folder / "boxes.json"
    file.write_text("{" + ", ".join(f'"{key}": [{BOX}]' for key in keys) + "}")
    requests = map(request_for, assign_boxes(found, read_boxes(file), missing))
    return {request.content_id: None if request.faces is None else len(request.faces) for request in requests}


def test_boxes_are_found_by_the_paths_a_person_has(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key is the path as given, the whole path, or the path below the given folder; no boxes file finds faces."""
    monkeypatch.chdir(archive.parent)
    for keys in (
        ("a.JPG", "in/b.png"),
        (f"{archive}/a.JPG", "./in/b.png"),
        (f"{archive.name}/a.JPG", f"{archive.name}/in/b.png"),
    ):
        given = bring(archive, *keys, found=find(archive.name))
        assert given == {f"{archive.name}/a.JPG": 1, f"{archive.name}/in/b.png": 1}
    assert [file.faces for file in assign_boxes(find(archive), None)] == [None, None]


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        (("a.JPG",), r"in/b\.png"),
        (("a.JPG", "in/b.png", "c.png"), r"c\.png"),
        ((), r"a\.JPG"),
        (("a.JPG", "./a.JPG", "in/b.png"), r"\./a\.JPG"),
        (("a.JPG", "in/b.png", "{archive}/in/b.png"), r"in/b\.png"),
    ],
)
def test_boxes_and_files_that_do_not_meet_are_named(archive: Path, keys: tuple[str, ...], named: str) -> None:
    """A file without boxes, boxes without a file, and two keys for one file are refused before anything is scored."""
    with pytest.raises(UsageError, match=named):
        bring(archive, *(key.format(archive=archive) for key in keys), found=find(archive))


def test_boxes_for_two_files_are_refused(tmp_path: Path) -> None:
    """A name below two given folders is ambiguous."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jpg").write_bytes(b"x")
    with pytest.raises(UsageError, match="whole path"):
        bring(tmp_path, "a.jpg", found=find(tmp_path / "one", tmp_path / "two"))


def test_files_without_boxes_are_detected_or_skipped(archive: Path) -> None:
    """On request faces are found or files are skipped; unmatched files and boxes are counted."""
    found = find(archive)
    assert list(bring(archive, "a.JPG", "c", found=found, missing=FacesMissing.DETECT).values()) == [1, None]
    assert +found.skipped == {Skipped.SUFFIX: 1, Skipped.UNUSED_BOXES: 1}
    found = find(archive)
    assert list(bring(archive, "a.JPG", found=found, missing=FacesMissing.SKIP).values()) == [1]
    assert found.skipped[Skipped.NO_BOXES] == 1
    with pytest.raises(UsageError, match="none of the 2 files"):
        bring(archive, "c", found=find(archive), missing=FacesMissing.SKIP)


def test_too_many_boxes_are_refused_with_the_image(archive: Path) -> None:
    """What no request may hold is a usage error before the run, not a failure in it."""
    file = archive / "boxes.json"
    file.write_text(f'{{"a.JPG": [{", ".join([BOX] * 65)}]}}')
    with pytest.raises(UsageError, match=r"a\.JPG"):
        assign_boxes(FoundFiles([FoundFile(archive / "a.JPG", archive)]), read_boxes(file))


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"a.jpg": [{"face_id": "f", "box": [0, 0, 0, 0]}]}', '{"a.jpg": 3}', '{"a": [], "a": []}', "[" * 9999],
)
def test_bad_boxes_file_is_a_usage_error(tmp_path: Path, content: str) -> None:
    """A file that is not JSON, has another shape, an empty box or a repeated name is refused by name."""
    file = tmp_path / "boxes.json"
    file.write_text(content)
    with pytest.raises(UsageError, match=r"boxes\.json"):
        read_boxes(file)


def test_any_file_name_survives(tmp_path: Path) -> None:
    """A name with bytes that are not UTF-8, spaces and per cent signs is read back exactly and can be printed."""
    path = tmp_path / os.fsdecode(b"50% \xff #?.jpg")
    path.write_bytes(b"abc")
    request = request_for(FoundFile(path))
    assert read_image(str(request.image.uri), max_bytes=4) == b"abc"
    assert request.content_id.endswith("50% \\xff #?.jpg")
    assert request.model_dump_json()
    assert len(request_for(FoundFile(Path("x" * 9000))).content_id) < 4096
