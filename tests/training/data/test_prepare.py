"""`prepare` from end to end: its results, interruptions, and the resume after them."""

import io
import json
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from ingest.spec import FaceBox, PreprocessSpec
from scorer.errors import Exit, TrainingInterrupted
from tests.training.data.drawn_photos import ROLES, DrawnPhotos, draw, make_cutter, prepare_drawn
from tests.training.data.landmark_weights import write_weights
from training.cli import app, main
from training.data.chunks import PrepareProgress
from training.data.cutting import FaceCutter
from training.data.indexing import index_run
from training.data.photos import Photo
from training.data.shards import SETTINGS, load_role
from training.recipes import paper, starter
from training.run_recipe import check_cut

CHILD = """
    import pathlib, resource, signal, sys, time
    from tests.training.data.drawn_photos import *
    run = pathlib.Path(sys.argv[1])
    cutter = make_cutter(run)
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random landmark weights."""
    folder = tmp_path_factory.mktemp("landmarks")
    write_weights(folder)
    return folder


@pytest.fixture(scope="module")
def cutter(tmp_path_factory: pytest.TempPathFactory) -> FaceCutter:
    """The real cutter with one thread."""
    return make_cutter(tmp_path_factory.mktemp("detector"))


def prepare(run: Path, photos: DrawnPhotos, cutter: FaceCutter, roles: dict[str, str] = ROLES) -> dict[str, object]:
    """Prepare in chunks of 16 photographs and return the facts."""
    inputs, records = prepare_drawn(run, photos, cutter, roles)
    return index_run(run, records, inputs, starter())


def start_child(run: Path, code: str) -> subprocess.Popen[str]:
    """Prepare in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD) + textwrap.dedent(code), str(run)],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        text=True,
    )


def assert_same_faces(one: Path, other: Path) -> None:
    """Compare all faces of two runs."""
    for role in ("train", "fit"):
        first, second = load_role(one, role), load_role(other, role)
        assert first.photos.tolist() == second.photos.tolist()
        assert np.array_equal(np.asarray(first.crops), np.asarray(second.crops))
        assert np.array_equal(np.asarray(first.wide), np.asarray(second.wide))
        assert np.array_equal(first.landmarks, second.landmarks)
        assert np.array_equal(first.tags, second.tags, equal_nan=True)


@pytest.fixture(scope="module")
def whole(cutter: FaceCutter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without interruption: 40 photographs in three chunks."""
    run = tmp_path_factory.mktemp("whole")
    prepare(run, DrawnPhotos(40), cutter)
    return run


def test_faces_come_out_by_role(whole: Path) -> None:
    """Each role has the pictures, tags, sizes and sources of its own photographs only."""
    train, fit = load_role(whole, "train"), load_role(whole, "fit")
    assert (len(train), len(fit)) == (27, 13)
    assert set(train.sources) == {"ann"}
    assert set(fit.sources) == {"bob"}
    assert train.wide[:].shape == (27, 320, 320, 3)
    assert train.crops[:].shape == (27, 224, 224, 3)
    assert train.tags[:3, 0].tolist() == [2.0, 3.0, 5.0]
    assert train.short_sides.tolist() == [50.0] * 27
    shrunk = Image.fromarray(train.wide[0]).resize((224, 224))
    assert np.abs(np.asarray(shrunk, dtype=int) - train.crops[0]).mean() < 2


def test_ctrl_c_keeps_what_is_done(whole: Path, cutter: FaceCutter, tmp_path: Path) -> None:
    """The second call does only the rest, with the result of one call."""
    with pytest.raises(TrainingInterrupted, match="of 40 photographs: the same command resumes from there"):
        prepare(tmp_path, DrawnPhotos(40, stop_at=20), cutter)
    with pytest.raises(FileNotFoundError, match="until it finishes"):
        load_role(tmp_path, "train")
    resumed = DrawnPhotos(40, stop_at=3)  # a photograph of the first chunk, which is finished: it is not read again
    prepare(tmp_path, resumed, cutter)
    assert_same_faces(whole, tmp_path)


@pytest.mark.slow
def test_kill_9_keeps_what_is_done(whole: Path, cutter: FaceCutter, tmp_path: Path) -> None:
    """After a process is killed behind its first chunk, the next process gives the same result."""
    child = start_child(
        tmp_path,
        """
        read = DrawnPhotos.read
        DrawnPhotos.read = lambda self, number: (time.sleep(0.1), read(self, number))[1]
        prepare_drawn(run, DrawnPhotos(40), cutter, ROLES)
        """,
    )
    while not (tmp_path / "faces" / "chunks" / "000000.json").exists():
        assert child.poll() is None, "the process exited by itself"
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    (tmp_path / "faces" / "train" / "000001.partial").mkdir()  # as after a kill during the write of a shard
    prepare(tmp_path, DrawnPhotos(40, stop_at=3), cutter)
    assert_same_faces(whole, tmp_path)
    assert not list((tmp_path / "faces").rglob("*.partial"))


