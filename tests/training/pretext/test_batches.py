"""Batches depend on seed, epoch and step only."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ingest.dali import FaceCropper
from ingest.probe import EncodedFace, probe_image
from ingest.spec import FaceBox, PreprocessSpec
from tests.training.data.drawn_photos import ROLES, DrawnPhotos, make_cutter, prepare_drawn
from tests.training.data.drawn_photos import draw as draw_photo
from tests.training.pretext.tiny_training import make_faces, make_recipe
from training.data.indexing import index_run
from training.data.manipulations import FaceSampler, make_sampler
from training.data.shards import WIDE_SIZE, load_role
from training.pretext.batch_makers import choose_batch_maker
from training.pretext.batches import Batch, BatchPlan, CpuBatchMaker, draw_balanced, iterate_epoch
from training.pretext.batches_cuda import CudaBatchMaker, area_weights
from training.pretext.classes import KINDS, UNKNOWN
from training.pretext.copiers import build_copier
from training.pretext.copying import FaceCopier
from training.pretext.optimiser import make_optimiser, rate_factor, set_rates
from training.recipes import (
    AugmentRule,
    LossRule,
    Manipulation,
    OptimiserRule,
    Recipe,
    exif_only,
    face_only,
    paper,
    released,
    starter,
)

FACES, BATCH = 14, 4
PLAIN = {"copiers": None, "processing": False, "processed_ranking": 0.0}


@pytest.fixture(scope="module")
def sampler() -> FaceSampler:
    """A sampler for small crops."""
    return make_sampler(32, WIDE_SIZE, replace(starter().augment, warps=1, **PLAIN), seed=3)


def make_plan(sampler: FaceSampler, losses: LossRule | None = None, **changes: int) -> BatchPlan:
    """Return a plan for 14 faces with crops of 32 px, in batches of four."""
    faces = make_faces(FACES)
    faces = replace(faces, crops=np.ascontiguousarray(faces.crops[:, :32, :32]))
    fields = {"rank": changes.pop("rank", 0), "ranks": changes.pop("ranks", 1)}
    recipe = make_recipe(**{"seed": 1, "batch_size": BATCH, "losses": losses or LossRule()} | changes)
    return BatchPlan(faces, sampler, recipe, **fields)


def draw(plan: BatchPlan, epoch: int = 0, first_step: int = 0, workers: int = 2) -> list[Batch]:
    """Return the batches of an epoch from `first_step` on."""
    with ThreadPoolExecutor(workers) as pool:
        return list(iterate_epoch(plan, CpuBatchMaker(plan), epoch, first_step, pool))


def assert_same(batches: list[Batch], others: list[Batch]) -> None:
    """Compare bit by bit."""
    assert len(batches) == len(others)
    for one, two in zip(batches, others, strict=True):
        for field in fields(Batch):
            pair = [getattr(batch, field.name) for batch in (one, two)]
            torch.testing.assert_close(*pair, rtol=0, atol=0, equal_nan=True)


def test_an_epoch_shows_each_face_once(sampler: FaceSampler) -> None:
    """Every batch is full, no face appears twice, and the next epoch has another order."""
    plan = make_plan(sampler)
    assert plan.steps == len(draw(plan)) == FACES // BATCH
    orders = [np.concatenate([plan.select_rows(epoch, step) for step in range(plan.steps)]) for epoch in range(2)]
    for order in orders:
        assert len(set(order.tolist())) == plan.steps * BATCH
    assert orders[0].tolist() != orders[1].tolist()


def test_workers_change_no_pixel(sampler: FaceSampler) -> None:
    """One worker and five make the same batches; another epoch or seed gives others."""
    plan = make_plan(sampler)
    batches = draw(plan, workers=1)
    assert_same(batches, draw(plan, workers=5))
    assert not torch.equal(batches[0].crops, draw(plan, epoch=1)[0].crops)
    assert not torch.equal(batches[0].crops, draw(make_plan(sampler, seed=2))[0].crops)


def test_an_epoch_can_resume_at_any_step(sampler: FaceSampler) -> None:
    """From a later step on, the epoch has the same remaining batches."""
    plan = make_plan(sampler)
    batches = draw(plan)
    for step in range(plan.steps + 1):
        assert_same(draw(plan, first_step=step), batches[step:])


def test_ranks_share_the_batch_of_one_process(sampler: FaceSampler) -> None:
    """The concatenated shares of two ranks are the batch of one process."""
    whole = draw(make_plan(sampler))
    shares = [draw(make_plan(sampler, rank=rank, ranks=2)) for rank in range(2)]
    joined = [
        Batch(*(torch.cat([getattr(share, field.name) for share in pair]) for field in fields(Batch)))
        for pair in zip(*shares, strict=True)
    ]
    assert_same(joined, whole)


def test_only_ranked_crops_have_cameras_and_only_manipulated_ones_have_kinds(sampler: FaceSampler) -> None:
    """A served crop has a camera, a manipulated one a kind; all else is unknown."""
    plan = make_plan(sampler, LossRule(camera_weight=0.1, kind_weight=0.2))
    cameras = np.array(["a", "b", "other"])[np.arange(FACES) % 3]
    plan = replace(plan, faces=replace(plan.faces, cameras=cameras), cameras=("a", "b"))
    for step, batch in enumerate(draw(plan)):
        rows = plan.select_rows(0, step)
        served, resampled = batch.cameras[::2], batch.cameras[1::2]
        assert served.tolist() == [{"a": 0, "b": 1, "other": UNKNOWN}[name] for name in cameras[rows]]
        assert (resampled == UNKNOWN).all()
        drawn = [plan.draw_augmentation(0, step, place).kind for place in range(BATCH)]
        assert batch.kinds[1::2].tolist() == [
            UNKNOWN if kind is Manipulation.NONE else KINDS.index(kind) for kind in drawn
        ]
        assert (batch.kinds[::2] == UNKNOWN).all()


def test_balanced_sources_are_drawn_less_often_the_more_faces_they_have() -> None:
    """A source with 100 times the faces has 10 times the draws."""
    sources = np.repeat(["many", "few"], [10_000, 100])
    rows = draw_balanced(sources, np.random.default_rng(1))
    assert len(rows) == len(sources)
    few = (sources[rows] == "few").mean()
    assert few == pytest.approx(1 / 11, abs=0.01)
    np.testing.assert_array_equal(rows, draw_balanced(sources, np.random.default_rng(1)))


def test_an_epoch_of_balanced_sources_has_as_many_draws_as_faces(sampler: FaceSampler) -> None:
    """The draws of an epoch depend on the seed and the epoch; ranks share them."""
    plan = make_plan(sampler)
    plan = replace(plan, recipe=replace(plan.recipe, balance_sources=True))
    sources = np.array(["a"] * (FACES - 1) + ["b"])
    plan = replace(plan, faces=replace(plan.faces, sources=sources))
    order = np.concatenate([plan.select_rows(0, step) for step in range(plan.steps)])
    assert len(order) == plan.steps * BATCH
    np.testing.assert_array_equal(order, draw_balanced(sources, np.random.default_rng([1, 0]))[: len(order)])


def test_an_error_in_a_worker_is_raised(sampler: FaceSampler) -> None:
    """An exception of a worker thread is raised where the batch is read."""
    broken = make_plan(sampler)
    broken = replace(broken, faces=broken.faces.select(np.arange(FACES)))
    broken.faces.wide.resize((0,), refcheck=False)
    with pytest.raises(IndexError):
        draw(broken)


def test_the_device_resamples_as_the_cpu(sampler: FaceSampler) -> None:
    """The GPU's code, run on the CPU, equals the workers but for OpenCV's rounding."""
    recipe = make_recipe(seed=2, batch_size=FACES)
    plan = BatchPlan(make_faces(FACES), replace(sampler, size=224), recipe)
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
    assert difference[::2].max() == 0  # as served
    assert difference[1::2].max() <= 2
    assert difference[1::2].float().mean() < 0.02
    torch.testing.assert_close(found.manipulated, expected.manipulated, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(found.tags, expected.tags, rtol=0, atol=0, equal_nan=True)


def test_area_weights_are_means() -> None:
    """Each pixel of a reduced picture is the mean of the pixels that it covers."""
    weights = area_weights(6, 4)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(4))
    torch.testing.assert_close(weights[1], torch.tensor([0, 1 / 3, 2 / 3, 0, 0, 0]))


def test_ranked_crops_are_those_that_are_served(tmp_path: Path) -> None:
    """Ranked crops are, byte for byte, what the scorer's cropper cuts."""
    cutter = make_cutter(tmp_path)
    inputs, records = prepare_drawn(tmp_path, DrawnPhotos(9), cutter, ROLES)
    index_run(tmp_path, records, inputs, paper())
    faces = load_role(tmp_path, "train")
    recipe = replace(paper(), batch_size=len(faces), augment=AugmentRule(warps=1))
    sampler = make_sampler(recipe.preprocess.size, WIDE_SIZE, recipe.augment, recipe.seed)
    plan = BatchPlan(faces, sampler, recipe)
    batch = draw(plan)[0]
    cropper = FaceCropper(PreprocessSpec(), 1, len(faces))
    box = FaceBox(20, 20, 50, 60)
    files = [draw_photo(int(faces.photos[row].removesuffix(".jpg"))) for row in plan.select_rows(0, 0)]
    served = cropper.crop([EncodedFace.around(data, probe_image(data), box, recipe.preprocess) for data in files])
    assert np.array_equal(batch.crops[::2].numpy(), np.stack(served))
    # The manipulation task would show them smoothed.
    assert (batch.crops[1::2].numpy() != np.stack(served)).any(axis=(1, 2, 3)).all()


