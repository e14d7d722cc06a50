"""Training steps of ResNet-50 at 224 x 224 in BF16: training.pretext's own, beside the bare network."""

import dataclasses
import os

import torch
from clock import measure_gemm
from part import Part
from training_speed import measure as measure_steps

from training.recipes import paper

TRAINING_FLOP = 3 * 8.2e9  # of one image: forward, and twice that backward
WHOLE_SHARE = 0.9  # of the bare pass: the input must not bind


def measure(part: Part) -> None:
    """State images per second of whole steps and of the bare forward and backward pass of the same network."""
    recipe = paper()
    size = part.choose(recipe.batch_size, 2)
    augment = dataclasses.replace(recipe.augment, warps=part.choose(8, 1))  # made before the first step, not in it
    recipe = dataclasses.replace(recipe, batch_size=size, augment=augment)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    ceiling = measure_gemm(part.device, torch.bfloat16)
    part.record("a large BF16 product", ceiling / 1e12, "TFLOP/s")
    images = 2 * size  # one crop of each face for each task
    steps, rounds = part.choose((6, 5), (1, 1))
    whole, bare = measure_steps(recipe, steps, rounds, torch.device(part.device))
    part.record(f"whole steps, batch {size}, BF16", images / whole[0], "images/s")
    part.record(f"bare forward and backward, batch {size}, BF16", images / bare[0], "images/s")
    part.record("whole steps of the bare pass", bare[0] / whole[0], "x", at_least=WHOLE_SHARE)
    part.record("whole steps of the dense BF16 ceiling", images / whole[0] * TRAINING_FLOP / ceiling, "x")
