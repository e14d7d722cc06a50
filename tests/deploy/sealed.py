"""Run a program as a container would: unprivileged, read-only, and without this machine's checkout and homes.

Linux namespaces do it; root may. What is left out: limits of memory and processes, seccomp, and the image's own root:
the programs and libraries below /usr are this machine's.
"""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

# $1 is a file with one visible folder on each line; then the hidden folders, --, and the command.
_SEAL = """
set -eu
list=$1; shift
mount -t tmpfs tmpfs /mnt
number=0
while read -r folder; do
  number=$((number + 1)); mkdir /mnt/$number; mount --bind "$folder" /mnt/$number
done < "$list"
exec 3< "$list"
while [ "$1" != -- ]; do mount -t tmpfs -o mode=755 tmpfs "$1"; shift; done
shift
mount -t tmpfs -o mode=1777,size=64m tmpfs /tmp  # before the folders, which can be below /tmp
number=0
while read -r folder <&3; do
  number=$((number + 1)); mkdir -p "$folder"; mount --bind /mnt/$number "$folder"
  mount -o remount,bind,ro "$folder"
done
umount -l /mnt
awk '$2 !~ "^/(proc|sys|dev)(/|$)" && $2 != "/tmp" { print $2 }' /proc/mounts > /dev/shm/mounts.$$
while read -r point; do mount -o remount,bind,ro "$point" 2>/dev/null || true; done < /dev/shm/mounts.$$
rm /dev/shm/mounts.$$
mount -t tmpfs -o mode=1777,size=64m tmpfs /dev/shm
cd /tmp
exec "$@"
"""


def can_seal() -> bool:
    """Return whether this user may create mount namespaces and switch to another user."""
    if not (shutil.which("unshare") and shutil.which("setpriv")):
        return False
    probe = ["unshare", "--mount", "--propagation", "private", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def seal(
    command: Sequence[str], *, user: str, environment: Mapping[str, str], seen: Sequence[Path], scratch: Path
) -> list[str]:
    """Return the command line that runs `command` as `user`, without all folders but `seen`."""
    uid, gid = user.split(":")
    listing = scratch / "seen.txt"
    listing.write_text("".join(f"{folder.resolve()}\n" for folder in seen))
    tops = {f"/{folder.resolve().parts[1]}" for folder in (*seen, scratch)}
    hidden = sorted(tops - {"/usr", "/opt", "/tmp"} | {"/home", "/root"})  # noqa: S108 - a new /tmp is mounted
    drop = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
    clean = ["env", "--ignore-environment", *(f"{name}={value}" for name, value in environment.items())]
    inner = [*drop, "--inh-caps=-all", *clean, *command]
    return [
        *("unshare", "--mount", "--propagation", "private", "--ipc"),
        *("sh", "-c", _SEAL, "seal", str(listing), *hidden, "--", *inner),
    ]