def has_labels(batch: Batch) -> list[tuple[bool, bool]]:
    """Return for each crop whether it is ranked and whether it is classified."""
    ranked, classified = ~batch.tags.isnan().all(dim=1), ~batch.manipulated.isnan()
    return list(zip(ranked.tolist(), classified.tolist(), strict=True))


@pytest.mark.parametrize(
    ("recipe", "labels"),
    [
        (paper(), [(True, False), (False, True)]),
        (released(), [(True, False), (True, True)]),
        (exif_only(), [(True, False)]),
        (face_only(), [(False, True)]),
    ],
    ids=lambda value: value.name if isinstance(value, Recipe) else "",
)
def test_each_face_has_a_crop_for_each_trained_task(
    sampler: FaceSampler, recipe: Recipe, labels: list[tuple[bool, bool]]
) -> None:
    """Ranked crops come first; in the release the crops of the manipulation task are ranked, too."""
    plan = make_plan(sampler, recipe.losses)
    for batch in draw(plan):
        assert has_labels(batch) == labels * BATCH
        if len(labels) > 1:
            assert batch.tags[::2].isfinite().all()
            assert not torch.equal(batch.crops[::2], batch.crops[1::2])
    kinds = [plan.draw_augmentation(0, 0, place).kind for place in range(BATCH)]
    if (False, True) in labels:
        manipulated = draw(plan)[0].manipulated
        assert manipulated[~manipulated.isnan()].tolist() == [float(kind is not Manipulation.NONE) for kind in kinds]


