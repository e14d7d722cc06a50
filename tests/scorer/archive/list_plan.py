"""A plan that lists the files of a folder, and a program that scans it, for tests."""

import io
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from scorer.archive.items import Item, Shard
from scorer.archive.scan import Scan
from scorer.local_scorer import LocalScorer
from scorer.messages import RequestedFace
from scorer.payloads.local_file import read_image
from scorer.settings import Settings

FACE = (180.0, 70.0, 95.0, 110.0)


class ListPlan:
    """The sorted files of a folder, `shard_images` in a shard, with the same face boxes for each."""

    def __init__(self, folder: Path, shard_images: int, faces: tuple[RequestedFace, ...] | None = None) -> None:
        self.folder, self._files = folder, sorted(folder.iterdir())
        self._size, self._faces = shard_images, faces

    @property
    def shard_count(self) -> int:
        """How many shards there are."""
        return -(-len(self._files) // self._size)

    def read_shard(self, index: int) -> Shard:
        """Return a shard."""
        return Shard(index, "list", "", index, len(self._slice(index)))

    def read_items(self, shard: Shard, left_out: Counter[str] | None = None) -> Iterator[Item]:  # noqa: ARG002
        """Yield the images of a shard."""
        for path in self._slice(shard.index):
            yield Item(path.name, path.parent.name, path.as_uri(), faces=self._faces)

    def _slice(self, index: int) -> list[Path]:
        return self._files[index * self._size : (index + 1) * self._size]


def read_file(item: Item) -> bytes:
    """Return an item's bytes."""
    return read_image(item.uri, 1 << 25)


def make_archive(folder: Path, portrait: bytes, count: int) -> Path:
    """Write `count` different small photographs around the portrait; every tenth is broken."""
    folder.mkdir()
    original = Image.open(io.BytesIO(portrait)).convert("RGB")
    rng = np.random.default_rng(5)
    for number in range(count):
        shade = original.point([min(255, int(value * rng.uniform(0.7, 1.0))) for value in range(256)] * 3)
        buffer = io.BytesIO()
        shade.save(buffer, "JPEG", quality=int(rng.integers(60, 95)))
        data = buffer.getvalue()
        (folder / f"{number:05d}.jpg").write_bytes(data[: len(data) // 3] if number % 10 == 3 else data)
    return folder


def main() -> None:
    """Scan; the arguments are images, the run's folder, images in a shard and the bundle."""
    images, out, shard_images, bundle = sys.argv[1:5]
    plan = ListPlan(Path(images), int(shard_images), (RequestedFace(face_id="0", box=FACE),))
    scorer = LocalScorer(Settings(bundle=Path(bundle), threads=1, batch_images=8))
    scan = Scan(Path(out), plan, scorer, read_file)
    print("ready", flush=True)  # noqa: T201 - the test waits for it
    scan.run(range(plan.shard_count))


if __name__ == "__main__":
    main()
