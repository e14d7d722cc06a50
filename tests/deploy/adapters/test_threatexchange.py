"""The classifier, with the real package threatexchange and a real service."""

import io
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from tests.deploy.adapters.conftest import Load
from tests.scorer.api.conftest import Client, Serve


@pytest.fixture(scope="module", name="adapter")
def fixture_adapter(load: Load) -> ModuleType:
    """The adapter."""
    return load("threatexchange/unlensed_classifier.py")


def test_labels_follow_the_decision(
    adapter: ModuleType, client: Client, portrait: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A portrait, a picture without a face and a damaged file have their labels and the service's p-value."""
    from threatexchange.content_type.photo import PhotoContent  # noqa: PLC0415 - after the package was found

    monkeypatch.setenv("UNLENSED_URL", client.url)
    classifier = adapter.UnlensedClassifier.get_with_default_settings()
    assert classifier.get_name() == "unlensed"
    assert classifier.get_content_types() == [PhotoContent]
    white = io.BytesIO()
    Image.new("RGB", (200, 200), "white").save(white, "PNG")
    found = {}
    for name, data in {"portrait": portrait, "white": white.getvalue(), "damaged": portrait[:5000]}.items():
        (tmp_path / name).write_bytes(data)
        found[name] = classifier.classify(PhotoContent, str(tmp_path / name))
    (result,) = client.post_files(("a", portrait)).json()["results"]
    info = found["portrait"].labels["unlike_photographs"]
    assert (info.is_match, info.p_value) == (result["decision"] == "flag", result["faces"][0]["p_value"])
    assert {name: sorted(each.positive_labels) for name, each in found.items() if name != "portrait"} == {
        "white": ["no_face"],
        "damaged": ["needs_review"],
    }


def test_a_flagged_face_is_a_match_with_its_p_value(adapter: ModuleType) -> None:
    """The text for people has the label and p of the least typical face."""
    faces = [{"p_value": 0.5}, {"p_value": 0.0029}, {"p_value": None}]
    labelled = adapter.label_result({"faces": faces, "decision": "flag", "status": "scored"})
    assert labelled.has_match
    assert str(labelled) == "unlike_photographs(p=0.0029)"


def test_a_refusal_is_no_label(
    adapter: ModuleType, serve: Serve, token_file: Path, portrait: bytes, tmp_path: Path
) -> None:
    """Without its token the service refuses: an exception, and no image without a match."""
    from threatexchange.content_type.photo import PhotoContent  # noqa: PLC0415
    from threatexchange.content_type.text import TextContent  # noqa: PLC0415

    (tmp_path / "a.png").write_bytes(portrait)
    with serve(token_file=token_file) as guarded:
        with pytest.raises(OSError, match="token"):
            adapter.UnlensedClassifier(guarded.url).classify(PhotoContent, str(tmp_path / "a.png"))
        known = adapter.UnlensedClassifier(guarded.url, "a" * 32)
        assert "no_face" in known.classify(PhotoContent, str(tmp_path / "a.png")).labels
        with pytest.raises(ValueError, match="text"):
            known.classify(TextContent, "hello")