def test_only_a_rule_that_mirrors_changes_a_served_crop(sampler: FaceSampler) -> None:
    """Ranked crops are the stored ones, mirrored if the recipe says so."""
    for mirrors in (False, True):
        plan = make_plan(replace(sampler, rule=replace(sampler.rule, mirror=mirrors)), LossRule(manipulation_weight=0))
        rows = plan.select_rows(0, 0)
        crops, stored = draw(plan)[0].crops.numpy(), plan.faces.crops[rows]
        mirrored = [plan.draw_augmentation(0, 0, place).mirrored for place in range(BATCH)]
        assert any(mirrored) == mirrors
        for crop, same, flipped in zip(crops, stored, mirrored, strict=True):
            assert np.array_equal(crop, same[:, ::-1] if flipped else same)


@pytest.fixture(scope="module")
def copying() -> FaceSampler:
    """The starter's sampler with untrained copiers; most of its manipulated faces are copies."""
    rule = starter().augment
    rule = replace(rule, warps=1, copiers=replace(rule.copiers, share=0.8))
    with torch.random.fork_rng():
        torch.manual_seed(4)
        copier = FaceCopier(tuple(build_copier(kind).eval() for kind in rule.copiers.kinds))
    return make_sampler(32, WIDE_SIZE, rule, 3, copier)


