"""Batches are a function of seed, epoch and step: not of workers, ranks, or where a training was taken up."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch

from tests.training.pretext.tiny_training import make_faces
from training.data.manipulations import FaceSampler, make_sampler
from training.data.shards import WIDE_SIZE
from training.pretext.batches import Batch, BatchPlan, CpuBatches, choose_maker, draw_epoch
from training.pretext.batches_cuda import CudaBatches, area_weights, make_pipeline, reduce_area
from training.pretext.optimiser import cosine_share, make_optimiser, set_rates
from training.recipes import AugmentRule, OptimiserRule

FACES, BATCH = 14, 4


@pytest.fixture(name="sampler", scope="module")
def fixture_sampler() -> FaceSampler:
    """A sampler for small crops."""
    return make_sampler(32, WIDE_SIZE, AugmentRule(warps=1), seed=3)


def draw(plan: BatchPlan, epoch: int = 0, first_step: int = 0, workers: int = 2) -> list[Batch]:
    """Return the rest of an epoch."""
    with ThreadPoolExecutor(workers) as pool:
        return list(draw_epoch(plan, CpuBatches(plan), epoch, first_step, pool))


def assert_same(batches: list[Batch], others: list[Batch]) -> None:
    """Compare to the last bit."""
    assert len(batches) == len(others)
    for one, two in zip(batches, others, strict=True):
        assert torch.equal(one.crops, two.crops)
        assert torch.equal(one.manipulated, two.manipulated)
        torch.testing.assert_close(one.tags, two.tags, rtol=0, atol=0, equal_nan=True)


def test_an_epoch_shows_each_face_once(sampler: FaceSampler) -> None:
    """Every batch is full, no face comes twice, and the next epoch has another order."""
    plan = BatchPlan(make_faces(FACES), sampler, seed=1, batch_size=BATCH)
    assert plan.steps == len(draw(plan)) == FACES // BATCH
    orders = [np.concatenate([plan.pick_rows(epoch, step) for step in range(plan.steps)]) for epoch in range(2)]
    for order in orders:
        assert len(set(order.tolist())) == plan.steps * BATCH
    assert orders[0].tolist() != orders[1].tolist()


def test_workers_change_no_pixel(sampler: FaceSampler) -> None:
    """One worker and five draw the same batches; another epoch or seed draws others."""
    plan = BatchPlan(make_faces(FACES), sampler, seed=1, batch_size=BATCH)
    batches = draw(plan, workers=1)
    assert_same(batches, draw(plan, workers=5))
    assert not torch.equal(batches[0].crops, draw(plan, epoch=1)[0].crops)
    other = BatchPlan(plan.faces, sampler, seed=2, batch_size=BATCH)
    assert not torch.equal(batches[0].crops, draw(other)[0].crops)


def test_an_epoch_can_be_taken_up_anywhere(sampler: FaceSampler) -> None:
    """From a later step on, and after its end, the epoch goes on with the batches it would have had."""
    plan = BatchPlan(make_faces(FACES), sampler, seed=1, batch_size=BATCH)
    batches = draw(plan)
    for step in range(plan.steps + 1):
        assert_same(draw(plan, first_step=step), batches[step:])


def test_ranks_share_the_batch_of_one_process(sampler: FaceSampler) -> None:
    """Two ranks' shares, put together, are one process's batch."""
    faces = make_faces(FACES)
    whole = draw(BatchPlan(faces, sampler, seed=1, batch_size=BATCH))
    shares = [draw(BatchPlan(faces, sampler, seed=1, batch_size=BATCH, rank=rank, ranks=2)) for rank in range(2)]
    joined = [
        Batch(*(torch.cat(pair) for pair in ((a.crops, b.crops), (a.tags, b.tags), (a.manipulated, b.manipulated))))
        for a, b in zip(*shares, strict=True)
    ]
    assert_same(joined, whole)


def test_a_failing_face_is_not_swallowed(sampler: FaceSampler) -> None:
    """What goes wrong in a worker is raised where the batch is taken."""
    faces = make_faces(FACES)
    broken = BatchPlan(faces.select(np.arange(FACES)), sampler, seed=1, batch_size=BATCH)
    broken.faces.wide.resize((0,), refcheck=False)
    with pytest.raises(IndexError):
        draw(broken)


def test_device_halves_are_the_cpu_s_chain(sampler: FaceSampler) -> None:
    """What the GPU path computes beside DALI's remap: maps mirrored into the picture, mirrored crops, and areas."""
    plan = BatchPlan(make_faces(FACES), sampler, seed=1, batch_size=BATCH)
    plan.faces.wide[:] = np.random.default_rng(5).integers(0, 256, plan.faces.wide.shape)
    weights = area_weights(WIDE_SIZE, sampler.size)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(sampler.size))
    maker = CudaBatches.__new__(CudaBatches)  # without its pipeline, which needs a driver
    maker.plan = plan
    for place in range(FACES):
        draw = plan.draw_face(0, 0, place)
        face, across, down = maker.prepare(place, draw)
        assert min(across.min(), down.min()) >= 0
        assert max(across.max(), down.max()) <= WIDE_SIZE - 1
        turned = cv2.remap(face, across.copy(), down.copy(), cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        crop = reduce_area(torch.from_numpy(turned)[None], weights)[0].numpy().astype(int)
        assert np.abs(crop - plan.cut_face(place, draw)).max() <= 1


def test_device_pipeline_is_well_formed() -> None:
    """DALI accepts operators, arguments and types of the pipeline that only a GPU can run."""
    pipeline = make_pipeline(2, None)
    assert pipeline.max_batch_size == 2
    with pytest.raises(RuntimeError, match=r"(?i)gpu|device"):  # all that is wrong with it here
        pipeline.build()


def test_a_cpu_needs_no_dali(sampler: FaceSampler) -> None:
    """Networks on a CPU get their batches from the worker threads alone."""
    plan = BatchPlan(make_faces(FACES), sampler, seed=1, batch_size=BATCH)
    assert isinstance(choose_maker(plan, torch.device("cpu")), CpuBatches)


@pytest.mark.parametrize(("cosine_epochs", "stepwise"), [(None, True), (3, False)])
def test_rates_follow_torch_s_cosine(cosine_epochs: int | None, *, stepwise: bool) -> None:
    """The rate as a function of the step is torch's cosine annealing, also where that rises again."""
    rule = OptimiserRule("coupled", 1e-5, 1e-5, 1e-4, cosine_epochs=cosine_epochs, rate_floor=1e-7, stepwise=stepwise)
    epochs, steps = 6, 4
    network = torch.nn.Linear(2, 2)
    ours = make_optimiser(network, rule)
    theirs = torch.optim.Adam(network.parameters(), lr=1e-5)
    period = (cosine_epochs or epochs) * (steps if stepwise else 1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, period, eta_min=1e-7)
    for step in range(epochs * steps):
        set_rates(ours, rule, cosine_share(rule, step, steps, epochs))
        assert ours.param_groups[0]["lr"] == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)
        theirs.step()
        if stepwise or (step + 1) % steps == 0:
            schedule.step()