def test_a_full_disk_is_one_error(whole: Path, cutter: FaceCutter, tmp_path: Path) -> None:
    """A full disk leaves no partial shard; the error states the space to free."""
    child = start_child(
        tmp_path,
        """
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))  # as a quota, without a disk to fill
        try:
            prepare_drawn(run, DrawnPhotos(40), cutter, ROLES)
        except Exception as error:
            print(type(error).__name__, error)
        """,
    )
    output, _ = child.communicate()
    assert output.startswith("TrainingInterrupted the disk of ")
    assert "GiB; the same command then resumes from there" in output
    assert not [path for path in (tmp_path / "faces").rglob("*") if path.name.isdigit()]
    prepare(tmp_path, DrawnPhotos(40), cutter)
    assert_same_faces(whole, tmp_path)


def test_nothing_is_done_twice(whole: Path, cutter: FaceCutter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second call on a finished run lists the photographs but reads none."""
    monkeypatch.setattr(DrawnPhotos, "read", lambda *_: pytest.fail("a photograph is read again"))
    facts = prepare(whole, DrawnPhotos(40), cutter)
    assert facts["photographs"] == facts["faces"] == 40


@pytest.mark.parametrize(
    ("photos", "roles", "change"),
    [
        (DrawnPhotos(43), ROLES, r"source 'ann' had 27 photographs and has 29 now; source 'bob' had 13 .* 14 now"),
        (DrawnPhotos(40), {"ann": "test", "bob": "fit"}, "source 'ann' had the role train and has the role test now"),
        (DrawnPhotos(2), {"ann": "train"}, "source 'ann' had 27 .*; source 'bob' is missing"),
    ],
)
def test_other_photographs_are_refused(
    photos: DrawnPhotos, roles: dict[str, str], change: str, whole: Path, cutter: FaceCutter
) -> None:
    """Other photographs or roles are refused with what differs, and keep the run."""
    before = sorted((path, path.stat().st_mtime_ns) for path in whole.rglob("*"))
    with pytest.raises(ValueError, match=rf"was prepared from other photographs \({change}\): use another run folder"):
        prepare(whole, photos, cutter, roles)
    assert sorted((path, path.stat().st_mtime_ns) for path in whole.rglob("*")) == before


def test_renamed_photographs_are_refused(whole: Path, cutter: FaceCutter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photographs of the same sources in another order or with other names are other photographs."""
    listed = list(DrawnPhotos(40).list_photos())
    monkeypatch.setattr(DrawnPhotos, "list_photos", lambda _: reversed(listed))
    with pytest.raises(ValueError, match="their names or their order differ"):
        prepare(whole, DrawnPhotos(40), cutter)


def test_other_settings_are_refused(whole: Path, cutter: FaceCutter) -> None:
    """A run with other settings is refused; the error names the settings that differ."""
    other = FaceCutter(cutter.detector, cutter.landmarker, PreprocessSpec(margin=1.5), 50, 1)
    with pytest.raises(ValueError, match=r"prepared with other settings \(min_face_px, preprocess\)"):
        prepare(whole, DrawnPhotos(40), other)


def test_faces_that_serving_does_not_score_are_left_out(cutter: FaceCutter, portrait: bytes) -> None:
    """A face that the border cuts off is dropped, whoever says where it is."""
    side = 200.0
    cut, whole = (FaceBox(left, 0, side, side) for left in (-0.41 * side, -0.39 * side))
    counting = FaceCutter(cutter.detector, cutter.landmarker, cutter.spec, 64, 1)
    photo = Photo("a.png", "ann", lambda: portrait, (cut, whole))
    assert [face.box for face in counting.find(photo)] == [whole]
    assert counting.dropped == {("ann", "face_cut_off"): 1}
    eyes, strip = Image.open(io.BytesIO(portrait)).convert("RGB"), io.BytesIO()
    eyes = eyes.resize((1536, 1536), Image.Resampling.LANCZOS).crop((510, 285, 870, 385))
    eyes.resize((240, 66), Image.Resampling.LANCZOS).save(strip, "PNG")
    assert counting.find(replace(photo, read=strip.getvalue, boxes=None)) == []
    assert counting.dropped == {("ann", "face_cut_off"): 2, ("ann", "photo_without_large_face"): 1}


def test_the_visible_part_of_a_face_decides_its_size(cutter: FaceCutter, portrait: bytes) -> None:
    """A face with 73 visible pixels of 81 is used from 72 px on, not from 74 px on."""
    border = io.BytesIO()
    Image.open(io.BytesIO(portrait)).convert("RGB").crop((200, 0, 512, 512)).save(border, "PNG")
    photo = Photo("a.png", "ann", border.getvalue, None)
    kept, left_out = (FaceCutter(cutter.detector, cutter.landmarker, cutter.spec, least, 1) for least in (72, 74))
    (face,) = kept.find(photo)
    assert face.box.short_side > 80
    assert [cut.short_side for cut in kept.cut([face])] == [face.box.visible_short_side(312, 512)]
    assert left_out.find(photo) == []
    assert left_out.dropped == {("ann", "photo_without_large_face"): 1}


def test_a_run_of_another_version_is_refused(cutter: FaceCutter, tmp_path: Path) -> None:
    """Faces that an earlier version selected are neither read nor continued."""
    prepare(tmp_path, DrawnPhotos(3), cutter)
    settings = tmp_path / SETTINGS
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"layout": 1}))
    with pytest.raises(ValueError, match=r"prepared with other settings \(layout\)"):
        prepare(tmp_path, DrawnPhotos(3), cutter)
    index = tmp_path / "faces" / "train" / "index.npz"
    with np.load(index) as arrays:
        np.savez(index, **{name: values for name, values in arrays.items() if name != "layout"})
    with pytest.raises(ValueError, match="prepare the photographs again, in another run folder"):
        load_role(tmp_path, "train")