def test_copies_and_processed_crops_depend_on_the_step_only(copying: FaceSampler) -> None:
    """Workers, a later first step and ranks change no pixel of copies and of processed crops."""
    plan = make_plan(copying)
    batches = draw(plan, workers=1)
    kinds = [plan.draw_augmentation(0, step, place).kind for step in range(plan.steps) for place in range(BATCH)]
    assert Manipulation.COPY in kinds
    labels = torch.cat([batch.manipulated[1::2] for batch in batches])
    assert labels.tolist() == [float(kind is not Manipulation.NONE) for kind in kinds]
    assert_same(batches, draw(plan, workers=3))
    assert_same(batches[1:], draw(plan, first_step=1))
    share = draw(make_plan(copying, rank=1, ranks=2))[0]
    assert torch.equal(share.crops, batches[0].crops[BATCH:])


def test_a_share_of_the_ranked_crops_is_processed(copying: FaceSampler) -> None:
    """About half of the ranked crops are processed; the others are as served."""
    plan = make_plan(copying, LossRule(manipulation_weight=0))
    served, count = 0, 0
    for epoch in range(6):
        for step, batch in enumerate(draw(plan, epoch)):
            rows = plan.select_rows(epoch, step)
            assert batch.tags.numpy() == pytest.approx(plan.faces.tags[rows])
            for place, (crop, stored) in enumerate(zip(batch.crops.numpy(), plan.faces.crops[rows], strict=True)):
                mirrored = plan.draw_augmentation(epoch, step, place).mirrored
                served += np.array_equal(crop, stored[:, ::-1] if mirrored else stored)
                count += 1
    assert 0.3 < served / count < 0.7


def test_batches_with_copies_are_made_on_the_cpu(copying: FaceSampler, sampler: FaceSampler) -> None:
    """Copied and processed faces come from worker threads, also for a GPU."""
    for rule in (copying.rule, replace(copying.rule, copiers=None), replace(copying.rule, processing=False)):
        plan = make_plan(replace(copying, rule=rule))
        assert isinstance(choose_batch_maker(plan, torch.device("cuda")), CpuBatchMaker)
    assert isinstance(choose_batch_maker(make_plan(sampler), torch.device("cpu")), CpuBatchMaker)
    # On the CPU and with other recipes on the GPU, ranked crops can be processed, too.
    ranked = make_plan(replace(sampler, rule=replace(sampler.rule, processed_ranking=1.0)))
    augmentation = ranked.draw_augmentation(0, 0, 0)
    crops = [
        maker.prepare(0, augmentation)[0]
        for maker in (CpuBatchMaker(ranked), CudaBatchMaker(ranked, torch.device("cpu")))
    ]
    assert np.array_equal(*crops)


@pytest.mark.parametrize(("cosine_epochs", "stepwise"), [(None, True), (3, False)])
def test_rates_follow_torch_s_cosine(cosine_epochs: int | None, *, stepwise: bool) -> None:
    """The rate equals torch's cosine annealing, also where it rises again."""
    rule = OptimiserRule("coupled", 1e-5, 1e-5, 1e-4, cosine_epochs=cosine_epochs, rate_floor=1e-7, stepwise=stepwise)
    epochs, steps = 6, 4
    network = torch.nn.Linear(2, 2)
    ours = make_optimiser(network, rule)
    theirs = torch.optim.Adam(network.parameters(), lr=1e-5)
    period = (cosine_epochs or epochs) * (steps if stepwise else 1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, period, eta_min=1e-7)
    for step in range(epochs * steps):
        set_rates(ours, rule, rate_factor(rule, step, steps, epochs))
        assert ours.param_groups[0]["lr"] == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)
        theirs.step()
        if stepwise or (step + 1) % steps == 0:
            schedule.step()
