"""Training batches made on the device: their pixels against the worker threads' and how many a second there are."""

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import cv2
import numpy as np
import torch
from clock import time_wall, warm_up
from part import Part
from training_speed import make_noise

from training.data.manipulations import make_sampler
from training.data.shards import WIDE_SIZE
from training.pretext.batches import BatchMaker, BatchPlan, CpuBatchMaker, iterate_epoch
from training.pretext.batches_cuda import CudaBatchMaker
from training.recipes import starter

LEVELS, MEAN_LEVELS = 4, 0.1  # grey levels of smooth pictures


def measure(part: Part) -> None:
    """State grey levels first, faces a second then."""
    cv2.setNumThreads(1)
    size, batches = part.choose((256, 4), (8, 2))
    faces = make_noise(size * batches)
    smooth = cv2.GaussianBlur(faces.wide[0], (0, 0), 6).astype(np.float32)
    smooth = ((smooth - smooth.mean()) * 12 + 128).clip(0, 255).astype(np.uint8)
    for row, picture in enumerate(faces.wide[:size]):
        picture[:] = np.roll(smooth, 7 * row, axis=(0, 1))
    # Copies and processing are made on the CPU only.
    plain = {"copiers": None, "processing": False, "processed_ranking": 0.0}
    augment = dataclasses.replace(starter().augment, warps=part.choose(8, 1), **plain)
    recipe = dataclasses.replace(starter(), batch_size=size, augment=augment)
    plan = BatchPlan(faces, make_sampler(recipe.preprocess.size, WIDE_SIZE, augment, recipe.seed), recipe)
    device = CudaBatchMaker(plan, torch.device(part.device))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        rows, augmentations = list(range(size)), [plan.draw_augmentation(0, 0, stream) for stream in range(size)]
        makers: dict[str, BatchMaker] = {"device": device, "CPU": CpuBatchMaker(plan)}
        crops = [
            maker.finish(
                [maker.prepare(*face) for face in zip(rows, augmentations, strict=True)],
                faces.tags[rows],
                augmentations,
            ).crops
            for maker in makers.values()
        ]
        apart = (crops[0].cpu().int() - crops[1].int()).abs()
        part.record("largest difference of a pixel", apart.max().item(), "levels", at_most=LEVELS)
        part.record("mean difference of pixels", apart.float().mean().item(), "levels", at_most=MEAN_LEVELS)
        for name, maker in makers.items():

            def draw(maker: BatchMaker = maker) -> None:
                for _ in islice(iterate_epoch(plan, maker, 0, 0, pool), batches):
                    pass

            warm_up(draw, "cpu")
            part.record(f"made on the {name}", size * batches / time_wall(draw, part.device, 3), "faces/s")
