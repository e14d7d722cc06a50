"""Losses and gradients do not depend on micro-batches and processes."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.pretext.rank_worker import CLASSIFYING, FACES, make_double_network, make_pictures, measure_gradients
from tests.training.pretext.tiny_training import make_recipe, read_log, train_tiny
from training.pretext.backward import accumulate_gradients, embed, has_bf16, pause_running_statistics
from training.pretext.distributed import Ranks
from training.pretext.ranking import combine_losses

TIMEOUT_S = 240
WORKER = Path(__file__).with_name("rank_worker.py")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """One thread, so that sums of floats have the same order in all processes of these tests."""
    torch.set_num_threads(1)


def test_one_micro_batch_is_the_usual_backward_pass() -> None:
    """The split at the features has the gradients of one backward pass."""
    recipe = make_recipe(centred_heads=True)
    losses, gradients, _ = measure_gradients(recipe, Ranks(), frozen_statistics=False)
    network, batch = make_double_network(recipe, frozen_statistics=False), make_pictures()
    expected = combine_losses(network(batch.crops), batch.tags, batch.manipulated, recipe.losses)
    expected.total.backward()
    torch.testing.assert_close(losses.total, expected.total)
    for name, value in network.named_parameters():
        torch.testing.assert_close(gradients[name], value.grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("micro_batch", [1, 5, FACES])
def test_micro_batches_keep_the_pairs_of_the_whole_batch(micro_batch: int) -> None:
    """Any micro-batches have gradients and losses of the whole batch."""
    recipe = make_recipe(centred_heads=True, losses=CLASSIFYING)
    whole_losses, whole, _ = measure_gradients(recipe, Ranks(), frozen_statistics=True)
    cut = make_recipe(centred_heads=True, micro_batch=micro_batch, losses=CLASSIFYING)
    losses, gradients, _ = measure_gradients(cut, Ranks(), frozen_statistics=True)
    torch.testing.assert_close(losses.total, whole_losses.total, rtol=1e-12, atol=0)
    for name, value in whole.items():
        torch.testing.assert_close(gradients[name], value, rtol=1e-10, atol=1e-14)


def test_classifiers_add_their_weighted_cross_entropy() -> None:
    """The total grows by the weighted cross-entropies of known classes, as in NumPy."""
    plain, _, _ = measure_gradients(make_recipe(), Ranks(), frozen_statistics=True)
    losses, gradients, network = measure_gradients(make_recipe(losses=CLASSIFYING), Ranks(), frozen_statistics=True)
    batch = make_pictures()
    with torch.no_grad():
        features = network.extractor(batch.crops)
        logits = {task: head(features).numpy() for task, head in network.classifiers.items()}
    expected = {}
    for task, labels in (("camera", batch.cameras.numpy()), ("kind", batch.kinds.numpy())):
        known = labels >= 0
        assert 0 < known.sum() < FACES
        chosen = logits[task][known]
        expected[task] = np.mean(np.log(np.exp(chosen).sum(axis=1)) - chosen[np.arange(known.sum()), labels[known]])
        assert losses.classes[task].item() == pytest.approx(expected[task])
        assert gradients[f"classifiers.{task}.weight"].abs().max() > 0
    total = plain.total.item() + 0.1 * expected["camera"] + 0.2 * expected["kind"]
    assert losses.total.item() == pytest.approx(total)
    assert not plain.classes


def test_running_statistics_count_each_micro_batch_once() -> None:
    """Two passes update batch normalisation like one, with the same features."""
    recipe = make_recipe(micro_batch=4)
    _, _, network = measure_gradients(recipe, Ranks(), frozen_statistics=False)
    once = make_double_network(recipe, frozen_statistics=False)
    micro_batches = make_pictures().crops.split(4)
    features = [once.extractor(crops) for crops in micro_batches]
    assert torch.equal(network.extractor.norm.running_mean, once.extractor.norm.running_mean)
    assert network.extractor.norm.num_batches_tracked == len(micro_batches)
    with pause_running_statistics(once.extractor):
        again = [once.extractor(crops) for crops in micro_batches]
    assert all(torch.equal(one, two) for one, two in zip(features, again, strict=True))
    assert once.extractor.norm.track_running_stats
    assert once.extractor.norm.num_batches_tracked == len(micro_batches)


@pytest.mark.skipif(not has_bf16("cpu"), reason="this CPU has no BF16 arithmetic")
def test_bf16_applies_to_the_extractor_only() -> None:
    """With BF16 the features are less precise FP32 values, and the FP32 weights get gradients."""
    recipe = make_recipe(bf16=True)
    network, batch = make_double_network(recipe, frozen_statistics=True).float(), make_pictures()
    crops = batch.crops.float()
    bf16_features, features = (embed(network.extractor, crops, bf16=bf16) for bf16 in (True, False))
    assert bf16_features.dtype == torch.float32
    assert 1e-4 < float((bf16_features - features).abs().max().detach()) < 0.1
    batch = replace(batch, crops=crops, tags=batch.tags.float(), manipulated=batch.manipulated.float())
    losses = accumulate_gradients(network, network.extractor, batch, recipe, Ranks())
    assert losses.total.dtype == torch.float32
    assert network.get_parameter("extractor.last.weight").grad.dtype == torch.float32


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """Two processes have the gradients and the loss curve of one."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    workers = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(tmp_path)],
            env=os.environ
            | {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            | {"GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(WORKER.parents[3])},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [worker.communicate(timeout=TIMEOUT_S)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], errors
    recipe = make_recipe(centred_heads=True, losses=CLASSIFYING)
    _, expected, _ = measure_gradients(recipe, Ranks(), frozen_statistics=True)
    for name in ("None", "2"):
        with np.load(tmp_path / f"{name}.npz") as arrays:
            assert set(arrays.files) == set(expected)
            for parameter, values in expected.items():
                np.testing.assert_allclose(arrays[parameter], values.numpy(), rtol=1e-9, atol=1e-12)
    train_tiny(tmp_path / "alone", make_recipe(micro_batch=1))
    ours, alone = read_log(tmp_path / "run"), read_log(tmp_path / "alone")
    # Only losses are compared: the running statistics of batch normalisation, used in validation, are rank 0's.
    for one, two in zip(ours, alone, strict=True):
        for name in (name for name in one if name.startswith("loss")):
            assert one[name] == pytest.approx(two[name], rel=1e-5, abs=1e-5)