def test_training_needs_faces_cut_as_the_recipe_serves_them(
    cutter: FaceCutter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recipe without antialiasing is refused on faces cut with it."""
    prepare(tmp_path, DrawnPhotos(3), cutter)
    check_cut(tmp_path, starter())
    monkeypatch.setattr(sys, "argv", ["unlensed-train", "train", str(tmp_path), "--recipe", "released"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == Exit.USAGE
    assert "were cut with another antialias than the recipe released states" in capsys.readouterr().err


def test_duplicates_are_dropped_across_roles(
    cutter: FaceCutter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A photograph with a recompressed copy in another role is kept once, as its largest file."""
    monkeypatch.setattr(DrawnPhotos, "read", lambda _, number: draw(0, quality=40) if number == 2 else draw(number, 95))
    facts = prepare(tmp_path, DrawnPhotos(6), cutter)
    assert facts["dropped"] == {"near_duplicate": 1}
    assert facts["sources"]["bob"]["dropped"] == {"near_duplicate": 1}
    assert load_role(tmp_path, "fit").photos.tolist() == ["5.jpg"]
    assert len(load_role(tmp_path, "train")) == 4


def test_damaged_photographs_are_counted_by_reason(
    cutter: FaceCutter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damaged and missing files each have a reason; the others are kept."""
    damaged = {0: b"", 1: b"no image at all", 3: draw(3)[:900]}

    def read(_: DrawnPhotos, number: int) -> bytes:
        if number == 4:
            raise FileNotFoundError(number)
        return damaged.get(number, draw(number))

    monkeypatch.setattr(DrawnPhotos, "read", read)
    facts = prepare(tmp_path, DrawnPhotos(9), cutter)
    assert facts["dropped"].pop("photo_empty") == 1
    assert facts["dropped"].pop("photo_unsupported_format") == 1
    assert facts["dropped"].pop("photo_unreadable") == 1
    assert sum(facts["dropped"].values()) == 1  # the truncated image: found by its markers or by the decoder
    assert facts["faces"] == 5


def test_pictures_without_tags_cause_a_warning(cutter: FaceCutter, tmp_path: Path) -> None:
    """Generated pictures given as photographs have no camera tags, which a warning reports."""
    facts = prepare(tmp_path, DrawnPhotos(6, tags=False), cutter)
    assert any("no photograph has camera tags" in warning for warning in facts["warnings"])


def test_one_camera_and_few_faces_are_reported(cutter: FaceCutter, tmp_path: Path) -> None:
    """One camera is a warning, and each too small number is in the minimums."""
    inputs, records = prepare_drawn(tmp_path, DrawnPhotos(9), cutter, ROLES)
    facts = index_run(tmp_path, records, inputs, paper())
    assert any("from one camera, Maker One" in warning for warning in facts["warnings"])
    found = [(row["role"], row["present"], row["count"], row["unit"], row["enough"]) for row in facts["minimums"]]
    assert found == [
        ("train", 6, 256, "faces", False),
        ("fit", 3, 8, "faces", False),
        ("calibrate", 0, 72, "photographs", False),
        ("calibrate", 0, 368, "photographs", False),
        ("calibrate", 0, 3688, "photographs", False),
        ("test", 0, 2, "sources", False),
    ]


def test_progress_without_a_terminal_is_a_json_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line has the numbers of photographs and faces, and the faces per second."""
    monkeypatch.setattr("scorer.commands.progress.INTERVAL_S", 0.0)
    output = io.StringIO()
    with PrepareProgress("preparing", None, "photographs", Console(file=output)) as progress:
        progress.begin(total=100, done=90)
        progress.count(5, 7)
    line = json.loads(output.getvalue())
    assert (line["done"], line["total"], line["faces"]) == (95, 100, 7)
    assert line["faces_per_s"] >= 0
    assert line["left_s"] >= 0


def test_the_command_prepares_and_draws_a_preview(portrait: bytes, weights: Path, tmp_path: Path) -> None:
    """A report is written, and a preview in which each manipulation changes the face."""
    folder = tmp_path / "photos" / "nasa"
    folder.mkdir(parents=True)
    Image.open(io.BytesIO(portrait)).resize((1024, 1024)).save(folder / "astronaut.png")
    (folder / "notes.txt").write_text("no picture")
    run, sheet = tmp_path / "run", tmp_path / "sheet.png"
    arguments = ["prepare", str(run), "--photos", str(tmp_path / "photos"), "--shares", "train=1"]
    result = CliRunner().invoke(app, [*arguments, "--landmarks", str(weights), "--preview", str(sheet)])
    assert result.exit_code == 0, result.output
    facts = json.loads((run / "prepare.json").read_text())
    assert facts["faces"] == 1
    assert facts["dropped"] == {"photo_unsupported_format": 1}
    pixels = np.asarray(Image.open(sheet), dtype=int)
    assert pixels.shape == (28 + 8 + 232, 8 + 5 * 232, 3)
    crops = [pixels[36:260, 8 + 232 * column :][:, :224] for column in range(5)]
    assert all((crop != crops[0]).any() for crop in crops[1:])


def test_minimums_are_printed_before_and_after_the_work(portrait: bytes, weights: Path, tmp_path: Path) -> None:
    """Every minimum is printed with listed and found numbers, and what has no role."""
    for name in ("ann/1.png", "bob/2.png", "bob/3.png", "club/4.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw(0))
    Image.open(io.BytesIO(portrait)).resize((1024, 1024)).save(tmp_path / "photos" / "ann" / "1.png")
    (tmp_path / "roles.csv").write_text("source,role\nann,train\nclub,test\n")
    options = [
        "--photos",
        str(tmp_path / "photos"),
        "--roles",
        str(tmp_path / "roles.csv"),
        "--landmarks",
        str(weights),
    ]
    result = CliRunner().invoke(app, ["prepare", str(tmp_path / "run"), *options])
    assert result.exit_code == 0, result.output
    listed, found = result.output.split("what was listed")[1].split("what was found")
    cells = {tuple(line.split()) for line in listed.splitlines()}
    assert ("fit", "1", "face", "a", "mixture", "with", "1", "or", "more", "components", "0", "too", "few") in cells
    rate = ("a", "false-alarm", "rate", "of", "1", "%", "0", "too", "few")
    assert ("calibrate", "368", "photographs", *rate) in cells
    sources = json.loads((tmp_path / "run" / "prepare.json").read_text())["sources"]
    assert sources["club"] == {"role": "test", "faces": 0, "dropped": {"photo_without_large_face": 1}}
    assert "left out: 2 photographs of sources without a role: 'bob' (2)" in result.output
    assert "camera tags: 0 of 1 photographs of the role train that were read have all four" in listed
    assert ("train", "24", "faces", "1", "too", "few") in {
        (*cells[:3], *cells[-3:]) for cells in map(str.split, found.splitlines())
    }
    repeated = CliRunner().invoke(app, ["prepare", str(tmp_path / "run"), *options[:2], "--landmarks", str(weights)])
    assert "was prepared from other photographs" in str(repeated.exception)


def test_photographs_without_a_face_are_an_error(weights: Path, tmp_path: Path) -> None:
    """A run without a usable face is an error, after the report of the dropped photographs."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "empty.jpg").write_bytes(draw(0))
    arguments = ["prepare", str(tmp_path / "run"), "--photos", str(tmp_path / "photos"), "--landmarks", str(weights)]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, ValueError)
    assert "none of 1 photographs has a usable face" in str(result.exception)
    assert "1 photo_without_large_face" in result.output
