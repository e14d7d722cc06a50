"""A whole evaluation with a real engine: its report, its files and its errors."""

import io
import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from rich.console import Console

from ingest.spec import PreprocessSpec
from scorer.bundle.calibration import load_calibration
from scorer.decide import Calibration, p_values
from scorer.meaning import explain_pass
from scorer.strata import Stratum
from tests.scorer.archive.report.test_run_page import ParsedPage
from training.evaluation.evaluate import (
    Evaluation,
    EvaluationFaces,
    HeldOutPhotographs,
    compare_by_protocol,
    compare_features,
    find_strata,
)
from training.evaluation.face_scorer import FaceScorer
from training.evaluation.generated import list_generators
from training.evaluation.inputs import Comparisons, EvaluatedRun, compare_whole_pictures
from training.evaluation.published import ACCURACY, AUC, PRECISION
from training.evaluation.report import pick_thresholds
from training.evaluation.run import measure_run
from training.evaluation.stated import state_evaluation
from training.evaluation.tables import list_tables, print_tables
from training.recipes import Recipe

ODD_NAME = "<b>odd&name"


class PageReader(ParsedPage):
    """The tags and attributes of a page, whose tags must nest."""

    VOID: ClassVar = {"meta", "br", "link", "img"}

    def __init__(self, text: str) -> None:
        self.open: list[str] = []
        super().__init__(text)
        self.close()
        self.tags = Counter(tag for tag, _ in self.elements)
        self.attributes = [(name, value or "") for _, attrs in self.elements for name, value in attrs.items()]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open a tag."""
        super().handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep an empty tag."""
        super().handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        """Close the innermost tag."""
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(report: dict[str, Any], evaluated: EvaluatedRun) -> PageReader:
    """The parsed report."""
    assert report
    return PageReader((evaluated.run / "evaluation.html").read_text())


def test_json_is_the_report(report: dict[str, Any], evaluated: EvaluatedRun) -> None:
    """`evaluation.json` is strict JSON and contains what the command returns."""
    text = (evaluated.run / "evaluation.json").read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")) == report


def test_pictures_without_a_face_are_counted(report: dict[str, Any]) -> None:
    """Files that are no picture and pictures without a face are left out and counted."""
    assert report["run"]["generated"]["plain"] == {
        "pictures": 6,
        "faces": 4,
        "dropped": {"no_face": 1, "unsupported_format": 1},
    }


def test_figures_come_from_the_deployed_engine(report: dict[str, Any], evaluated: EvaluatedRun) -> None:
    """The threshold is the 5th percentile of the engine's values of fitted photographs."""
    scorer = FaceScorer(evaluated.engines["int8"], evaluated.mixture, 1)
    features = scorer.embed(evaluated.load_role("fit").crops)
    assert report["comparable"]["threshold_nats"] == pytest.approx(np.sort(scorer.score_features(features))[1])
    assert report["engines"]["int8"]["drift"]["max_nats"] == 0  # the same graph is used for both precisions here


def test_features_do_not_depend_on_the_batch(evaluated: EvaluatedRun) -> None:
    """A crop has bit-identical features alone and among 80."""
    scorer = FaceScorer(evaluated.engines["int8"], evaluated.mixture, 1)
    crops = np.tile(evaluated.load_role("test").crops, (5, 1, 1, 1))
    np.testing.assert_array_equal(scorer.embed(crops)[70:72], scorer.embed(crops[70:72]))


def test_a_calibration_too_small_for_a_rate_gives_none(report: dict[str, Any], page: PageReader) -> None:
    """24 held-out faces support 5 % but not 1 %, so there is no figure for 1 %."""
    flagged = report["operating_points"]["flagged"]
    assert flagged["0.05"]["photographs"] is not None
    assert flagged["0.01"]["photographs"] is None
    assert "too small for that rate" in page.text


