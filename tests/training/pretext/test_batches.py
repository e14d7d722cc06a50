"""Batches depend on seed, epoch and step only, and not on workers, ranks or a resume."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from tests.training.pretext.tiny_training import make_faces
from training.data.manipulations import FaceSampler, Manipulation, make_sampler
from training.data.shards import WIDE_SIZE
from training.pretext.batch_makers import choose_batch_maker
from training.pretext.batches import Batch, BatchPlan, CpuBatchMaker, iterate_epoch
from training.pretext.batches_cuda import CudaBatchMaker, area_weights
from training.pretext.optimiser import cosine_factor, make_optimiser, set_rates
from training.recipes import AugmentRule, OptimiserRule

FACES, BATCH = 14, 4


@pytest.fixture(name="sampler", scope="module")
def fixture_sampler() -> FaceSampler:
    """A sampler for small crops."""
    return make_sampler(32, WIDE_SIZE, AugmentRule(warps=1), seed=3)


def draw(plan: BatchPlan, epoch: int = 0, first_step: int = 0, workers: int = 2) -> list[Batch]:
    """Return the batches of an epoch from `first_step` on."""
    with ThreadPoolExecutor(workers) as pool:
        return list(iterate_epoch(plan, CpuBatchMaker(plan), epoch, first_step, pool))


def assert_same(batches: list[Batch], others: list[Batch]) -> None:
    """Compare bit by bit."""
    assert len(batches) == len(others)
    for one, two in zip(batches, others, strict=True):
        assert torch.equal(one.crops, two.crops)
        assert torch.equal(one.manipulated, two.manipulated)
        torch.testing.assert_close(one.tags, two.tags, rtol=0, atol=0, equal_nan=True)


def test_an_epoch_shows_each_face_once(sampler: FaceSampler) -> None:
    """Every batch is full, no face appears twice, and the next epoch has another order."""
    plan = BatchPlan(make_faces(FACES), sampler, seed=1, batch_size=BATCH)
    assert plan.steps == len(draw(plan)) == FACES // BATCH
    orders = [np.concatenate([plan.select_rows(epoch, step) for step in range(plan.steps)]) for epoch in range(2)]
    for order in orders:
        assert len(set(order.tolist())) == plan.steps * BATCH
    assert orders[0].tolist() != orders[1].tolist()


def test_workers_change_no_pixel(sampler: FaceSampler) -> None:
    """One worker and five make the same batches; another epoch or seed gives others."""
    plan = BatchPlan(make_faces(FACES), sampler, seed=1, batch_size=BATCH)
    batches = draw(plan, workers=1)
    assert_same(batches, draw(plan, workers=5))
    assert not torch.equal(batches[0].crops, draw(plan, epoch=1)[0].crops)
    other = BatchPlan(plan.faces, sampler, seed=2, batch_size=BATCH)
    assert not torch.equal(batches[0].crops, draw(other)[0].crops)


def test_an_epoch_can_resume_at_any_step(sampler: FaceSampler) -> None:
    """From a later step on, the epoch has the same remaining batches."""
    plan = BatchPlan(make_faces(FACES), sampler, seed=1, batch_size=BATCH)
    batches = draw(plan)
    for step in range(plan.steps + 1):
        assert_same(draw(plan, first_step=step), batches[step:])


def test_ranks_share_the_batch_of_one_process(sampler: FaceSampler) -> None:
    """The concatenated shares of two ranks are the batch of one process."""
    faces = make_faces(FACES)
    whole = draw(BatchPlan(faces, sampler, seed=1, batch_size=BATCH))
    shares = [draw(BatchPlan(faces, sampler, seed=1, batch_size=BATCH, rank=rank, ranks=2)) for rank in range(2)]
    joined = [
        Batch(*(torch.cat(pair) for pair in ((a.crops, b.crops), (a.tags, b.tags), (a.manipulated, b.manipulated))))
        for a, b in zip(*shares, strict=True)
    ]
    assert_same(joined, whole)


def test_an_error_in_a_worker_is_raised(sampler: FaceSampler) -> None:
    """An exception of a worker thread is raised where the batch is read."""
    faces = make_faces(FACES)
    broken = BatchPlan(faces.select(np.arange(FACES)), sampler, seed=1, batch_size=BATCH)
    broken.faces.wide.resize((0,), refcheck=False)
    with pytest.raises(IndexError):
        draw(broken)


def test_the_device_resamples_as_the_cpu(sampler: FaceSampler) -> None:
    """The batches of the GPU's code, run on the CPU, equal those of the worker threads except for OpenCV's rounding."""
    plan = BatchPlan(make_faces(FACES), replace(sampler, size=224), seed=2, batch_size=FACES)
    smooth = cv2.GaussianBlur(np.random.default_rng(5).normal(128, 3000, (WIDE_SIZE, WIDE_SIZE, 3)), (0, 0), 9)
    for row, picture in enumerate(plan.faces.wide):
        picture[:] = np.roll(
            smooth.clip(0, 255), 20 * row, axis=(0, 1)
        )  # strong gradients at the edges, which make reflection visible
    with ThreadPoolExecutor(2) as pool:
        makers = (CpuBatchMaker(plan), CudaBatchMaker(plan, torch.device("cpu")))
        (expected,), (found,) = (list(iterate_epoch(plan, maker, 0, 0, pool)) for maker in makers)
    kinds = {plan.draw_augmentation(0, 0, place).kind for place in range(FACES)}
    assert {Manipulation.NONE, Manipulation.PIECEWISE_AFFINE, Manipulation.EYE_FLIP} <= kinds
    assert len({plan.draw_augmentation(0, 0, place).mirrored for place in range(FACES)}) == 2
    difference = (found.crops.int() - expected.crops.int()).abs()
    assert difference.max() <= 2
    assert difference.float().mean() < 0.02
    assert torch.equal(found.manipulated, expected.manipulated)
    torch.testing.assert_close(found.tags, expected.tags, rtol=0, atol=0, equal_nan=True)


def test_area_weights_are_means() -> None:
    """Each pixel of a reduced picture is the mean of the pixels that it covers."""
    weights = area_weights(6, 4)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(4))
    torch.testing.assert_close(weights[1], torch.tensor([0, 1 / 3, 2 / 3, 0, 0, 0]))


def test_a_cpu_s_batches_come_from_the_workers(sampler: FaceSampler) -> None:
    """A network on a CPU gets its batches from the worker threads only."""
    plan = BatchPlan(make_faces(FACES), sampler, seed=1, batch_size=BATCH)
    assert isinstance(choose_batch_maker(plan, torch.device("cpu")), CpuBatchMaker)


@pytest.mark.parametrize(("cosine_epochs", "stepwise"), [(None, True), (3, False)])
def test_rates_follow_torch_s_cosine(cosine_epochs: int | None, *, stepwise: bool) -> None:
    """The rate as a function of the step equals torch's cosine annealing, also where it rises again."""
    rule = OptimiserRule("coupled", 1e-5, 1e-5, 1e-4, cosine_epochs=cosine_epochs, rate_floor=1e-7, stepwise=stepwise)
    epochs, steps = 6, 4
    network = torch.nn.Linear(2, 2)
    ours = make_optimiser(network, rule)
    theirs = torch.optim.Adam(network.parameters(), lr=1e-5)
    period = (cosine_epochs or epochs) * (steps if stepwise else 1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, period, eta_min=1e-7)
    for step in range(epochs * steps):
        set_rates(ours, rule, cosine_factor(rule, step, steps, epochs))
        assert ours.param_groups[0]["lr"] == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)
        theirs.step()
        if stepwise or (step + 1) % steps == 0:
            schedule.step()
