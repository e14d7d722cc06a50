"""The head that turns features into whitened principal components, alone and as a part of engines."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.openvino_core import list_operations, ov, read_network
from tests.small_extractor import make_small_extractor
from training.export.features import extract_features
from training.export.head import HeadedExtractor, fit_head, read_head, write_head
from training.export.onnx import export_onnx
from training.export.openvino import convert_extractor, export_extractor
from training.recipes import PAPER_FEATURES, Precision

COMPONENTS = 5


def draw_crops(count: int) -> np.ndarray:
    """Return crops of coloured squares with noise."""
    rng = np.random.default_rng(4)
    squares = rng.integers(20, 230, (count, 7, 7, 3)).repeat(32, axis=1).repeat(32, axis=2)
    return np.clip(squares + rng.normal(0, 10, squares.shape), 0, 255).astype(np.uint8)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), components=st.integers(1, 6))
def test_components_are_white(seed: int, components: int) -> None:
    """The fitted rows have mean 0 and covariance I, whatever the features' scales, and a constant one is harmless."""
    rng = np.random.default_rng(seed)
    features = rng.normal(0, 1, (200, 9)) @ rng.normal(0, 1, (9, 9)) * 10.0 ** rng.uniform(-2, 2, 9) + 3
    features[:, 4] = 7.0
    matrix, offset = fit_head(features, components)
    assert matrix.shape == (9, components)
    white = features @ matrix.astype(np.float64) + offset
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(np.cov(white.T, bias=True).reshape(components, -1), np.eye(components), atol=1e-3)


def test_components_explain_the_most_variance() -> None:
    """Three features that vary together count more than one of any scale that varies alone."""
    rng = np.random.default_rng(0)
    common, alone = rng.normal(0, 1, (500, 1)), rng.normal(0, 1000, (500, 1))
    matrix, _ = fit_head(np.hstack([common + rng.normal(0, 0.1, (500, 3)), alone]), 1)
    assert np.abs(matrix[:3, 0]).min() > 0.2
    assert abs(matrix[3, 0] * 1000) < 0.1


@pytest.mark.parametrize("rows", [np.ones((50, 6)), np.random.default_rng(0).normal(size=(4, 6))])
def test_too_few_directions_are_refused(rows: np.ndarray) -> None:
    """Equal crops, and fewer crops than components, are refused with what to do."""
    with pytest.raises(ValueError, match="have no 4 principal components that vary: prepare more"):
        fit_head(rows, 4)


def test_a_head_is_read_as_written(tmp_path: Path) -> None:
    """The file has both arrays; without one, the error names the command."""
    with pytest.raises(FileNotFoundError, match=r"no head.npz: run `unlensed-train fit`"):
        read_head(tmp_path / "head.npz")
    written = fit_head(np.random.default_rng(1).normal(size=(30, 6)), 3)
    write_head(tmp_path / "head.npz", *written)
    for one, two in zip(read_head(tmp_path / "head.npz"), written, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "precision", "least_correlation"),
    [
        ("xml", "fp32", 0.9999),
        ("xml", "fp16", 0.999),
        ("xml", "int8", 0.9),
        ("onnx", "fp16", 0.999),
        ("onnx", "int8", 0.9),
    ],
)
def test_engines_contain_the_head(tmp_path: Path, suffix: str, precision: Precision, least_correlation: float) -> None:
    """An engine at every precision gives the components; at int8, only their inputs are quantised."""
    network, crops = make_small_extractor(), draw_crops(40)
    with torch.inference_mode():
        features = network(torch.from_numpy(crops)).numpy()
    matrix, offset = fit_head(features, COMPONENTS)
    export = export_extractor if suffix == "xml" else export_onnx
    path = export(HeadedExtractor(network, matrix, offset), tmp_path / "headed", precision, crops)
    found = extract_features(path, crops, 1, COMPONENTS)
    expected = features @ matrix + offset
    for column in range(COMPONENTS):
        assert np.corrcoef(found[:, column], expected[:, column])[0, 1] > least_correlation
    plain = export(network, tmp_path / "plain", precision, crops)
    before_head = extract_features(plain, crops, 1, PAPER_FEATURES)
    np.testing.assert_allclose(found, before_head @ matrix + offset, atol=0.02)


def test_the_product_of_the_head_is_not_quantised() -> None:
    """It is the only product of matrices in an extractor of convolutions, and the last one in any."""
    network = make_small_extractor()
    headed = HeadedExtractor(network, np.ones((PAPER_FEATURES, 2), np.float32), np.zeros(2, np.float32))
    model = convert_extractor(headed, 224)
    (product,) = [node for node in model.get_ordered_ops() if node.get_type_name() == "MatMul"]
    assert list_operations(model, "MatMul")[-1] == product.get_friendly_name()


def test_the_first_convolution_is_not_quantised(tmp_path: Path) -> None:
    """Its weights stay floating-point numbers, and those of the other convolutions become int8."""
    path = export_extractor(make_small_extractor(), tmp_path, "int8", draw_crops(8))
    first, *others = [node for node in read_network(path).get_ordered_ops() if node.get_type_name() == "Convolution"]
    assert not has_int8_weights(first)
    assert others
    assert all(map(has_int8_weights, others))


def has_int8_weights(node: ov.Node) -> bool:
    """Return whether the weights of an operation are converted from int8 constants."""
    weights = node.input_value(1).get_node()
    while weights.get_type_name() != "Constant":
        weights = weights.input_value(0).get_node()
    return bool(weights.get_element_type().get_type_name() == "i8")