def test_report_is_self_contained(page: PageReader, evaluated: EvaluatedRun) -> None:
    """The page has no script and no external picture, style sheet, font or link."""
    assert not {"script", "img", "image", "link", "iframe", "object", "foreignobject"} & page.tags.keys()
    assert page.tags["svg"] == 6
    addresses = [value for name, value in page.attributes if name in {"href", "xlink:href", "src", "srcset", "data"}]
    assert addresses
    assert all(address.startswith("#") for address in addresses)
    text = (evaluated.run / "evaluation.html").read_text()
    assert "@import" not in text
    assert "data:" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    addresses = set(re.findall(r"https?://[^\s\"'<]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names of namespaces


def test_report_is_well_formed(page: PageReader) -> None:
    """Every tag is closed, every id is unique, and every reference has its id."""
    assert not page.open
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    references = {value[1:] for name, value in page.attributes if name.endswith("href")}
    references |= set(re.findall(r"url\(#([^)]*)\)", " ".join(value for _, value in page.attributes)))
    assert references <= set(ids)


def test_report_escapes_and_hides_names(page: PageReader, report: dict[str, Any], evaluated: EvaluatedRun) -> None:
    """A generator's name is escaped; the sources of photographs are numbers."""
    assert page.tags["b"] == 0
    assert page.text.count(ODD_NAME) > 5
    assert "private.example" in report["operating_points"]["flagged"]["0.05"]["by_source"]
    assert "private.example" not in (evaluated.run / "evaluation.html").read_text()
    assert "real source 2" in page.text


def test_report_begins_with_the_meaning_of_pass(page: PageReader, report: dict[str, Any]) -> None:
    """Data, meaning of a pass, verdict, operating points, protocol: in this order."""
    on_pass = explain_pass(state_evaluation(report), 0.05)
    assert "8 of 8 generated faces (100 %) passed at a review rate of 5 %" in on_pass
    positions = [
        page.text.index(part)
        for part in (
            "Evaluated: 8 generated faces",
            on_pass,
            report["verdict"]["summary"],
            "against photographs of other sources",
            "Table I",
            "Data and limits",
        )
    ]
    assert positions == sorted(positions)
    assert "fake" not in page.text.lower()


def test_same_figures_make_the_same_svg(report: dict[str, Any], evaluated: EvaluatedRun) -> None:
    """The charts are also written as files, without a date and with their unit."""
    assert report
    figures = {path.stem: path.read_text() for path in (evaluated.run / "figures").glob("*.svg")}
    assert set(figures) == {"roc", "precision_recall", "likelihoods", "robustness", "features", "components"}
    assert "nats" in figures["likelihoods"]
    assert not [name for name, svg in figures.items() if "<dc:date>" in svg]


def test_published_figures_are_marked_and_unknown_ones_are_dashes(report: dict[str, Any]) -> None:
    """Table I cites the paper's averages in rows of their own."""
    table = list_tables(report)[1]
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["published: the paper's method, K=8"] == ("-", "86.63", "93.01", "93.43")
    assert rows["published: its follow-up BLADES, one-class"] == ("-", "88.01", "-", "95.05")
    assert "arXiv 2501.02207" in table.note
    assert rows["plain"][0] == "4"
    screen = io.StringIO()
    print_tables(report, Console(file=screen, width=120))
    assert "86.63" in screen.getvalue()


def test_other_features_and_runs_fill_tables_two_and_three(report: dict[str, Any]) -> None:
    """Table II has the compared features' AUCs, Table III the other runs."""
    tables = {table.title: table for table in list_tables(report)}
    two, three = tables["Table II: AUC of features, by generator"], tables["Table III: pretext tasks and components"]
    assert two.head == ("generator", "ours", "colours")
    assert [row[0] for row in two.rows] == [ODD_NAME, "plain", "average of 2"]
    for column, compared in ((1, report["comparable"]), (2, report["features"]["colours"])):
        printed = [float(row[column]) for row in two.rows]
        assert printed[0] == pytest.approx(100 * compared["generators"][ODD_NAME]["auc"], abs=0.005)
        assert printed[2] == pytest.approx(sum(printed[:2]) / 2, abs=0.01)
    assert [row[1:3] for row in three.rows[:2]] == [("starter", "EXIF and face"), ("exif_only", "EXIF")]
    assert three.rows[1] == ("before", "exif_only", "EXIF", "full K=12", "50.00", "25.00", "12.50")


def test_the_paper_s_tables_stand_beside_ours(report: dict[str, Any], page: PageReader) -> None:
    """Both tables are as published; averages are right, except two of the paper."""
    published = {table.title: table for table in list_tables(report) if "as published" in table.title}
    assert list(published) == ["Table I, as published", "Table II, as published"]
    for table in published.values():
        assert "Not measured here" in table.note
        assert table.title in page.text
    assert published["Table I, as published"].rows[4][-1] == "78.62 / 87.60"  # SDv2.1, the paper's method
    assert published["Table II, as published"].rows[0][1:] == ("33.99", "34.35", "69.71", "67.91", "85.69")
    misprints = {("accuracy", "LGrad"): 0.08, ("precision", "Ours"): 0.04}
    for kind, rows in (("accuracy", ACCURACY), ("precision", PRECISION), ("auc", AUC)):
        for method, cells in rows.items():
            *values, average = map(float, cells)
            assert len(values) == 9
            off = sum(values) / 9 - average
            assert off == pytest.approx(misprints.get((kind, method), 0), abs=0.0075), (kind, method)


def test_the_number_of_components_is_shown_and_not_chosen_on(
    report: dict[str, Any], page: PageReader, evaluated: EvaluatedRun
) -> None:
    """Each number has its figures; the deployed one those of Table I."""
    rows = report["components"]
    assert list(rows) == ["1", "4"]
    assert rows["1"]["average"] == report["comparable"]["average"]
    assert rows["4"]["average"]["auc"] != rows["1"]["average"]["auc"]
    (table,) = [table for table in list_tables(report) if table.title.startswith("Fig. 4")]
    assert table.rows[1][:4] == ("4", "fit diag K=4", "-3.2", "50.0%")
    assert "were not used to choose" in table.note
    assert "Shown, not chosen on" in page.text
    assert ">deployed<" in (evaluated.run / "figures" / "components.svg").read_text()


def test_compared_features_are_fitted_by_the_recipe_s_rule(evaluated: EvaluatedRun) -> None:
    """One diagonal component gives the result of a mean and variances computed here."""
    scorer = FaceScorer(evaluated.engines["int8"], evaluated.mixture, 1)
    rule = evaluated.recipe.mixture
    pictures = EvaluationFaces(
        {role: evaluated.load_role(role) for role in ("fit", "test")}, {"g": evaluated.load_role("calibrate").crops}
    )
    features = scorer.embed(evaluated.load_role("fit").crops).astype(float)
    variance = features.var(axis=0) + rule.variance_floor * features.var(axis=0).mean()

    def score(crops: np.ndarray) -> np.ndarray:
        distances = (scorer.embed(crops) - features.mean(axis=0)) ** 2 / variance
        return -(distances + np.log(2 * np.pi * variance)).sum(axis=1) / 2

    ours = compare_features(scorer.embed, pictures, evaluated.recipe)
    expected = compare_by_protocol(score, pictures, ["fit"], evaluated.recipe)
    assert ours.average.auc == pytest.approx(expected.average.auc, abs=0.01)
    assert ours.threshold_nats == pytest.approx(expected.threshold_nats, abs=2)  # stored factors are half precision


def test_whole_pictures_are_compared_with_a_mixture_of_their_own(
    evaluated: EvaluatedRun, pictures: Path, tmp_path: Path
) -> None:
    """Whole pictures are compared, even those without a face."""
    for role, generator in (("fit", "plain"), ("test", ODD_NAME)):
        shutil.copytree(pictures / generator, tmp_path / role)
    scorer = FaceScorer(evaluated.engines["int8"], evaluated.mixture, 1)
    folders = tmp_path, list_generators(pictures)
    comparison = compare_whole_pictures(scorer, evaluated, folders, tmp_path, Console(file=io.StringIO()))
    assert comparison.generators[ODD_NAME].auc == 0.5  # the same pictures in both classes
    crops = np.load(tmp_path / "image-plain-224.npy")[:5]
    assert crops[:, 0, 0].std() > 0  # corners, far from any face
    assert comparison.generators["plain"].count == 4  # of five pictures, limited by the number of photographs


@pytest.mark.parametrize("count", [20, 59, 99, 103, 2899])
def test_drawn_thresholds_are_those_of_the_p_values(count: int) -> None:
    """A face is flagged below the line; an unsupported rate has none."""
    calibration = np.arange(float(count))
    lines = pick_thresholds(calibration)
    assert len(lines) == (2 if count >= 99 else 1)
    for rate, line in zip((0.05, 0.01), lines.values(), strict=False):
        below, on = p_values(np.array([line - 0.5, line]), calibration)
        assert below <= rate < on


def test_a_log_likelihood_that_is_not_finite_is_an_error(evaluated: EvaluatedRun) -> None:
    """NaN would make every figure wrong."""
    scorer = FaceScorer(evaluated.engines["int8"], evaluated.mixture, 1)
    scorer.score_features = lambda features: np.full(len(features), np.nan)  # as after an overflow
    test = evaluated.load_role("test")
    held_out = HeldOutPhotographs(Calibration(np.zeros(1)), {"all": 1})
    evaluation = Evaluation(scorer, PreprocessSpec(), held_out, test, (test.sources, test.photos), {})
    with pytest.raises(ValueError, match="no finite log-likelihood"):
        evaluation.evaluate(Console(file=io.StringIO()))


def test_figures_are_the_p_values_that_the_bundle_serves(report: dict[str, Any], evaluated: EvaluatedRun) -> None:
    """Faces are compared with their stratum, here 5 nats above all together."""
    test, scorer = evaluated.load_role("test"), FaceScorer(evaluated.engines["int8"], evaluated.mixture, 1)
    calibration = load_calibration(evaluated.results / "calibration.npz")
    assert find_strata(test.short_sides, test.jpeg_qualities) == [Stratum.HIGH_QUALITY] * 20
    values = scorer.log_likelihoods(test.crops)
    flagged = [float((p_values(values, part) <= 0.05).mean()) for part in (calibration.pooled, calibration.pooled + 5)]
    assert report["operating_points"]["flagged"]["0.05"]["photographs"]["value"] == flagged[1]
    assert report["robustness"][0]["false_alarms"]["0.05"]["value"] == flagged[1]


def test_processed_copies_stand_in_report_and_page(report: dict[str, Any], page: PageReader) -> None:
    """Copies have AUCs, shares and control; equalised figures are those of JPEG 90."""
    rows = {row["name"]: row for row in report["robustness"]}
    assert list(rows)[:6] == ["as stored", "JPEG 90", "JPEG 75", "JPEG 50", "half size", "screenshot"]
    equalised = report["operating_points"]["format_equalised"]
    assert rows["JPEG 90"]["mean_auc"] == equalised["mean_auc"]
    assert rows["JPEG 90"]["mean_auc"]["value"] == pytest.approx(
        np.mean([r["value"] for r in equalised["auc"].values()])
    )
    assert rows["JPEG 90"]["lowest"]["auc"] == min(rows["JPEG 90"]["auc"].values())
    assert rows["JPEG 90"]["control"]["sources"] == 2
    assert (rows["half size"]["left_out"], rows["half size"]["mean_auc"]) == (8, None)  # generated faces of 100 px
    assert "Processed copies, p-values" not in page.text  # the heading says it
    assert "JPEG 60, then 90" in page.text
    assert "1 % is resolvable from 368 photographs; the calibration has 12" in page.text


def test_errors_say_what_to_do(evaluated: EvaluatedRun, pictures: Path, tmp_path: Path) -> None:
    """Missing generators, faces, photographs and reports are errors."""
    console = Console(file=io.StringIO())

    def refuse(generated: Path, comparisons: Comparisons, sentence: str, recipe: Recipe = evaluated.recipe) -> None:
        with pytest.raises(FileNotFoundError, match=sentence):
            measure_run(replace(evaluated, recipe=recipe), generated, comparisons, console)

    refuse(tmp_path, Comparisons(), "one folder of pictures for each generator")
    (tmp_path / "g").mkdir()
    refuse(tmp_path, Comparisons(), "no picture was found under")
    (tmp_path / "g" / "notes.txt").write_text("no picture")
    refuse(tmp_path, Comparisons(), "no face was found in the 1 pictures of .*'unsupported_format': 1")
    refuse(pictures, Comparisons(), "give --photographs, a folder", replace(evaluated.recipe, test_crop="image"))
    refuse(pictures, Comparisons(runs={"other": tmp_path}), "run `unlensed-train evaluate")
    assert not list(evaluated.run.glob("evaluate-*"))


def test_a_bundle_contains_the_measured_figures(report: dict[str, Any]) -> None:
    """Counts, intervals and AUCs are the report's, and names are printable."""
    stated = state_evaluation(report)
    assert stated is not None
    operating = report["operating_points"]
    share = operating["flagged"]["0.05"]["photographs"]
    assert stated.photographs.faces == report["run"]["test_faces"]
    assert [(each.rate, each.low, each.high) for each in stated.photographs.flagged] == [
        (0.05, share["low"], share["high"])
    ]
    assert stated.photographs.flagged[0].faces == round(share["value"] * share["count"])
    assert set(stated.generated) == {"plain", ODD_NAME}
    for name, sample in stated.generated.items():
        assert (sample.auc, sample.faces) == (operating["raw"]["auc"][name]["value"], 4)
        assert sample.auc_one_format == operating["format_equalised"]["auc"][name]["value"]
    assert "OpenVINO" not in stated.note
    assert "OpenVINO" in state_evaluation(report, through_openvino=True).note
    odd = json.loads(json.dumps(report).replace('"plain"', json.dumps("a\x1b[31m\u202e")))
    assert set(state_evaluation(odd).generated) == {"a\\x1b[31m\\u202e", ODD_NAME}


def test_a_bundle_without_a_supported_rate_has_no_evaluation(report: dict[str, Any]) -> None:
    """Without a measured rate the bundle contains no evaluation."""
    empty = {rate: row | {"photographs": None} for rate, row in report["operating_points"]["flagged"].items()}
    assert state_evaluation(report | {"operating_points": report["operating_points"] | {"flagged": empty}}) is None
